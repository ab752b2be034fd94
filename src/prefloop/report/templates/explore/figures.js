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
  `<li class="b${one.colour}"><span class="chip">${one.letter}</span><svg class="swatch k${one.colour}" viewBox="0 0 26 8" ` +
  `width="26" height="8" aria-hidden="true">${stroke([[0, 4], [26, 4]], 'line', one.dash)}</svg>${escaped(one.name)} <b>${value}</b></li>`;

/** The mass of every run, in its card. */
function showMasses(cards, runs, problem, step) {
  runs.forEach((one, i) => {
    const { picture, now } = cards[i];
    picture.innerHTML = massPicture(picture.clientWidth, one, problem, step);
    const numbers = ` gold ${FORMATS.gold(one.seen.gold[step])} · KL ${FORMATS.kl(one.seen.kl[step])} nats`;
    now.replaceChildren(make('b', { textContent: one.name }), numbers);
  });
}

/** The figures along the steps, in the host; returns functions that show pictures, and tables, of runs at a step. */
function makeFigures(host) {
  const [gold, kl, peak, chosen, rejected] = Object.keys(CURVES).map((name) => {
    const span = name === 'chosen' || name === 'rejected' ? ['chosen', 'rejected'] : [name];
    return {
      ...makeFigure(...CURVES[name]),
      draw: (width, runs, problem, step) => curves(width, name, runs, step, span),
      rows: (runs, step) => measureTable(name, runs, step),
      value: (one, step) => FORMATS[name](one.seen[name][step]),
    };
  });
  const against = {
    ...makeFigure('Gold against KL', 'each run up to the step; dashed: the best that any policy can reach'),
    draw: tradeoff,
    rows: tradeoffTable,
    value: (one, step) => `${FORMATS.kl(one.seen.kl[step])} nats, ${FORMATS.gold(one.seen.gold[step])}`,
  };
  const figures = [gold, against, kl, peak, chosen, rejected];
  host.append(...figures.map((figure) => figure.element));
  return {
    pictures(runs, problem, step) {
      for (const { picture, legend, draw, value } of figures) {
        picture.innerHTML = draw(picture.clientWidth, runs, problem, step);
        legend.innerHTML = runs.map((one) => entry(one, value(one, step))).join('');
      }
    },
    tables(runs, step) {
      for (const { table, rows } of figures) table.innerHTML = tableText(...rows(runs, step));
    },
  };
}
