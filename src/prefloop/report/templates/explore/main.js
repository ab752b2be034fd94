// The page: one state; every change computes what depends on it and draws.
'use strict';

const PAUSE = 150; // milliseconds without a change after which sentences, tables and address follow

function start() {
  const constants = JSON.parse(document.getElementById('problem').textContent);
  const standard = constants.presets[0].state;
  const by = (id) => document.getElementById(id);
  let state = standard;
  let problem = null;
  let runs = [];
  let waiting = false;
  let stale = true; // whether the runs belong to an earlier state
  let playing = false;
  let pause = 0;

  const show = {
    stage: makeStage(by('stage'), (part) => change(part)),
    sliders: makeSliders(by('sliders'), (part) => change(part)),
    runs: makeRuns(by('runs'), by('add'), constants, (list) => change({ runs: list })),
    presets: makePresets(by('presets'), constants.presets, (preset) => change(preset)),
    figures: makeFigures(by('charts')),
  };
  const player = makePlayer(
    { button: by('play'), slider: by('step'), output: by('at') },
    constants.steps,
    (step, more) => ((playing = more), change({ step })),
  );

  /** Takes over parts of a state, and draws once before the next frame. */
  function change(part) {
    state = { ...state, ...part };
    if (Object.keys(part).some((name) => name !== 'step')) {
      stale = true;
      playing = false;
      player.stop();
    }
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  }

  function draw() {
    if (!waiting) return;
    waiting = false;
    if (stale) {
      problem = problemOf(state, constants);
      runs = outcomes(state, problem, constants);
    }
    stale = false;
    show.sliders(state);
    show.presets(state);
    show.stage(state, problem);
    showMasses(show.runs(state), runs, problem, state.step);
    show.figures.pictures(runs, problem, state.step);
    player.show(state.step);
    clearTimeout(pause);
    if (!playing) pause = setTimeout(settle, PAUSE);
  }

  /** What waits for the end of a movement: sentences, tables, the address, the record of all numbers. */
  function settle() {
    const accounts = runs.map((one) =>
      account(`${one.letter} (${one.name})`, one.seen, exps(one.path[state.step]), problem, state.step),
    );
    const said = [headline(runs, problem, state.step), ...accounts].filter(Boolean);
    by('said').replaceChildren(...said.map((text) => make('p', { textContent: text })));
    by('mass-table').innerHTML = tableText(...massTable(runs, problem, state.step));
    show.figures.tables(runs, state.step);
    by('numbers').textContent = JSON.stringify(record());
    history.replaceState(null, '', toHash(state));
  }

  /** The state, and every measure of every run at every step, at full precision. */
  function record() {
    const { reward, data } = problem;
    const own = runs.map(({ letter, name, run, seen }) => ({ letter, name, ...run, ...seen }));
    return { state, reward: Array.from(reward), data: Array.from(data), runs: own };
  }

  /** The state that the address holds; what cannot be read is said and left at the default. */
  function open() {
    const { state: read, refused } = fromHash(location.hash, standard, constants.methods, constants.steps);
    by('notice').textContent = refused.length
      ? `Not understood in the address, and left at the default: ${refused.join(', ')}.`
      : '';
    change(read);
    draw();
    settle();
  }

  by('reset').addEventListener('click', () => change(structuredClone(standard)));
  by('save').addEventListener('click', () => {
    const link = make('a', { download: 'explore.json' });
    link.href = URL.createObjectURL(new Blob([by('numbers').textContent], { type: 'application/json' }));
    link.click();
    URL.revokeObjectURL(link.href);
  });
  window.addEventListener('hashchange', open);
  window.addEventListener('resize', () => change({}));
  open();
}

start();
