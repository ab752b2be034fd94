"""What every number in `metrics.jsonl` means, where it should be, and what it warns of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One key of `metrics.jsonl`."""

    meaning: str
    unit: str = ""
    healthy: str = "–"
    red_flag: str = "–"


COUNT = "rises steadily"

PROGRESS = {
    "step": Metric("Optimiser steps taken, this one included.", "steps", COUNT),
    "iteration": Metric("Number of the collection, from 0.", "", COUNT),
    "pass": Metric("Pass over this collection, from 1.", "", "1 … `reuse`"),
    "learning_rate": Metric("Learning rate of this step.", "", "rises over the warm-up, then constant"),
    "samples": Metric("Responses drawn from the policy so far; 0 while all data are offline.", "responses", COUNT),
    "tokens/sampled": Metric("Tokens in those responses.", "tokens", COUNT),
    "tokens/trained": Metric("Response tokens that went through the loss so far, repeats counted.", "tokens", COUNT),
    "reward_queries": Metric("Scores asked for so far; given labels are not counted.", "scores", COUNT),
}

OPTIMISATION = {
    "loss": Metric(
        "The method's own term, with switch and reduction. Comparable only within one method.",
        "",
        "falls for supervised and contrastive rows; near 0 and without a trend for policy gradient",
        "exactly constant (nothing is learnt), or a jump by an order of magnitude",
    ),
    "loss/kl": Metric(
        "Weighted KL term beside the method's own.",
        "",
        "small against the method's own gradient",
        "dominates: the policy cannot move; lower `kl`",
    ),
    "loss/entropy": Metric("Weighted entropy bonus, below 0.", "", "changes slowly", "goes to 0: the policy collapses"),
    "loss/sft": Metric("Weighted likelihood of the best response.", "", "falls or stays", "rises while rewards rise"),
    "loss/value": Metric(
        "Weighted squared error of the value head, halved.", "", "falls in the first steps", "rises, or never falls"
    ),
    "grad_norm": Metric(
        "Norm of the gradient before clipping.",
        "",
        "same order of magnitude throughout",
        "always far above `max_grad_norm`, spikes, or 0 (no pair or weight is left)",
    ),
    "push/up": Metric(
        "Σ max(c, 0) over tokens, c = −∂loss/∂log π: how much the step pulled up.",
        "coefficient mass",
        "above 0 at every step",
        "0: nothing to learn from (all ties, all margins satisfied)",
    ),
    "push/down": Metric(
        "Σ max(−c, 0) over tokens: how much the step pushed down (the negative gradient).",
        "coefficient mass",
        "0 for supervised rows and at `negative=0`; about `push/up` for contrastive rows and centred advantages",
        "far above `push/up` for long: mass goes to responses that nobody asked for",
    ),
}

TRAINING_DATA = {
    "reward": Metric(
        "Mean score of the responses of this step: of the policy's own when on-policy, of the data when offline.",
        "the reward's unit",
        "rises when on-policy; flat when offline",
        "rises while `eval/reward` falls: the scorer is being gamed",
    ),
    "reward_std": Metric(
        "Mean standard deviation of the scores inside a group.",
        "the reward's unit",
        "well above 0",
        "goes to 0: the responses no longer differ, so there is no signal",
    ),
    "frac_reward_zero_std": Metric(
        "Share of groups whose scores are all equal.",
        "share",
        "below 0.3",
        "above 0.7: most groups teach nothing; take more responses per prompt or a finer reward",
    ),
    "completions/mean_length": Metric(
        "Mean response length of this step, EOS included.",
        "tokens",
        "moves only where the reward asks for it",
        "drifts towards the limit or towards 0 while the reward does not ask for it",
    ),
    "on_policy": Metric("Share of this step's groups that the policy wrote.", "share", "the switch's value"),
    "staleness": Metric(
        "Optimiser steps since the responses of this step were written.",
        "steps",
        "below `reuse` × batch/minibatch",
        "large under a method without a ratio",
    ),
}

DRIFT = {
    "kl": Metric(
        "Mean log π/π_ref of the responses of this step. An estimate of KL(π‖π_ref) only when they are on-policy.",
        "nats per response",
        "grows slowly; may be below 0 on dataset responses",
        "tens of nats on-policy; strongly falling on dataset responses: likelihood is being lost everywhere",
    ),
    "ratio/max": Metric(
        "Largest per-token π/π_collection of this step.",
        "",
        "1 on the first pass, below 10 later",
        "above 100: a few tokens carry the step; lower `lr` or `reuse`",
    ),
    "ratio/p99": Metric("99th percentile of the same.", "", "below 1.5", "above 2"),
    "mismatch/mean": Metric(
        "Mean of π_trainer/π_sampler per token of what the sampler wrote: numerics, temperature and truncation.",
        "ratio",
        "0.99 to 1.01",
        "far from 1: correct with `mismatch_cap`, or sample in the trainer's precision",
    ),
    "mismatch/max": Metric("Largest of them.", "ratio", "below 2", "above 10: single tokens dominate the correction"),
    "clip_ratio": Metric(
        "Share of tokens that the clip takes out of the gradient (1 ± 0.2 where a row has no clip).",
        "share",
        "0 on the first pass, below 0.2 later",
        "above 0.4: most of the batch no longer gives a gradient",
    ),
    "ess": Metric(
        "Effective sample size (Σw)²/(n Σw²) of sequence-level ratios.",
        "share",
        "above 0.5",
        "below 0.1: the collection is stale; lower `reuse` or the batch",
    ),
    "kl/collection": Metric(
        "Estimate of KL(π_collection‖π): how far the policy has moved since the responses were written.",
        "nats per response",
        "below 1",
        "above 5",
    ),
}

PAIRS = {
    "logps/chosen": Metric(
        "Mean log π of the preferred responses.",
        "nats per response",
        "stays near its start or rises",
        "falls for long together with `logps/rejected`: likelihood displacement",
    ),
    "logps/rejected": Metric("Mean log π of the other responses.", "nats per response", "falls at `negative=1`"),
    "rewards/chosen": Metric(
        "β(log π − log π_ref) of the preferred responses: their implicit reward (β = 1 where a row has none).",
        "nats × β",
        "rises, or falls far less than `rewards/rejected`",
        "falls as fast as `rewards/rejected`: both lose mass",
    ),
    "rewards/rejected": Metric(
        "Implicit reward of the other responses.",
        "nats × β",
        "falls at `negative=1`",
        "falls without end while held-out reward does not rise",
    ),
    "rewards/margins": Metric(
        "Implicit reward of the preferred less that of the other.",
        "nats × β",
        "0 at the start, then rises",
        "below 0, or tens of units: the training pairs are memorised",
    ),
    "rewards/accuracies": Metric(
        "Share of pairs with a margin above 0; ties count ½.",
        "share",
        "½ at the start, then rises; held-out about 0.6 to 0.75 on human labels",
        "1.0 on training pairs while the held-out accuracy stands still",
    ),
}

EVALUATION = {
    "eval/reward": Metric(
        "Mean gold reward of fresh responses to held-out prompts.",
        "the reward's unit",
        "rises by more than twice its standard error",
        "falls, or rises less than the training reward",
    ),
    "eval/gold": Metric(
        "Mean of `reward.gold` over the same responses: the reward that a learned one stands for; never trained on.",
        "the gold reward's unit",
        "rises with `eval/reward`",
        "falls while `eval/reward` rises: over-optimisation; the report names the step",
    ),
    "eval/length": Metric(
        "Mean length of those responses, EOS included.",
        "tokens",
        "moves only where the reward asks for it",
        "explains the whole gain in reward although the reward is not about length",
    ),
    "eval/cut": Metric(
        "Share of those responses that the length limit cut off.",
        "share",
        "below 0.2",
        "above 0.2: the reward is measured on unfinished text; raise the limit",
    ),
    "eval/kl_reverse": Metric(
        "KL(π‖π_ref), estimated on responses of the policy.",
        "nats per response",
        "grows slowly; a few nats to a few tens",
        "grows while `eval/reward` stands still: drift without gain",
    ),
    "eval/kl_forward": Metric(
        "KL(π_ref‖π), estimated on responses of the reference.",
        "nats per response",
        "grows about as `eval/kl_reverse`",
        "far above `eval/kl_reverse`: the policy gave up what the reference does (mode seeking)",
    ),
}

HELD_OUT_PAIRS = {
    "eval/rewards/accuracies": Metric(
        "Share of held-out pairs that the implicit reward orders as the person did; ties count ½.",
        "share",
        "½ before training by construction, then above it",
        "below ½, or no better than `eval/accuracy/longer`",
    ),
    "eval/accuracy/sum_logp": Metric("The same by log π(y|x).", "share", "above ½", "falls during training"),
    "eval/accuracy/mean_logp": Metric("The same by log π(y|x) per token.", "share", "above ½", "falls during training"),
    "eval/accuracy/longer": Metric(
        "The same by picking the longer response: what needs no model.",
        "share",
        "near ½",
        "far above ½: length decides",
    ),
    "eval/rewards/margins": Metric(
        "Implicit reward of the preferred less that of the other, on held-out pairs.",
        "nats × β",
        "0 before training, then above it",
        "stands still while `rewards/margins` rises: the training pairs are memorised",
    ),
    "eval/rewards/chosen": Metric(
        "Implicit reward of the preferred responses, on held-out pairs.",
        "nats × β",
        "0 before training, then rises or falls little",
        "falls as fast as `eval/rewards/rejected`",
    ),
    "eval/rewards/rejected": Metric(
        "Implicit reward of the other responses, on held-out pairs.", "nats × β", "0 before training, then falls"
    ),
    "eval/pairs": Metric("Held-out pairs that were judged.", "pairs"),
    "eval/questions": Metric("Different questions among them; intervals resample questions.", "", "at least 100"),
}

GROUPS = {
    "Progress and cost": PROGRESS,
    "Optimisation": OPTIMISATION,
    "What the step was trained on": TRAINING_DATA,
    "How far the policy has moved": DRIFT,
    "Pairs": PAIRS,
    "Evaluation on held-out prompts": EVALUATION,
    "Evaluation on held-out pairs": HELD_OUT_PAIRS,
}
METRICS: dict[str, Metric] = {key: metric for group in GROUPS.values() for key, metric in group.items()}
