// What the user has chosen, as a value; and its text in the address.
'use strict';

// name: [lowest, highest, step (0: logarithmic), title, its value in words]
const SLIDERS = {
  peak: [0, 99, 1, 'Reward’s peak', (x) => `arm ${x}`],
  width: [3, 30, 1, 'Width of the peak', (x) => `${x} arms`],
  coverage: [0, 1, 0.05, 'Data from the reference', percent],
  centre: [0, 99, 1, 'The other data around', (x) => `arm ${x}`],
  beta: [0.01, 1, 0, 'β', String],
  rate: [0.3, 100, 0, 'Learning rate', String],
};
const PASSES = [1, 2, 4, 8];
const LETTERS = 'ABCD';
const COLUMNS = ['on_policy', 'reuse', 'negative'];

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const isLog = (name) => SLIDERS[name][2] === 0;
/** To the slider's grid: a multiple of its step, or two significant digits. */
const onGrid = (name, x) =>
  isLog(name) ? Number(x.toPrecision(2)) : Number((Math.round(x / SLIDERS[name][2]) * SLIDERS[name][2]).toFixed(2));

/** The text of a state after the # of the address. */
function toHash(state) {
  const numbers = [...Object.keys(SLIDERS), 'step'].map((name) => `${name}=${state[name]}`);
  const runs = state.runs.map((run) => [run.method, ...COLUMNS.map((name) => run[name])].join(','));
  return `#${numbers.join('&')}&runs=${runs.join(';')}`;
}

/** A state and the names of what could not be read: those parts are the default's. */
function fromHash(hash, standard, methods, steps) {
  const state = structuredClone(standard);
  const refused = [];
  const pairs = decodeURIComponent(hash.replace(/^#/, '')).split('&').filter(Boolean);
  for (const pair of pairs) {
    const [name, value] = pair.split('=');
    const range = name === 'step' ? [0, steps] : SLIDERS[name];
    const number = Number(value);
    if (name === 'runs') {
      const runs = (value || '').split(';').map((text) => runOf(text, methods));
      if (runs.length <= LETTERS.length && runs.every(Boolean)) state.runs = runs;
      else refused.push(name);
    } else if (range && value && number >= range[0] && number <= range[1]) {
      state[name] = name === 'step' ? Math.round(number) : onGrid(name, number);
    } else refused.push(name);
  }
  return { state, refused };
}

/** `dpo,0,1,1`: method, share of on-policy samples, passes, share of the negative gradient; null if it is no run. */
function runOf(text, methods) {
  const [method, ...values] = text.split(',');
  const [on_policy, reuse, negative] = values.map(Number);
  const share = (x) => x >= 0 && x <= 1;
  const valid = Object.hasOwn(methods, method) && values.length === 3 && share(on_policy) && share(negative);
  return valid && PASSES.includes(reuse) ? { method, on_policy, reuse, negative } : null;
}

/** The distributions that a state describes. */
function problemOf(state, constants) {
  const reference = Float64Array.from(constants.reference);
  return {
    reference,
    logRef: reference.map(Math.log),
    reward: bump(state.peak, state.width, reference.length),
    data: dataLaw(reference, state.coverage, state.centre, constants.data_width),
    centre: state.peak,
    width: state.width,
    beta: state.beta,
    rate: state.rate,
  };
}

/** Every run trained and measured, with its letter, name and look. */
function outcomes(state, problem, constants) {
  const looks = dashes(state.runs);
  return state.runs.map((run, i) => {
    const path = train(run, problem, constants.steps);
    const { label, colour } = constants.methods[run.method];
    const name = nameOf(run, constants.methods);
    return { run, letter: LETTERS[i], name, label, colour, dash: looks[i], path, seen: measures(path, problem) };
  });
}

/** A method has one colour, and its variants other dashes; offline ones are never solid. */
function dashes(runs) {
  const used = {};
  return runs.map((run) => {
    const known = (used[run.method] ??= new Set());
    const dash = [0, 1, 2, 3].find((d) => !known.has(d) && (d > 0 || run.on_policy > 0)) ?? 3;
    known.add(dash);
    return dash;
  });
}
