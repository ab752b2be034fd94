"""The table of metrics: every key that a run or the lab writes, its meaning and its warning signs.

A metric is one entry here and a function that measures it: in `core.metrics` for training steps, next to the evaluation
for evaluations. Keys are TRL's where TRL has the same quantity. Needs no torch, so that reports can be made without it.
Ranges are rules of thumb for language models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Check = Callable[[Sequence[float]], bool]  # the values of a run in order -> whether to warn
COUNT = "rises steadily"


@dataclass(frozen=True)
class Metric:
    """One key of `metrics.jsonl` and of the lab's tables; a key that ends in `/*` stands for a family of them.

    Args:
        title: column heading in tables.
        check: whether the values of a run show the red flag; None if one series cannot decide it.
    """

    key: str
    meaning: str
    unit: str = ""
    healthy: str = "–"
    red_flag: str = "–"
    title: str = ""
    check: Check | None = None


def late(values: Sequence[float]) -> Sequence[float]:
    """The last quarter, at least one value."""
    return values[-max(1, len(values) // 4) :]


def above(limit: float) -> Check:
    return lambda values: median(late(values)) > limit


def below(limit: float) -> Check:
    return lambda values: median(late(values)) < limit


def outside(low: float, high: float) -> Check:
    return lambda values: not low <= median(late(values)) <= high


def vanished(values: Sequence[float]) -> bool:
    """Exactly 0 throughout the last quarter."""
    return all(value == 0 for value in late(values))


def ever(values: Sequence[float]) -> bool:
    return any(value > 0 for value in values)


# fmt: off
M = Metric
TABLE: dict[str, tuple[Metric, ...]] = {
    "Progress and cost": (
        M("step", "Optimiser steps taken, this one included.", "steps", COUNT),
        M("iteration", "Number of the collection, from 0.", "", COUNT),
        M("pass", "Pass over this collection, from 1.", "", "1 … `reuse`"),
        M("passes", "How often each distinct response has been through the loss so far, on average. Lab only.",
          "passes", "1 without reuse", title="passes"),
        M("learning_rate", "Learning rate of this step.", "", "rises over the warm-up, then as `training.schedule`"),
        M("samples", "Responses sampled from the policy so far; 0 if all data are offline.", "responses", COUNT,
          title="samples"),
        M("tokens/sampled", "Tokens in those responses.", "tokens", COUNT),
        M("tokens/trained", "Response tokens that went through the loss so far, repeats counted.", "tokens", COUNT),
        M("reward_queries", "Scores requested so far; labels from the data are not counted.", "scores", COUNT,
          title="queries"),
        M("diverged", "1 from the step at which the loss or gradient stopped being finite and the run was frozen. "
          "Lab only; a single run stops with an error.", "", "0", "1: lower `lr`", check=ever),
    ),
    "Optimisation": (
        M("loss", "The method's own loss, with switch and reduction. Comparable only within one method.", "",
          "falls for supervised and contrastive methods; near 0 and without a trend for policy gradient",
          "exactly constant (nothing is learned), or a jump by an order of magnitude", title="loss"),
        M("loss/kl", "Weighted KL term added to the method's own.", "", "small compared with the method's own gradient",
          "dominates: the policy cannot move; lower `kl`"),
        M("loss/entropy", "Weighted entropy bonus, below 0.", "", "changes slowly",
          "goes to 0: the policy collapses"),
        M("loss/sft", "Weighted likelihood of the best response.", "", "falls or stays", "rises while rewards rise"),
        M("loss/value", "Weighted squared error of the value head, halved.", "", "falls in the first steps",
          "rises, or never falls"),
        M("grad_norm", "Norm of the gradient before clipping.", "", "same order of magnitude throughout",
          "always far above `max_grad_norm`, spikes, or 0 (no pair or weight is left)", title="gradient norm",
          check=vanished),
        M("push/up", "Σ max(c, 0) over tokens, c = −∂loss/∂log π: how much the step pulled up.", "coefficient mass",
          "above 0 at every step", "0: nothing to learn from (all ties, all margins satisfied)", "push up", vanished),
        M("push/down", "Σ max(−c, 0) over tokens: how much the step pushed down (the negative gradient).",
          "coefficient mass",
          "0 for supervised methods and at `negative=0`; about `push/up` for contrastive methods and centred "
          "advantages",
          "far above `push/up` for long: mass moves to responses outside the data", "push down"),
    ),
    "What the step was trained on": (
        M("reward",
          "Mean score of the responses of this step: of the policy's own when on-policy, of the data when offline.",
          "the reward's unit", "rises when on-policy; flat when offline",
          "rises while `eval/reward` falls: the scorer is being gamed"),
        M("reward_std", "Standard deviation of the scores inside a group (n − 1), mean over groups of two or more.",
          "the reward's unit", "well above 0",
          "goes to 0: the responses all score alike, so there is no signal"),
        M("frac_reward_zero_std", "Share of groups (of two or more) whose scores are all equal.", "share",
          "below 0.3",
          "above 0.7: most groups give no signal; use more responses per prompt or a finer reward", check=above(0.7)),
        M("completions/mean_length", "Mean response length of this step, EOS included.", "tokens",
          "changes only if the reward depends on it",
          "drifts towards the limit or towards 0 although the reward does not depend on it"),
        M("responses/effective", "Effective number of responses of this step under a supervised method's weights: "
          "(Σw)²/Σw².", "responses", "one per prompt for best-of-N; between that and all for exponential weights",
          "near 1: one response of the whole step decides; raise `beta`, or normalise per prompt",
          "weight ESS"),
        M("on_policy", "Share of this step's groups that the policy wrote.", "share", "the switch's value"),
        M("staleness", "Optimiser steps since the responses of this step were written.", "steps",
          "below `reuse` × batch/minibatch", "large for a method without a ratio"),
    ),
    "How far the policy has moved": (
        M("kl",
          "Mean log π/π_ref of the responses of this step. An estimate of KL(π‖π_ref) only when they are on-policy.",
          "nats per response", "grows slowly; may be below 0 on dataset responses",
          "tens of nats on-policy; falling fast on dataset responses: the likelihood of all of them drops"),
        M("ratio/max", "Largest per-token π/π_collection of this step.", "ratio", "1 on the first pass, below 10 later",
          "above 100: a few tokens dominate the step; lower `lr` or `reuse`", check=above(100.0)),
        M("ratio/p99", "99th percentile of the same.", "ratio", "below 1.5",
          "above 2: the policy is far from the one that wrote the responses", check=above(2.0)),
        M("mismatch/mean",
          "Mean of π_trainer/π_sampler per sampled token: effect of numerics, temperature and truncation.",
          "ratio", "0.99 to 1.01",
          "far from 1: correct with `mismatch_cap`, or sample in the trainer's precision", check=outside(0.9, 1.1)),
        M("mismatch/max", "Largest of them.", "ratio", "below 2",
          "above 10: a few tokens dominate the correction", check=above(10.0)),
        M("mismatch/std", "Standard deviation of them.", "ratio", "below 0.1", "above 1: a few tokens dominate"),
        M("mismatch/kl", "Estimate (k1) of KL(π_sampler‖π_trainer) per sampled token, −mean log ratio.",
          "nats per token", "within ±0.001",
          "above 0.1: times the tokens of a response, this is the logarithm of its ratio"),
        M("sampling/sampling_logp_difference/mean",
          "Mean |log π_trainer − log π_sampler| per sampled token; a response of n tokens has a ratio of up to exp(n "
          "times this).", "nats per token", "below 0.01 for float32, 0.05 for bfloat16",
          "above 0.1: sampler and trainer are not one model, or its weights are stale"),
        M("clip_ratio/region_mean",
          "Share of tokens that the clip removes from the gradient (1 ± 0.2 for methods without a clip).", "share",
          "0 on the first pass, below 0.2 later", "above 0.4: much of the batch no longer gives a gradient",
          "clipped", above(0.4)),
        M("ess", "Effective sample size (Σw)²/(n Σw²) of sequence-level ratios.", "share", "above 0.5",
          "below 0.1: the collection is stale; lower `reuse` or the batch", "ESS", below(0.1)),
        M("kl/collection",
          "Estimate of KL(π_collection‖π): how far the policy has moved since the responses were sampled.",
          "nats per response", "below 1", "above 5: the collection is stale; lower `lr` or `reuse`",
          "staleness, nats", above(5.0)),
    ),
    "Pairs": (
        M("logps/chosen", "Mean log π of the preferred responses.", "nats per response",
          "stays near its initial value or rises",
          "falls for long together with `logps/rejected`: likelihood displacement"),
        M("logps/rejected", "Mean log π of the other responses.", "nats per response", "falls at `negative=1`"),
        M("rewards/chosen",
          "β(log π − log π_ref) of the preferred responses: their implicit reward (β = 1 if the method has none).",
          "nats × β", "rises, or falls far less than `rewards/rejected`",
          "falls as fast as `rewards/rejected`: both lose mass", "winner"),
        M("rewards/rejected", "Implicit reward of the other responses.", "nats × β", "falls at `negative=1`",
          "keeps falling while held-out reward does not rise", "loser"),
        M("rewards/margins", "Implicit reward of the preferred response minus that of the other.", "nats × β",
          "0 at the start, then rises", "below 0, or tens of units: the training pairs are memorised", "margin"),
        M("rewards/accuracies", "Share of pairs with a margin above 0; ties count ½.", "share",
          "½ at the start, then rises; held-out about 0.6 to 0.75 on human labels",
          "1.0 on training pairs while the held-out accuracy does not rise"),
        M("rest/log_ratio", "Mean log (1 − π(w) − π(l)) minus the same under π_ref: the mass of all other responses. "
          "Lab only, responses of one token.", "nats", "near 0",
          "rises while `rewards/chosen` falls: mass moves to responses outside the pairs", "all others"),
    ),
    "Evaluation on held-out prompts": (
        M("eval/reward", "Mean training reward of the policy's answers to held-out prompts: sampled, or summed "
          "exactly if the arms can be enumerated.", "the reward's unit",
          "rises by more than twice its standard error", "falls, or rises less than the training reward",
          "training reward"),
        M("eval/gold", "Mean gold reward of the same answers: what a learned reward stands for; never trained on. "
          "The lab always writes it; a run does if `reward.gold` is set.", "the gold reward's unit",
          "rises with `eval/reward`",
          "falls while `eval/reward` rises: over-optimisation; the report names the step", "gold reward"),
        M("eval/reward/best", "Mean over those prompts of the highest training reward among the answers to one, "
          "`evaluation.samples` of them.", "the reward's unit", "rises with `eval/reward`",
          "falls while `eval/reward` rises, both by more than two standard errors over prompts: the policy gave up "
          "what only some of its tries found (check `best_of` of `prefloop diagnose`)"),
        M("eval/gold/best", "The same of the gold reward.", "the gold reward's unit", "rises with `eval/gold`",
          "falls while `eval/gold` rises, as above"),
        M("eval/distinct_2", "Share of different pairs of neighbouring tokens among all of the answers to one prompt "
          "(Li et al. 2016), mean over prompts; if `evaluation.samples` is above 1. Comparable only between equal "
          "numbers of answers.", "share", "changes slowly", "falls by half: answers become alike"),
        M("eval/overlap", "Share of tokens that two answers to one prompt have in common, without order, mean over "
          "pairs and prompts; if `evaluation.samples` is above 1.", "share", "changes slowly",
          "near 1: all answers to a prompt are the same"),
        M("eval/length", "Mean length of those responses, EOS included.", "tokens",
          "changes only if the reward depends on it",
          "accounts for the whole gain in a reward that should not depend on length", "tokens"),
        M("eval/length/*", "Share of those responses with that many tokens. Lab only.", "share"),
        M("eval/cut", "Share of those responses that the length limit cut off.", "share", "below 0.2",
          "above 0.2: the reward is measured on unfinished text; raise the limit", "cut", above(0.2)),
        M("eval/kl_reverse", "KL(π‖π_ref), estimated from the log-ratio of responses of the policy (k1).",
          "nats per response", "grows slowly; a few nats to a few tens",
          "grows while `eval/reward` does not: drift without gain", "KL (π‖ref)"),
        M("eval/kl_forward", "KL(π_ref‖π), estimated from the log-ratio of responses of the reference (k1).",
          "nats per response", "grows about as fast as `eval/kl_reverse`",
          "far above `eval/kl_reverse`: the policy dropped modes of the reference (mode seeking)", "KL (ref‖π)"),
        M("eval/kl_reverse_exact", "KL(π‖π_ref), summed over every next token: exact for responses of one token, with "
          "prefixes sampled from the policy for longer ones. Lab only.", "nats per response", "grows slowly",
          "grows while `eval/gold` does not: drift without gain", "KL (π‖ref)"),
        M("eval/kl_forward_exact", "KL(π_ref‖π), computed in the same way, with prefixes of the reference. Lab only.",
          "nats per response", "grows about as fast as `eval/kl_reverse_exact`",
          "far above `eval/kl_reverse_exact`: the policy dropped modes of the reference (mode seeking)", "KL (ref‖π)"),
        M("eval/entropy", "Entropy of the policy, summed over every next token along its responses. Lab only.",
          "nats per response", "falls slowly", "goes to 0: the policy collapses", "entropy"),
        M("eval/mass/*", "Probability of the arms of one region: the reward's peak, the reference's hump (arm 20, or "
          "its mode in `rotated`), its two edges. Lab only.", "probability"),
    ),
    "Evaluation on a probe set": (
        M("eval/probe", "log π − log π_ref per token of each response of `evaluation.probe`, mean over responses; "
          "standard error over prompts.", "nats per token", "0 before training by construction, then near it",
          "below −0.1: text that is not trained on is forgotten (check `forgetting` of `prefloop diagnose`)"),
        M("eval/probe/*", "The same of one kind of response, if the set has several.", "nats per token", "near 0",
          "all kinds fall: the mass went to responses outside the set"),
    ),
    "Evaluation on held-out pairs": (
        M("eval/rewards/accuracies",
          "Share of held-out pairs that the implicit reward orders as the annotator did; ties count ½.", "share",
          "½ before training by construction, then above it", "below ½, or no better than `eval/accuracy/longer`"),
        M("eval/accuracy/sum_logp", "The same by log π(y|x).", "share", "above ½", "falls during training"),
        M("eval/accuracy/mean_logp", "The same by log π(y|x) per token.", "share", "above ½", "falls during training"),
        M("eval/accuracy/longer", "The same by picking the longer response: a baseline without a model.", "share",
          "near ½", "far above ½: length decides the preferences"),
        M("eval/rewards/margins",
          "Implicit reward of the preferred response minus that of the other, on held-out pairs. Comparable only "
          "between runs of one method and one β.", "nats × β",
          "0 before training, then above it",
          "does not rise while `rewards/margins` does: the training pairs are memorised"),
        M("eval/rewards/chosen", "Implicit reward of the preferred responses, on held-out pairs.", "nats × β",
          "0 before training, then rises or falls slightly", "falls as fast as `eval/rewards/rejected`"),
        M("eval/rewards/rejected", "Implicit reward of the other responses, on held-out pairs.", "nats × β",
          "0 before training, then falls"),
        M("eval/pairs", "Held-out pairs that were judged.", "pairs"),
        M("eval/questions", "Distinct questions among them; intervals resample questions.", "", "at least 100"),
    ),
    "Evaluation on held-out labels": (
        M("eval/labels/auc", "Probability that a held-out response labelled good has a higher implicit reward than one "
          "labelled bad; ties count ½.", "probability", "½ before training by construction, then above it",
          "below ½, or no better than `eval/labels/longer`"),
        M("eval/labels/longer", "The same by length: a baseline without a model.", "probability", "near ½",
          "far from ½: length decides the labels"),
        M("eval/labels/good", "Implicit reward of the responses labelled good.", "nats × β",
          "0 before training, then rises or falls slightly", "falls as fast as `eval/labels/bad`"),
        M("eval/labels/bad", "Implicit reward of the responses labelled bad.", "nats × β",
          "0 before training, then falls"),
        M("eval/labels/accuracy/good",
          "Share of the responses labelled good whose implicit reward is above 0; ties count ½.",
          "share", "½ before training by construction, then above it", "below ½"),
        M("eval/labels/accuracy/bad",
          "Share of the responses labelled bad whose implicit reward is below 0; ties count ½.",
          "share", "½ before training by construction, then above it", "below ½: good and bad rise together"),
        M("eval/labels/count", "Held-out responses with labels.", "responses", "at least 100"),
    ),
    "Evaluation on held-out demonstrations": (
        M("eval/loss", "Mean negative log-likelihood per token of held-out demonstrations, end included.",
          "nats per token", "falls", "rises while `loss` falls: the training data are memorised"),
        M("eval/perplexity", "Its exponential.", "", "falls", "rises"),
        M("eval/demonstrations", "Held-out demonstrations that were read.", "responses", "at least 100"),
    ),
}
# fmt: on
METRICS: dict[str, Metric] = {metric.key: metric for rows in TABLE.values() for metric in rows}


def metric(key: str) -> Metric | None:
    """The entry of a key; `_se` (standard error), `_low` and `_high` (interval) share the entry of their number."""
    name = re.sub(r"_(se|low|high)$", "", key)
    return METRICS.get(name) or METRICS.get(f"{name.rpartition('/')[0]}/*")


def warning(key: str, values: Sequence[float]) -> str | None:
    """The warning that the values of one metric in a run give, in a sentence; None if healthy or if there are none."""
    known = metric(key)
    if known is None or not values:
        return None
    if not all(map(math.isfinite, values)):
        return f"`{key}` is not finite in {sum(not math.isfinite(x) for x in values)} of {len(values)} values."
    if known.check is None or not known.check(values):
        return None
    return f"`{key}` is {median(late(values)):.3g} over the last quarter of the run. Red flag: {known.red_flag}."
