"""Signs of faults: each reads the evidence of a run and gives one number, the higher the worse, and a sentence.

None means that the sign does not apply to the run, and a number that is nan that it cannot be told, for the reason in
the sentence. Thresholds are in `checks`. Imports no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from prefloop.analysis import several
from prefloop.analysis.evidence import OUTCOMES, SURE, Answer, Change, Evidence
from prefloop.analysis.numbers import compact, fixed, plus_minus, share

LEAST_ANSWERS, LEAST_PAIRS, LEAST_STEPS = 20, 40, 10
LEAST_CURVE = 40  # steps from which a tenth of them is a part of a curve
LITTLE = 0.05  # fall of a loss, as a share of it, that is no curve
SUREST = 4  # the quarter of the held-out pairs with the largest margins
UNSURE = 0.4  # chance of being wrong, by the policy's own margins, from which it has no opinion yet
NOTHING = 1e-5  # nats of KL below which a policy has not moved


@dataclass(frozen=True)
class Reading:
    """What a sign shows in a run.

    Args:
        score: the higher, the worse; nan: cannot be told.
        said: the numbers in a sentence, or why it cannot be told.
        worth_saying: whether the sentence is told although nothing is wrong, because many take it for a fault.
    """

    score: float
    said: str
    worth_saying: bool = False


Sign = Callable[[Evidence], Reading | None]


def unknown(why: str) -> Reading:
    return Reading(math.nan, why)


def in_words(change: Change) -> str:
    """`gold reward 0.120 → 0.340 (+0.220 ± 0.030)`."""
    ends = f"{fixed(change.before)} → {fixed(change.after)}"
    return f"{OUTCOMES.get(change.key, change.key)} {ends} ({plus_minus(change.value, change.se, sign=True)})"


def _outcome(run: Evidence) -> str:
    found = run.outcome
    return "nothing that is held out was measured" if found is None else in_words(found)


# ---- displacement and reward -----------------------------------------------------------------------------------------


def fall_of_chosen(run: Evidence) -> float | None:
    """How far log π of the chosen responses is below the reference, or below the first steps, in nats per response."""
    implicit, plain = run.get("rewards/chosen"), run.get("logps/chosen")
    if implicit is not None and run.beta != 0:
        return -implicit.late / run.scale
    if plain is None or len(plain) < 2:
        return None
    return float(np.median(plain.value[: max(1, len(plain) // 10)])) - plain.late


def displacement(run: Evidence) -> Reading | None:
    """The fall of the chosen log-prob where what is held out does not rise; a fall alone is no fault."""
    fall = fall_of_chosen(run) if run.pairs else None
    if fall is None:
        return None
    outcome, falls = run.outcome, f"the chosen log-prob falls by {compact(fall)} nats per response"
    if fall <= 0:
        return Reading(0.0, f"the chosen log-prob rises by {compact(-fall)} nats per response")
    if outcome is None or math.isnan(outcome.z):
        return unknown(f"{falls}: whether that is a fault shows only in held-out pairs or a gold reward")
    if outcome.rose:
        said = f"your chosen log-prob falls by {compact(fall)} nats per response; that alone is no fault"
        return Reading(0.0, f"{said}: {in_words(outcome)}", worth_saying=fall > 1)
    return Reading(fall, f"{falls}, and nothing is gained for it: {in_words(outcome)}")


def hacking(run: Evidence) -> Reading | None:
    """min(z of the trained reward's rise, the worse of gold's fall from its best evaluation and 2 − z of its rise)."""
    gold, proxy, curve = run.change("eval/gold"), run.change("eval/reward"), run.get("eval/gold")
    if proxy is None or (gold is None and not run.learned_reward):
        return None
    if gold is None or curve is None:
        return unknown("the learned reward is measured by nothing else: set reward.gold")
    if (gold.before, gold.after) == (proxy.before, proxy.after):
        return None
    best = int(curve.value.argmax())
    noise = math.hypot(curve.se[best], curve.se[-1])
    fallen = float(curve.value[best] - curve.last) / noise if noise > 0 else 0.0
    score = min(proxy.z, max(fallen, 2 - gold.z))
    if math.isnan(score):
        return unknown("the evaluations have no standard errors")
    said = f"the trained reward {fixed(proxy.before)} → {fixed(proxy.after)}, gold {fixed(gold.before)} → "
    return Reading(score, f"{said}{fixed(gold.after)} (best {fixed(curve.value[best])} at step {curve.step[best]:.0f})")


def length_reward(run: Evidence) -> Reading | None:
    """|Spearman's correlation| of score and length over the answers of the last evaluation."""
    scored = [a for a in _at(run.answers, max) if a.score is not None]
    if not scored or "length" in run.reward:  # a reward of the length by choice
        return None
    if len(scored) < LEAST_ANSWERS:
        return unknown(f"{len(scored)} scored answers are too few (need {LEAST_ANSWERS}: evaluation.prompts)")
    columns = [a.score for a in scored], [a.tokens for a in scored]
    if any(len(set(column)) == 1 for column in columns):
        return unknown("all answers have one score or one length")
    rho = float(spearmanr(*columns).statistic)
    said = f"score and length of {len(scored)} answers have a rank correlation of {fixed(rho, 2, sign=True)}"
    return Reading(abs(rho), said)


def length(run: Evidence) -> Reading | None:
    """|log of length after over before| where what is held out does not rise."""
    change, outcome = run.change("eval/length"), run.outcome
    if change is None or min(change.before, change.after) <= 0 or "length" in run.reward:
        return None
    said = f"answers have {compact(change.before)} → {compact(change.after)} tokens; {_outcome(run)}"
    rose = outcome is not None and outcome.rose
    return Reading(0.0 if rose else abs(math.log(change.after / change.before)), said)


def repetition(run: Evidence) -> Reading | None:
    """Rise of the share of trigrams that an answer has written before."""
    before, after = (_mean(list(map(repeated, _texts(run.answers, end)))) for end in (min, max))
    if before is None or after is None:
        return None
    return Reading(after - before, f"repeated trigrams in answers: {share(before)} → {share(after)}")


def repeated(text: str) -> float:
    """Share of the trigrams of words that occurred before in the text; 0 for fewer than four words."""
    words = text.split()
    grams = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(grams.values())
    return 1 - len(grams) / total if total > 1 else 0.0


def diversity(run: Evidence) -> Reading | None:
    """Fall of the share of different bigrams among all that the answers of an evaluation hold."""
    before, after = (distinct(_texts(run.answers, end)) for end in (min, max))
    if not before or after is None:
        return None
    return Reading(
        1 - after / before, f"different bigrams among those of all answers: {share(before)} → {share(after)}"
    )


def distinct(texts: Sequence[str]) -> float | None:
    """`several.distinct` of the words of texts; None if there are too few."""
    found = several.distinct([text.split() for text in texts]) if len(texts) >= LEAST_ANSWERS else math.nan
    return None if math.isnan(found) else found


def best_of(run: Evidence) -> Reading | None:
    """min(z of the mean reward's rise, z of the fall of the best of all answers to a prompt), paired by prompt."""
    seen = run.several
    if seen is None:
        why = run.notes.get("several")
        return None if why is None else unknown(why)
    one, best = seen.of(1), seen.of(seen.sizes[-1])
    if math.isnan(one.change.se):
        return unknown("one held-out question has no standard error: evaluation.prompts")
    return Reading(min(one.z, -best.z), f"{seen.reward} of one answer {one}, of the best of {best.size} {best}")


def entropy(run: Evidence) -> Reading | None:
    """Share of the policy's entropy that is gone."""
    change = run.change("eval/entropy")
    if change is None or change.before <= 0:
        return None
    said = f"entropy {compact(change.before)} → {compact(change.after)} nats per response"
    return Reading(1 - change.after / change.before, said)


# ---- staleness, mismatch, distance -----------------------------------------------------------------------------------


def staleness(run: Evidence) -> Reading | None:
    """1 − effective sample size of the sequence ratios, median of the last quarter."""
    ess, moved = run.get("ess"), run.get("kl/collection")
    if ess is None:
        return None
    since = "" if moved is None else f"; the policy has moved {compact(moved.late)} nats since it wrote them"
    return Reading(1 - ess.late, f"{share(ess.late)} of the responses of a step count effectively{since}")


def mismatch(run: Evidence) -> Reading | None:
    """Mean |log π_trainer − log π_sampler| per token, median of the last quarter."""
    apart = run.get("sampling/sampling_logp_difference/mean")
    if apart is None:
        old = "the run does not record the difference of trainer and sampler"
        return unknown(old) if "mismatch/mean" in run.curves else None
    return Reading(apart.late, factor(apart.late, run.tokens))


def factor(difference: float, tokens: float | None) -> str:
    """What a difference of log-probs per token does to the ratio of a response (trl#4772)."""
    said = f"trainer and sampler differ by {compact(difference)} nats per token"
    if tokens is None:
        return said
    total = difference * tokens
    times = compact(math.exp(total)) if total < 20 else f"e^{compact(total)}"
    many = f"exp({compact(difference)} × {compact(tokens)})"
    return f"{said}; over {compact(tokens)} tokens that is up to {many} = {times} in the ratio of a response"


def distance(run: Evidence) -> Reading | None:
    """KL(π‖π_ref) after training where what is held out does not rise."""
    kl, outcome = run.get("eval/kl_reverse_exact", "eval/kl_reverse"), run.outcome
    if kl is None:
        return None
    rose = outcome is not None and outcome.rose
    return Reading(0.0 if rose else kl.last, f"KL(π‖π_ref) is {compact(kl.last)} nats per response; {_outcome(run)}")


def modes(run: Evidence) -> Reading | None:
    """KL(π_ref‖π) over KL(π‖π_ref) after training, where the latter is above 1 nat."""
    reverse = run.get("eval/kl_reverse_exact", "eval/kl_reverse")
    forward = run.get("eval/kl_forward_exact", "eval/kl_forward")
    if reverse is None or forward is None:
        return None
    said = f"KL(π_ref‖π) is {compact(forward.last)} nats and KL(π‖π_ref) {compact(reverse.last)} nats per response"
    return Reading(forward.last / reverse.last if reverse.last > 1 else 0.0, said)


def reference(run: Evidence) -> Reading | None:
    """|log π/π_ref| per token of the first step's responses, largest mean: 0 while the policy is the reference."""
    if not run.reference:
        return None
    known = [(key, run.get(key)) for key in ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins")]
    first = [(key, c) for key, c in known if c is not None and c.step[0] == 1]
    if not first:
        return unknown("the first step is not recorded")
    scale = {key: run.scale if key.startswith("rewards/") else 1.0 for key, _ in first}
    worst = max(abs(c.first) / scale[key] for key, c in first)
    said = f"before any update policy and reference differ by {compact(worst)} nats per response, and must not"
    return Reading(worst / max(1.0, run.tokens or 1.0), said)


# ---- learning --------------------------------------------------------------------------------------------------------


def ledger(run: Evidence) -> Reading | None:
    """Coefficient mass that pushes down over the mass that pulls up, medians of the last quarter."""
    up, down = run.get("push/up"), run.get("push/down")
    if up is None or down is None or not run.pairs or up.late == 0:
        return None
    said = f"the steps push down {compact(down.late / up.late)} times as much as they pull up"
    return Reading(down.late / up.late, said)


def groups(run: Evidence) -> Reading | None:
    """Share of the groups whose scores are all equal, median of the last quarter."""
    equal = run.get("frac_reward_zero_std")
    return None if equal is None else Reading(equal.late, f"all responses score alike in {share(equal.late)} of groups")


def ends(run: Evidence) -> Reading | None:
    """The larger of the share of answers that are cut and of training responses without their end."""
    cut, unended = run.get("eval/cut"), run.unended
    if cut is None and unended is None:
        return None
    limit = "" if run.limit is None else f" at {run.limit} tokens"
    parts = [] if cut is None else [f"{share(cut.first)} → {share(cut.last)} of the answers are cut{limit}"]
    parts += [] if unended is None else [f"{share(unended)} of the training responses have no end"]
    return Reading(max(unended or 0.0, 0.0 if cut is None else cut.last), "; ".join(parts))


def dead(run: Evidence) -> Reading | None:
    """Share of the steps with a gradient of 0; 1 if the policy has not moved at all."""
    norm, kl = run.get("grad_norm"), run.get("eval/kl_reverse_exact", "eval/kl_reverse")
    if norm is None or len(norm) < LEAST_STEPS:
        return None
    still = kl is not None and len(kl) > 1 and bool((np.abs(kl.value) < NOTHING).all())
    zero = float((norm.value == 0).mean())
    said = f"the gradient is 0 in {share(zero)} of the steps" + ("; the policy has not moved" if still else "")
    return Reading(1.0 if still else zero, said)


def beta(run: Evidence) -> Reading | None:
    """−log10 β."""
    if run.beta is None or not (run.pairs and run.reference):
        return None
    if run.beta <= 0:
        return Reading(math.inf, "β is 0: nothing holds the policy near the reference")
    reach = f"the loss saturates only at margins of about {compact(5 / run.beta)} nats"
    return Reading(-math.log10(run.beta), f"β = {compact(run.beta)}: {reach}")


def rate(run: Evidence) -> Reading | None:
    """The larger of the highest loss over the first one (not for ratios) and of the largest 99th percentile ratio."""
    diverged = run.get("diverged")
    if diverged is not None and diverged.value.max() > 0:
        return Reading(math.inf, "the loss or the gradient stopped being finite")
    p99, loss = run.get("ratio/p99"), run.get("loss")
    found = [] if p99 is None else [(float(p99.value.max()), "the 99th percentile of the ratios reaches {}")]
    if p99 is None and loss is not None and len(loss) >= LEAST_STEPS and loss.first > 0:
        found.append((float(loss.value.max()) / loss.first, "the loss reaches {} times its first value"))
    if not found:
        return None
    worst, said = max(found)
    return Reading(worst, said.format(compact(worst)))


def hasty(run: Evidence) -> Reading | None:
    """Share of the fall of the loss, to its median over the last quarter, that the first tenth of the steps does."""
    loss = run.get("loss") if run.pairs else None
    fresh = run.get("on_policy")
    if loss is None or len(loss) < LEAST_CURVE or (fresh is not None and fresh.late > 0):
        return None  # a loss on responses that change with the policy has no curve of its own
    tenth = len(loss) // 10
    early, fall = float(np.median(loss.value[tenth : tenth + 5])), loss.first - loss.late
    if fall <= LITTLE * abs(loss.first):
        return None
    said = f"the loss is {compact(loss.first)}, {compact(early)} after a tenth of the steps and {compact(loss.late)} at"
    return Reading((loss.first - early) / fall, f"{said} the end")


# ---- data ------------------------------------------------------------------------------------------------------------


def duplicates(run: Evidence) -> Reading | None:
    """Share of the held-out questions that are trained on too."""
    if run.overlap is None:
        why = run.notes.get("overlap")
        return None if why is None else unknown(why)
    return Reading(run.overlap, f"{share(run.overlap)} of the held-out questions are trained on as well")


def labels(run: Evidence) -> Reading | None:
    """Share of errors among the quarter of held-out pairs with the largest |margin|.

    A policy is rarely wrong on pairs it is sure of if pairs are only hard (Bradley-Terry); flipped labels are wrong
    everywhere, also there. A policy whose margins are still next to 0, σ(β·margin) ≈ ½, is sure of none.
    """
    if not run.margins:
        why = run.notes.get("margins")
        return None if why is None else unknown(why)
    margin = np.asarray(run.margins, dtype=np.float64)
    if len(margin) < LEAST_PAIRS:
        return unknown(f"{len(margin)} held-out pairs are too few (need {LEAST_PAIRS})")
    surest = np.argsort(-np.abs(margin), kind="stable")[: len(margin) // SUREST]
    wrong, right = float((margin[surest] <= 0).mean()), float((margin > 0).mean())
    said = f"{share(wrong)} of the {len(surest)} held-out pairs that the policy is surest of contradict it"
    swapped = right < 0.5 - 1 / math.sqrt(len(margin))
    doubt = float((1 / (1 + np.exp(np.minimum(run.scale * np.abs(margin[surest]), 50.0)))).mean())
    if doubt > UNSURE and not swapped:
        return unknown(f"its margins are small yet: it is {share(1 - doubt)} sure of the pairs that it is surest of")
    return Reading(wrong, said + (": chosen and rejected may be swapped" if swapped else ""))


def memorised(run: Evidence) -> Reading | None:
    """Accuracy on training pairs less that on held-out ones and two standard errors of it."""
    train, held = run.get("rewards/accuracies"), run.get("eval/rewards/accuracies")
    if train is None or held is None or len(held) < 2:
        return None
    said = f"{share(train.late)} of the training pairs and {share(held.last)} of the held-out ones are ordered right"
    error = 0.0 if math.isnan(held.se[-1]) else float(held.se[-1])
    return Reading(train.late - held.last - SURE * error, said)


# ---- answers ---------------------------------------------------------------------------------------------------------


def _at(answers: Sequence[Answer], end: Callable[[Sequence[int]], int]) -> list[Answer]:
    """The answers of the earliest (`min`) or latest (`max`) evaluation; none if there is only one."""
    steps = sorted({a.step for a in answers})
    return [a for a in answers if a.step == end(steps)] if len(steps) > 1 else []


def _texts(answers: Sequence[Answer], end: Callable[[Sequence[int]], int]) -> list[str]:
    return [a.text for a in _at(answers, end) if a.text]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if len(values) >= LEAST_ANSWERS else None
