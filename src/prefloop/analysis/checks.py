"""The table of checks: for each sign its formula, threshold and error rate, and what to do. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prefloop.analysis import signs
from prefloop.analysis.forgetting import forgetting
from prefloop.analysis.signs import Reading, Sign


@dataclass(frozen=True)
class Check:
    """One row.

    Args:
        name: one word.
        fault: what is wrong if the score is above the threshold.
        sign: reads a run; its docstring is the formula.
        threshold: of the score.
        reason: why there.
        cure: what to do.
        error_rate: share of sound runs that it calls faulty, measured by the detector benchmark; nan: not yet.
        source: of the quantity or the threshold.
    """

    name: str
    fault: str
    sign: Sign
    threshold: float
    reason: str
    cure: str
    error_rate: float = math.nan
    source: str = ""

    @property
    def formula(self) -> str:
        return " ".join((self.sign.__doc__ or "").split("\n\n")[0].split())

    def fires(self, reading: Reading | None) -> bool:
        """Whether a reading is above the threshold; what cannot be told is not."""
        return reading is not None and reading.score > self.threshold


C = Check
# fmt: off
TABLE = (
    C("reference", "the reference is not frozen", signs.reference, 5e-4,
      "one model, evaluated twice: rounding of bfloat16 averages to 1e−4; a dropout of 0.1 gave 0.0019 in the lab",
      "put the reference into eval mode (no dropout), and check that both are the same weights"),
    C("dead", "nothing is learned", signs.dead, 0.5,
      "half of the steps change nothing", "check that pairs or rewards differ; raise training.lr"),
    C("rate", "the learning rate is too high", signs.rate, 2.0,
      "axolotl: loss spikes of 2 to 10 times; a ratio of 2 is beyond any clip", "lower training.lr by 3 to 10 times",
      source="axolotl training_stability.qmd, Loss Spikes"),
    C("hasty", "training is over in its first tenth", signs.hasty, 0.9,
      "a loss that has nine tenths of its fall behind it after a tenth of the steps only memorises from there",
      "lower training.lr by 3 to 10 times, or train fewer steps"),
    C("beta", "β is so small that nothing holds the policy", signs.beta, 2.5,
      "published β lie between 0.01 and 0.5", "set override.beta to 0.1"),
    C("groups", "most groups give no signal", signs.groups, 0.7,
      "as in the table of metrics; axolotl: 0.8",
      "use more responses to a prompt, a finer reward, or prompts that some answers solve",
      source="axolotl training_stability.qmd, GRPO"),
    C("mismatch", "sampler and trainer are not the same model", signs.mismatch, 0.1,
      "axolotl: below 0.1 nats per token is healthy; a float32 engine differs by 1e−5, bfloat16 by 0.04",
      "synchronise the weights, sample in the trainer's precision, or correct with override.mismatch_cap=2",
      source="axolotl training_stability.qmd; trl#4772"),
    C("staleness", "the responses are stale", signs.staleness, 0.9,
      "as in the table of metrics: one of ten responses decides; verl: 0.7",
      "lower override.reuse, training.batch or training.lr", source="verl rollout_corr.md; Kong 1992"),
    C("hacking", "the trained reward rises and gold does not", signs.hacking, 3.0,
      "three standard errors; gold's best evaluation is chosen among several",
      "stop earlier (evaluation.keep_best=eval/gold), raise kl, or improve the reward model",
      source="Gao 2023, arXiv:2210.10760"),
    C("length_reward", "the reward measures length", signs.length_reward, 0.9,
      "longer answers are often better, but hardly ever in this strict an order",
      "look at the reward function; compare answers of equal length"),
    C("displacement", "the chosen responses lose probability for nothing", signs.displacement, 1.0,
      "a nat per response is the noise between batches",
      "lower training.lr or stop earlier; dpop or sft in the loss; `prefloop data rank` finds the pairs",
      source="Razin 2024, arXiv:2410.08847; Tajwar 2024, §5.2.2"),
    C("distance", "the policy drifts without gain", signs.distance, 10.0,
      "a few nats to a few tens are usual where something is gained", "raise kl or beta; lower training.lr"),
    C("modes", "the policy gives up answers of the reference", signs.modes, 10.0,
      "both grow alike where no mode is lost; sound DPO runs of the lab reach 6",
      "raise kl or beta, or train fewer steps",
      source="Minka 2005 on mode seeking; arXiv:2509.04259 on forgetting"),
    C("ledger", "the negative gradient dominates", signs.ledger, 3.0,
      "1 for a loss of margins; more sends mass outside the data", "lower override.negative, or add override.sft"),
    C("labels", "many labels are wrong", signs.labels, 0.15,
      "a policy that is sure is right on hard pairs too, but not on flipped ones",
      "read the pairs that it contradicts; use cdpo with smoothing near the share of flips, or ipo"),
    C("memorised", "the training pairs are memorised", signs.memorised, 0.25,
      "a gap of 0.1 to 0.2 is usual on human labels", "train fewer steps, or on more pairs; raise beta"),
    C("duplicates", "held-out questions are trained on", signs.duplicates, 0.01,
      "one in a hundred", "remove them from one side; data.group_by names what identifies a question"),
    C("ends", "answers do not end", signs.ends, 0.2,
      "as in the table of metrics: the reward is measured on unfinished text",
      "check that responses of the data end with the template's end token (`prefloop data show FILE --model M`);"
      " raise sampling.max_new_tokens"),
    C("length", "answers change their length for nothing", signs.length, 0.7,
      "twice or half as long", "penalise or normalise length (simpo, reward of your own)"),
    C("repetition", "answers repeat themselves", signs.repetition, 0.2,
      "prose repeats one trigram in fifty", "raise kl or beta; read the answers (`prefloop sample RUN --before`)"),
    C("forgetting", "what is not trained on is forgotten", forgetting, 0.1,
      "the perplexity of the probe set rises by more than a tenth (e^0.1)",
      "raise kl or beta, lower training.lr, train fewer steps, or mix in such text"),
    C("diversity", "answers become alike", signs.diversity, 0.5,
      "half of the different bigrams are gone", "raise kl or override.entropy; lower training.lr"),
    C("best_of", "the best of several answers got worse although the mean got better", signs.best_of, 2.0,
      "both are beyond two standard errors; by chance they move together, since the best is one of those averaged",
      "stop earlier, or raise kl or override.entropy, if several answers are drawn and the best is used",
      source="Chen 2021, arXiv:2107.03374; Yue 2025, arXiv:2504.13837"),
    C("entropy", "the policy collapses to few responses", signs.entropy, 0.9,
      "a tenth of the entropy is left", "raise kl or override.entropy; lower training.lr",
      source="axolotl training_stability.qmd, Entropy Collapse"),
)
# fmt: on
CHECKS: Mapping[str, Check] = {check.name: check for check in TABLE}
