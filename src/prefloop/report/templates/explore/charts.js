// The pictures of the results: the mass of each run, curves along the steps, and gold against KL.
'use strict';

const CHART = 230;
const CARD = 190;
const MASS = [0, 0.01, 0.1, 0.25, 0.5, 1]; // ticks of a square-root axis, which shows the tails and a spike alike
const CURVES = {
  gold: ['Gold reward', 'E_π[r], the policy’s mean reward'],
  kl: ['KL to the reference', 'KL(π‖π_ref) in nats'],
  peak: ['Mass within the peak', 'share of the policy’s mass within one width of the reward’s centre'],
  chosen: ['Log-prob of the chosen', 'mean log π of the better response, over the pairs of the data'],
  rejected: ['Log-prob of the rejected', 'mean log π of the worse response, over the same pairs'],
};

/** A law as a stepped outline over the arms. */
function outline(p, law) {
  const points = [[p.x(-0.5), p.bottom]];
  law.forEach((q, a) => points.push([p.x(a - 0.5), p.y(q)], [p.x(a + 0.5), p.y(q)]));
  return [...points, [p.x(law.length - 0.5), p.bottom]];
}

const armAxis = (arms) => {
  const ticks = [0, 25, 50, 75, arms - 1];
  return { low: -0.5, high: arms - 0.5, ticks, labels: ticks.map(String), title: 'arm' };
};

/** One run: its mass over the reference's, with the reward. */
function massPicture(width, one, problem, step) {
  const law = exps(one.path[step]);
  const x = armAxis(law.length);
  const y = { low: 0, high: 1, root: true, ticks: MASS, labels: MASS.map(String) };
  const p = plane(width, CARD, x, y, { left: 38, right: 8 });
  const top = (a) => p.bottom - problem.reward[a] * (p.bottom - p.top);
  const body = [
    frame(p, x, y),
    area(outline(p, problem.reference), 'reference'),
    stroke(Array.from(law, (_, a) => [p.x(a), top(a)]), 'reward'),
    `<g class="k${one.colour}">${area(outline(p, law), 'mass')}${stroke(outline(p, law), 'line')}</g>`,
  ];
  return drawing(p, `${one.name}: probability of each arm after ${step} steps`, body.join(''));
}

/** An axis that covers values: from tick to tick, or a little further. */
function axisOf(values, title) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const known = ticks(low, high);
  return { low: Math.min(low, known[0]), high: Math.max(high, known[known.length - 1]), ticks: known, title };
}

/** Letters at the ends of curves, moved apart where they would overlap. */
function letters(p, ends) {
  const placed = [...ends].sort((a, b) => a.y - b.y);
  for (let i = 1; i < placed.length; i++) placed[i].y = Math.max(placed[i].y, placed[i - 1].y + 13);
  for (let i = placed.length - 1, low = p.bottom; i >= 0; i--, low = placed[i + 1].y - 13)
    placed[i].y = Math.min(placed[i].y, low);
  return placed.map(({ y, one }) => `<g class="k${one.colour}">${words(p.right + 8, y + 4, one.letter, 'letter')}</g>`);
}

/** One measure of every run along the steps. */
function curves(width, name, runs, step, span) {
  const steps = runs[0].path.length - 1;
  const x = { low: 0, high: steps, ticks: ticks(0, steps), title: 'step' };
  const shared = span.flatMap((key) => runs.flatMap((one) => one.seen[key]));
  const y = axisOf(name === 'gold' || name === 'peak' ? [0, 1] : shared, '');
  const p = plane(width, CHART, x, y);
  const lines = runs.map((one) => {
    const points = one.seen[name].map((v, i) => [p.x(i), p.y(v)]);
    return `<g class="k${one.colour}">${stroke(points, 'line', one.dash)}${dot(points[step])}</g>`;
  });
  const ends = runs.map((one) => ({ y: p.y(one.seen[name][steps]), one }));
  const cursor = stroke([[p.x(step), p.top], [p.x(step), p.bottom]], 'cursor');
  return drawing(p, `${CURVES[name][0]} along the steps`, frame(p, x, y) + cursor + lines.join('') + letters(p, ends).join(''));
}

/** Gold against KL: the path of every run up to the step, below the best that any policy can reach. */
function tradeoff(width, runs, problem, step) {
  const best = frontier(problem);
  const furthest = Math.max(0.5, ...runs.flatMap((one) => one.seen.kl));
  const x = { ...axisOf([0, furthest], 'KL(π‖π_ref), nats'), low: 0 };
  const y = axisOf([0, 1], '');
  const p = plane(width, CHART, x, y);
  const end = best[best.length - 1];
  const border = [...best.filter((q) => q.kl <= x.high), { kl: x.high, gold: end.gold }].filter((q) => q.kl <= x.high);
  const lines = runs.map((one) => {
    const points = one.seen.kl.slice(0, step + 1).map((kl, i) => [p.x(kl), p.y(one.seen.gold[i])]);
    const [x, y] = points[step];
    const letter = words(x + 8, y + 4, one.letter, 'letter');
    return `<g class="k${one.colour}">${stroke(points, 'line', one.dash)}${dot(points[step])}${letter}</g>`;
  });
  const limit = stroke(border.map((q) => [p.x(q.kl), p.y(q.gold)]), 'limit');
  return drawing(p, 'Gold reward against KL to the reference', frame(p, x, y) + limit + lines.join(''));
}
