// Figures of the page: a picture with its legend and its table, which has the same numbers.
'use strict';

const ROWS = 10; // rows of a table along the steps
const BINS = 10; // stretches of arms in the table of the mass

/** Text of a table's body and head; every cell is text of ours or a formatted number. */
function tableText(head, rows) {
  const cells = (values, tag) => values.map((x) => `<${tag}${tag === 'th' ? ' scope="col"' : ''}>${escaped(x)}</${tag}>`);
  const body = rows.map((row) => `<tr>${cells(row, 'td').join('')}</tr>`).join('');
  return `<thead><tr>${cells(head, 'th').join('')}</tr></thead><tbody>${body}</tbody>`;
}

/** Steps of the rows: evenly spaced, and the one that is shown. */
function shownSteps(steps, step) {
  const even = Array.from({ length: ROWS + 1 }, (_, i) => Math.round((i * steps) / ROWS));
  return [...new Set([...even, step])].sort((a, b) => a - b);
}

/** Head and rows of a measure's table. */
function measureTable(name, runs, step) {
  const head = ['step', ...runs.map((one) => `${one.letter} ${one.name}`)];
  const rows = shownSteps(runs[0].path.length - 1, step).map((at) => [
    String(at),
    ...runs.map((one) => FORMATS[name](one.seen[name][at])),
  ]);
  return [head, rows];
}

/** Head and rows of gold against KL. */
function tradeoffTable(runs, step) {
  const head = ['step', ...runs.flatMap((one) => [`${one.letter} KL`, `${one.letter} gold`])];
  const rows = shownSteps(runs[0].path.length - 1, step).map((at) => [
    String(at),
    ...runs.flatMap((one) => [FORMATS.kl(one.seen.kl[at]), FORMATS.gold(one.seen.gold[at])]),
  ]);
  return [head, rows];
}

/** Head and rows of the mass in stretches of arms: reference, data, and every run at the step. */
function massTable(runs, problem, step) {
  const arms = problem.reference.length;
  const columns = [
    ['reference', problem.reference],
    ['data', problem.data],
    ...runs.map((one) => [`${one.letter} ${one.name}`, exps(one.path[step])]),
  ].map(([name, law]) => [name, binned(law, BINS)]);
  const rewards = binned(problem.reward, BINS).map((sum) => (sum * BINS) / arms);
  const rows = rewards.map((reward, i) => [
    `${(i * arms) / BINS}–${((i + 1) * arms) / BINS - 1}`,
    ...columns.map(([, law]) => percent(law[i])),
    fixed(reward, 2),
  ]);
  return [['arms', ...columns.map(([name]) => name), 'mean reward'], rows];
}

/** An empty figure with a title: its parts are filled by `show`. */
function makeFigure(title, note) {
  const picture = make('div', { className: 'picture' });
  const legend = make('ul', { className: 'legend' });
  const table = make('table', { className: 'numbers' });
  const scroll = make('div', { className: 'scroll', tabIndex: 0 }, table);
  const details = make('details', {}, make('summary', { textContent: 'Numbers' }), scroll);
  const caption = make('figcaption', {}, make('h3', { textContent: title }), make('p', { textContent: note }));
  return { element: make('figure', {}, caption, picture, legend, details), picture, legend, table };
}

/** A legend entry: letter, sample of the line, name, and the value at the step. */
const entry = (one, value) =>
  `<li class="b${one.colour}"><span class="chip">${one.letter}</span><svg class="sample k${one.colour}" viewBox="0 0 26 8" ` +
  `width="26" height="8" aria-hidden="true">${stroke([[0, 4], [26, 4]], 'line', one.dash)}</svg>${escaped(one.name)} <b>${value}</b></li>`;

/** The figures of the results; returns a function that shows runs at a step. */
function makeFigures(masses, charts) {
  const made = {
    gold: makeFigure(...CURVES.gold),
    tradeoff: makeFigure('Gold against KL', 'each run up to the step shown; the dashed line is the best that any policy can reach'),
    ...Object.fromEntries(['kl', 'peak', 'chosen', 'rejected'].map((name) => [name, makeFigure(...CURVES[name])])),
  };
  charts.append(...Object.values(made).map((figure) => figure.element));
  const spans = { chosen: ['chosen', 'rejected'], rejected: ['chosen', 'rejected'] };
  let mass = [];
  return function show(runs, problem, step) {
    if (mass.length !== runs.length) {
      mass = runs.map(() => make('div', { className: 'panel' }, make('p'), make('div', { className: 'picture' })));
      masses.replaceChildren(...mass);
    }
    runs.forEach((one, i) => {
      const [title, picture] = mass[i].children;
      mass[i].className = `panel b${one.colour}`;
      const [gold, kl] = [FORMATS.gold(one.seen.gold[step]), FORMATS.kl(one.seen.kl[step])];
      title.innerHTML = `<span class="chip">${one.letter}</span> <b>${escaped(one.name)}</b> <span>gold ${gold} · KL ${kl}</span>`;
      picture.innerHTML = massPicture(picture.clientWidth, one, problem, step);
    });
    for (const [name, figure] of Object.entries(made)) {
      const width = figure.picture.clientWidth;
      const whole = name === 'tradeoff';
      figure.picture.innerHTML = whole
        ? tradeoff(width, runs, problem, step)
        : curves(width, name, runs, step, spans[name] ?? [name]);
      const value = (one) =>
        whole ? `${FORMATS.kl(one.seen.kl[step])} nats, ${FORMATS.gold(one.seen.gold[step])}` : FORMATS[name](one.seen[name][step]);
      figure.legend.innerHTML = runs.map((one) => entry(one, value(one))).join('');
      figure.table.innerHTML = tableText(...(whole ? tradeoffTable(runs, step) : measureTable(name, runs, step)));
    }
  };
}
