// Distributions over K arms as arrays of K numbers: policies as log-probs, the law of the data as probabilities.
'use strict';

/** log softmax of logits. */
function logSoftmax(logits) {
  const top = Math.max(...logits);
  let sum = 0;
  for (const z of logits) sum += Math.exp(z - top);
  const log = top + Math.log(sum);
  return Float64Array.from(logits, (z) => z - log);
}

const exps = (logp) => Float64Array.from(logp, Math.exp);

/** σ(x) = 1/(1 + e^−x), without overflow. */
function sigmoid(x) {
  if (x >= 0) return 1 / (1 + Math.exp(-x));
  const e = Math.exp(x);
  return e / (1 + e);
}

/** E_q[x]. */
function expectation(law, x) {
  let sum = 0;
  for (let a = 0; a < law.length; a++) sum += law[a] * x[a];
  return sum;
}

/** KL(p‖q) in nats, of log-probs. */
function divergence(logp, logq) {
  let sum = 0;
  for (let a = 0; a < logp.length; a++) sum += Math.exp(logp[a]) * (logp[a] - logq[a]);
  return sum;
}

/** exp(−((a − centre)/width)²) of each arm a: the gold reward, and the weights of the bump in the data. */
function bump(centre, width, arms) {
  return Float64Array.from({ length: arms }, (_, a) => Math.exp(-(((a - centre) / width) ** 2)));
}

/** The offline data: with probability `coverage` the reference, otherwise a bump. */
function dataLaw(reference, coverage, centre, width) {
  const other = bump(centre, width, reference.length);
  const sum = other.reduce((x, y) => x + y, 0);
  return Float64Array.from(reference, (p, a) => coverage * p + ((1 - coverage) * other[a]) / sum);
}

/** log π* of π* = π_ref exp(r/β)/Z, which maximises E_π[r] − β KL(π‖π_ref). */
function optimum(logRef, reward, beta) {
  return logSoftmax(logRef.map((z, a) => z + reward[a] / beta));
}
