// Numbers and sentences: what is seen, said from the numbers.
'use strict';

/** A number with a fixed count of decimals, a real minus sign and no negative zero. */
function fixed(x, places) {
  const text = Math.abs(x).toFixed(places);
  return x < 0 && Number(text) !== 0 ? `−${text}` : text;
}

const percent = (x) => `${fixed(100 * x, x > 0 && x < 0.095 ? 1 : 0)} %`;
const compact = (x) => String(Number(x.toPrecision(2)));
const FORMATS = {
  gold: (x) => fixed(x, 3),
  kl: (x) => fixed(x, 2),
  peak: percent,
  chosen: (x) => fixed(x, 2),
  rejected: (x) => fixed(x, 2),
};

/** The name of a run: whose samples, the method, and the switches that are not at their defaults. */
function nameOf(run, methods) {
  const share = run.on_policy;
  const whose = share === 1 ? 'on-policy' : share === 0 ? 'offline' : `${percent(share)} on-policy`;
  const still = inert(run);
  const parts = [`${whose} ${methods[run.method].label}`];
  if (run.reuse > 1 && !still.reuse) parts.push(`${run.reuse} passes`);
  if (run.negative < 1 && !still.negative)
    parts.push(run.negative === 0 ? 'no negative gradient' : `negative × ${compact(run.negative)}`);
  return parts.join(', ');
}

const place = ({ first, last, gold }) =>
  first === last
    ? `arm ${first}, whose gold is ${fixed(gold, 2)}`
    : `arms ${first}–${last}, where gold averages ${fixed(gold, 2)}`;
const moved = (x) => (x < 0 ? `falls by ${fixed(-x, 2)}` : `rises by ${fixed(x, 2)}`);
const SMALL = 0.005; // a change of gold that does not count

/** One run in sentences, at a step. */
function account(name, seen, law, problem, step) {
  const [before, now, kl] = [seen.gold[0], seen.gold[step], seen.kl[step]];
  const change = now - before;
  const how = Math.abs(change) < SMALL ? 'stays at' : `${change > 0 ? 'rises' : 'falls'} from ${fixed(before, 3)} to`;
  const where = stretch(law, problem.reward);
  const chosen = seen.chosen[step] - seen.chosen[0];
  const rejected = seen.rejected[step] - seen.rejected[0];
  return (
    `${name}: gold ${how} ${fixed(now, 3)}, at a KL of ${fixed(kl, 2)} nats. ` +
    `${percent(where.mass)} of the mass is on ${place(where)}. ` +
    reading(change, chosen, rejected, now, problem)
  );
}

/** What the two log-probs say about the move. */
function reading(change, chosen, rejected, gold, problem) {
  if (Math.max(Math.abs(chosen), Math.abs(rejected)) < 0.005) return 'The log-probs of the data have not moved.';
  const other = Math.sign(chosen) === Math.sign(rejected) ? `by ${fixed(Math.abs(rejected), 2)}` : moved(rejected);
  const both = `The chosen log-prob ${moved(chosen)} and the rejected one ${other}`;
  if (change >= SMALL && chosen < 0) {
    const winners = expectation(pairLaws(problem.data, problem.reward).chosen, problem.reward);
    return gold > winners
      ? `${both}, although gold rises: the mass moves past the data’s winners, whose gold averages ${fixed(winners, 2)}.`
      : `${both}, although gold rises: the mass gathers on a few of the data’s winners.`;
  }
  if (change <= -SMALL && chosen > rejected) return `${both}: the pairs are ordered better, and yet gold falls.`;
  if (change >= SMALL) return `${both}: the mass moves to the data’s winners.`;
  return `${both}.`;
}

/** Who leads at a step, by gold and by gold − β KL. */
function headline(runs, problem, step) {
  if (runs.length < 2) return '';
  const top = (score) => runs.reduce((x, y) => (score(y) > score(x) ? y : x));
  const gold = (run) => run.seen.gold[step];
  const held = (run) => gold(run) - problem.beta * run.seen.kl[step];
  const [first, best] = [top(gold), top(held)];
  const same = first === best ? ', also' : `; ${best.letter} (${best.name}) leads`;
  return (
    `At step ${step} the highest gold is ${fixed(gold(first), 3)}, of ${first.letter} (${first.name})${same} by ` +
    `gold − β KL with ${fixed(held(best), 3)}.`
  );
}
