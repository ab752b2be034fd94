// Sliders of the problem, the rows of methods with their switches, presets and the player.
'use strict';

const LOG_STEPS = 20; // of a logarithmic slider, per power of ten

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const ends = (name) => SLIDERS[name].slice(0, 2).map((x) => (isLog(name) ? Math.round(LOG_STEPS * Math.log10(x)) : x));
const toSlider = (name, x) => (isLog(name) ? LOG_STEPS * Math.log10(x) : x);
const fromSlider = (name, x) => {
  const [low, high] = SLIDERS[name];
  return onGrid(name, clamp(isLog(name) ? 10 ** (x / LOG_STEPS) : x, low, high));
};

/** The sliders of the problem; returns a function that shows a state. */
function makeSliders(host, change) {
  const shown = Object.entries(SLIDERS).map(([name, [, , step, title, words]]) => {
    const [min, max] = ends(name);
    const output = make('output');
    const input = make('input', { type: 'range', id: `slider-${name}`, min, max, step: step || 1 });
    input.addEventListener('input', () => change({ [name]: fromSlider(name, Number(input.value)) }));
    host.append(make('div', { className: 'slider' }, make('label', { htmlFor: input.id, textContent: title }), output, input));
    return (state) => {
      input.value = toSlider(name, state[name]);
      output.textContent = words(state[name]);
      input.setAttribute('aria-valuetext', output.textContent);
    };
  });
  return (state) => shown.forEach((show) => show(state));
}

/** A label with its value above a control. */
function field(text, control) {
  const value = make('b');
  return { element: make('label', { className: 'field' }, make('span', { textContent: text }), value, control), value };
}

const choices = (options) => options.map(([value, textContent]) => make('option', { value, textContent }));

/** The controls of the run at a place: its element, and a function that shows a run in it. */
function makeRun(index, constants, edit, remove) {
  const letter = LETTERS[index];
  const input = (type, label, properties) => {
    const control = make(type, properties);
    control.setAttribute('aria-label', `${letter}: ${label}`);
    return control;
  };
  const share = (label, step) => input('input', label, { type: 'range', min: 0, max: 1, step });
  const controls = {
    method: input('select', 'method'),
    on_policy: share('share of its own samples', 0.25),
    reuse: input('select', 'passes over a collection'),
    negative: share('share of the negative gradient', 0.1),
  };
  const { method, on_policy, reuse, negative } = controls;
  method.append(...choices(Object.entries(constants.methods).map(([key, { label }]) => [key, label])));
  reuse.append(...choices(PASSES.map((n) => [n, `${n} ×`])));
  method.addEventListener('change', () =>
    edit(index, { method: method.value, on_policy: constants.methods[method.value].on_policy }),
  );
  for (const name of COLUMNS) {
    const event = controls[name].type === 'range' ? 'input' : 'change';
    controls[name].addEventListener(event, () => edit(index, { [name]: Number(controls[name].value) }));
  }
  const drop = input('button', 'remove', { type: 'button', className: 'drop', textContent: '×' });
  drop.addEventListener('click', () => remove(index));
  const fields = { on_policy: field('on-policy', on_policy), reuse: field('passes', reuse), negative: field('negative', negative) };
  const chip = make('span', { className: 'chip', textContent: letter });
  const picture = make('div', { className: 'picture' });
  const now = make('p', { className: 'now' });
  const head = make('div', { className: 'head' }, chip, method, drop);
  const switches = make('div', { className: 'switches' }, ...Object.values(fields).map((f) => f.element));
  const element = make('div', {}, head, picture, now, switches);

  function show(run, alone) {
    const still = inert(run);
    element.className = `run b${constants.methods[run.method].colour}`;
    for (const [name, control] of Object.entries(controls)) {
      control.value = run[name];
      control.disabled = Boolean(still[name]);
    }
    fields.on_policy.value.textContent = percent(run.on_policy);
    fields.reuse.value.textContent = still.reuse ? 'no effect' : '';
    fields.negative.value.textContent = still.negative ? 'no effect' : percent(run.negative);
    drop.disabled = alone;
  }
  return { element, show, picture, now };
}

/** The cards of the runs; `change` gets the new list. Returns a function that shows a state and gives the cards. */
function makeRuns(host, add, constants, change) {
  let runs = [];
  let rows = [];
  const edit = (index, part) => change(runs.map((run, i) => (i === index ? { ...run, ...part } : run)));
  const remove = (index) => change(runs.filter((_, i) => i !== index));
  add.addEventListener('click', () => {
    const method = Object.keys(constants.methods).find((key) => !runs.some((run) => run.method === key)) ?? 'dpo';
    change([...runs, { method, on_policy: constants.methods[method].on_policy, reuse: 1, negative: 1 }]);
  });
  return (state) => {
    runs = state.runs;
    if (rows.length !== runs.length) {
      rows = runs.map((_, i) => makeRun(i, constants, edit, remove));
      host.replaceChildren(...rows.map((row) => row.element));
    }
    rows.forEach((row, i) => row.show(runs[i], runs.length === 1));
    add.disabled = runs.length >= LETTERS.length;
    return rows;
  };
}

/** Buttons of prepared problems; returns a function that marks the one that is shown. */
function makePresets(host, presets, change) {
  const known = (state) => toHash({ ...state, step: 0 });
  const buttons = presets.map(({ title, note, state }) => {
    const button = make('button', { type: 'button', className: 'preset' });
    button.append(make('b', { textContent: title }), make('span', { textContent: note }));
    button.addEventListener('click', () => change(structuredClone(state)));
    host.append(button);
    return [button, known(state)];
  });
  return (state) => buttons.forEach(([button, text]) => button.setAttribute('aria-pressed', String(text === known(state))));
}

/** Play, pause and the step; `change` gets the step. */
function makePlayer({ button, slider, output }, steps, change) {
  const SECONDS = 8;
  let step = 0;
  let began = null; // time at which step 0 would have been shown, while playing
  const stop = () => ((began = null), show(step));
  function tick() {
    if (began === null) return;
    const next = Math.min(steps, Math.floor(((performance.now() - began) * steps) / (1000 * SECONDS)));
    if (next !== step) change(next, next < steps);
    if (next >= steps) stop();
    else requestAnimationFrame(tick);
  }
  button.addEventListener('click', () => {
    if (began !== null) return change(step, false), stop();
    const from = step >= steps ? 0 : step;
    began = performance.now() - (from * 1000 * SECONDS) / steps;
    change(from, true);
    requestAnimationFrame(tick);
  });
  slider.max = steps;
  slider.addEventListener('input', () => ((began = null), change(Number(slider.value), false)));
  function show(now) {
    step = now;
    slider.value = step;
    output.textContent = `${step} of ${steps}`;
    button.textContent = began === null ? '▶ Play' : '❚❚ Pause';
  }
  return { show, stop: () => (began = null) };
}
