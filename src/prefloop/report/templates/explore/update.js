// The update rules: one step of plain gradient ascent on a method's expected objective, without sampling noise.
//
// A group of responses is drawn from a law q over arms: the policy at the last collection, the offline data, or a share
// of each. Every possible group counts by its probability, as in a batch without end. With the coefficients
// c = −∂loss/∂log π of Prefloop's methods the gradient by the logits is c_a − π_a Σ c. tests/report/test_explorer.py
// compares each rule with the Python code.
'use strict';

const CLIP = 0.2; // PPO's
const MAX_LOG_RATIO = 20; // beyond it the ratio is constant, and pulls and pushes nothing
const GROUP = 4; // responses per prompt of best-of-N; of all other methods 2

// What each entry computes for a winner w and a loser l, r_w > r_l: their coefficients, written to out[0] and out[1].
// s: the state of the step: beta, reward, drift = log π/π_ref and ratio = π/π_old, of the current policy.
const PAIRS = {
  dpo(w, l, s, out) {
    out[0] = s.beta * sigmoid(-s.beta * (s.drift[w] - s.drift[l]));
    out[1] = -out[0];
  },
  ipo(w, l, s, out) {
    out[0] = 2 * (0.5 / s.beta - (s.drift[w] - s.drift[l]));
    out[1] = -out[0];
  },
  rloo(w, l, s, out) {
    const gap = s.reward[w] - s.reward[l];
    out[0] = gap * s.ratio[w];
    out[1] = -gap * s.ratio[l];
  },
  ppo(w, l, s, out) {
    const gap = s.reward[w] - s.reward[l];
    out[0] = s.ratio[w] > 1 + CLIP ? 0 : gap * s.ratio[w];
    out[1] = s.ratio[l] < 1 - CLIP ? 0 : -gap * s.ratio[l];
  },
};

// The expected weight of each arm, in sum 1, of the methods that only imitate.
const WEIGHTS = {
  best_of_n: (law, reward) => best(law, reward, GROUP),
  pref_ft: (law, reward) => best(law, reward, 2),
  rwr: (law, reward, beta) => exponential(law, reward, beta),
};

/** The two responses of a pair share one vote by softmax(r/β). Rewards are 0 to 1, so that nothing underflows. */
function exponential(law, reward, beta) {
  const e = reward.map((r) => Math.exp((r - 1) / beta));
  return law.map((q, a) => {
    let sum = 0;
    for (let b = 0; b < law.length; b++) sum += (law[b] * e[a]) / (e[a] + e[b]);
    return 2 * q * sum;
  });
}

/** The law of the best of n draws; equally good arms share their part in proportion to the law. */
function best(law, reward, n) {
  return law.map((q, a) => {
    let below = 0;
    let level = 0;
    for (let b = 0; b < law.length; b++) {
      if (reward[b] < reward[a]) below += law[b];
      else if (reward[b] === reward[a]) level += law[b];
    }
    return level > 0 ? (((below + level) ** n - below ** n) * q) / level : 0;
  });
}

/** The negative switch: what pushes down is scaled. */
const switched = (c, negative) => (c < 0 ? negative * c : c);

/** Expected coefficients of a pair method over the law, and what the loss divides by. */
function overPairs(rule, counted, law, s, negative) {
  const c = new Float64Array(law.length);
  const out = [0, 0];
  let decided = 0;
  for (let w = 0; w < law.length; w++) {
    for (let l = 0; l < law.length; l++) {
      if (!(s.reward[w] > s.reward[l])) continue;
      const share = 2 * law[w] * law[l];
      rule(w, l, s, out);
      c[w] += share * switched(out[0], negative);
      c[l] += share * switched(out[1], negative);
      decided += share;
    }
  }
  return { c, total: counted === 'pairs' ? decided : 2 };
}

const imitates = (method) => method in WEIGHTS;
const hasRatio = (method) => method === 'rloo' || method === 'ppo';

/** What responses come from, with their shares: the policy at the collection, and the data. */
function collect(run, problem, logp) {
  const sources = [
    { share: run.on_policy, law: exps(logp) },
    { share: 1 - run.on_policy, law: problem.data },
  ].filter((source) => source.share > 0);
  for (const source of sources) {
    const weigh = WEIGHTS[run.method];
    source.weights = weigh ? weigh(source.law, problem.reward, problem.beta) : null;
  }
  return { sources, old: logp };
}

/** The derivative of π/π_old by log π, d = log π/π_old: the ratio itself, as far as it is followed. */
const slope = (d) => (Math.abs(d) > MAX_LOG_RATIO ? 0 : Math.exp(d));

/** Coefficients of the method by arm, divided as its loss is. */
function coefficients(run, problem, collection, logp) {
  const c = new Float64Array(logp.length);
  const state = {
    beta: problem.beta,
    reward: problem.reward,
    drift: logp.map((x, a) => x - problem.logRef[a]),
    ratio: logp.map((x, a) => slope(x - collection.old[a])),
  };
  const counted = hasRatio(run.method) ? 'responses' : 'pairs';
  let total = 0;
  for (const { share, law, weights } of collection.sources) {
    const part = weights
      ? { c: weights, total: 1 }
      : overPairs(PAIRS[run.method], counted, law, state, run.negative);
    for (let a = 0; a < c.length; a++) c[a] += share * part.c[a];
    total += share * part.total;
  }
  return total > 0 ? c.map((x) => x / total) : c;
}

/** Weight of the exact KL(π‖π_ref) in the loss: β of the methods that have no other hold on the reference. */
function klWeight(run, problem) {
  return ['dpo', 'ipo', 'rwr'].includes(run.method) ? 0 : problem.beta;
}

/** The gradient of the expected objective by the logits, to ascend. */
function gradient(run, problem, collection, logp) {
  const c = coefficients(run, problem, collection, logp);
  const sum = c.reduce((x, y) => x + y, 0);
  const kl = klWeight(run, problem);
  const distance = divergence(logp, problem.logRef);
  return c.map((x, a) => {
    const p = Math.exp(logp[a]);
    return x - p * sum - kl * p * (logp[a] - problem.logRef[a] - distance);
  });
}

/** Steps are rate · scale · gradient; the scale makes the first coefficients of DPO and IPO independent of β. */
function scale(method, beta) {
  return { dpo: 1 / beta, ipo: beta }[method] ?? 1;
}

/** The switches that change nothing: what only imitates pushes nothing down, and the data are the same in every pass. */
function inert(run) {
  return { negative: imitates(run.method), reuse: run.on_policy === 0 && !hasRatio(run.method) };
}

/**
 * The log-probs of all arms before the first step and after each.
 *
 * run: {method, on_policy, reuse, negative}. problem: {reward, logRef, data, beta, rate}.
 */
function train(run, problem, steps) {
  const rate = problem.rate * scale(run.method, problem.beta);
  let logits = Float64Array.from(problem.logRef);
  const path = [logSoftmax(logits)];
  let collection = null;
  for (let step = 0; step < steps; step++) {
    const logp = path[step];
    if (step % run.reuse === 0) collection = collect(run, problem, logp);
    const g = gradient(run, problem, collection, logp);
    logits = logits.map((z, a) => z + rate * g[a]);
    path.push(logSoftmax(logits));
  }
  return path;
}
