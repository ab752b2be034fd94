// What is measured along the steps, exactly; and summaries of where the mass is.
'use strict';

/** The laws of the winner and of the loser of a pair of the data, ties left out. */
function pairLaws(data, reward) {
  const chosen = new Float64Array(data.length);
  const rejected = new Float64Array(data.length);
  let decided = 0;
  for (let w = 0; w < data.length; w++) {
    for (let l = 0; l < data.length; l++) {
      if (!(reward[w] > reward[l])) continue;
      const share = data[w] * data[l];
      chosen[w] += share;
      rejected[l] += share;
      decided += share;
    }
  }
  const part = (x) => x / (decided || 1);
  return { chosen: chosen.map(part), rejected: rejected.map(part) };
}

/** E_q[log π] without the arms that q never shows. */
function meanLogp(law, logp) {
  let sum = 0;
  for (let a = 0; a < law.length; a++) if (law[a] > 0) sum += law[a] * logp[a];
  return sum;
}

/** Gold, KL(π‖π_ref), mass within the reward's peak, and log-probs of the data's chosen and rejected, at every step. */
function measures(path, problem) {
  const { chosen, rejected } = pairLaws(problem.data, problem.reward);
  const inside = problem.reward.map((_, a) => (Math.abs(a - problem.centre) <= problem.width ? 1 : 0));
  const laws = path.map(exps);
  return {
    gold: laws.map((law) => expectation(law, problem.reward)),
    kl: path.map((logp) => Math.max(0, divergence(logp, problem.logRef))),
    peak: laws.map((law) => expectation(law, inside)),
    chosen: path.map((logp) => meanLogp(chosen, logp)),
    rejected: path.map((logp) => meanLogp(rejected, logp)),
  };
}

/** The best gold at every KL: (KL, gold) of π* from weak to strong β, from the reference on. */
function frontier(problem, points = 60) {
  const betas = Array.from({ length: points }, (_, i) => 10 ** (1.5 - (4 * i) / (points - 1)));
  return betas.map((beta) => {
    const star = optimum(problem.logRef, problem.reward, beta);
    return { kl: Math.max(0, divergence(star, problem.logRef)), gold: expectation(exps(star), problem.reward) };
  });
}

/** The shortest stretch of arms with at least this share of the mass (of several, the heaviest): its ends, mass and mean gold. */
function stretch(law, reward, share = 0.5) {
  let best = null;
  let mass = 0;
  let first = 0;
  for (let last = 0; last < law.length; last++) {
    mass += law[last];
    while (mass - law[first] >= share) mass -= law[first++];
    const longer = best === null ? -1 : last - first - (best.last - best.first);
    if (mass >= share && (longer < 0 || (longer === 0 && mass > best.mass))) best = { first, last, mass };
  }
  if (best === null) best = { first: 0, last: law.length - 1, mass: 1 };
  let gold = 0;
  for (let a = best.first; a <= best.last; a++) gold += law[a] * reward[a];
  return { ...best, gold: gold / best.mass };
}

/** Mass in each of `count` stretches of arms of equal length. */
function binned(law, count) {
  const size = law.length / count;
  return Array.from({ length: count }, (_, i) => law.slice(i * size, (i + 1) * size).reduce((x, y) => x + y, 0));
}
