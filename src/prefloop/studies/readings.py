"""What the findings mean, written after the runs: no part of the rules, and no number that is not in a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """How the findings of a study are read; empty where there is no result yet.

    Args:
        why: the reason, or what it depends on.
        cost: in labels, samples or time.
        do: advice.
    """

    why: str = ""
    cost: str = ""
    do: str = ""


READINGS = {
    "on-policy": Reading(
        why="The reference hardly ever writes what the reward wants most, and as many labelled responses of the"
        " reference as the policy writes do not change that. Near, the reference writes good responses itself, and"
        " imitating the best of a fixed group gets most of what can be gained; offline DPO does not.",
        cost="A reward for every fresh response. On text the reward is learned from the offline data, and the gain is"
        " smaller.",
        do="Sample from the policy where good responses are rare under the reference (`prefloop diagnose` measures how"
        " rare). Where they are common, best-of-N on fixed responses gets most of it, without scoring fresh ones.",
    ),
    "staleness": Reading(
        why="On the bandit, at tuned rates, the age of a sample does not show. On text the methods differ, which their"
        " mean hides: on Min Length PPO scores higher with fresh collections, best-of-N with stale ones (conditions of"
        " the study); why is not known. On Mode Length a cost of stale samples is ruled out: the interval is below 0.",
        cost="Nothing: gradient steps and samples are equally many.",
        do="Size a collection for the machine first. On text, where this is undecided, compare two sizes, each at its"
        " own learning rate.",
    ),
    "reuse": Reading(
        why="At equally many gradient steps, eight passes see an eighth of the samples, and no method here makes up for"
        " that. At equally many samples the further passes gain. The clip limits the loss; it does not undo it.",
        cost="An eighth of the samples, at equally many gradient steps.",
        do="Reuse samples where they cost more than gradient steps, with a ratio that is clipped; else sample afresh.",
    ),
    "negative": Reading(
        why="Where the peak is near, the best response of a group is already good, and imitating it wins by more than"
        " the push wins where it is far. On-policy, own samples take the policy as far from the reference without a"
        " push as with one.",
        cost="Offline and far, DPO and IPO move three to four times as many nats from the reference as imitation does.",
        do="Train on pairs with DPO or IPO where good responses are rare under the reference; where they are common,"
        " imitate the best ones (Pref-FT). On-policy, try `negative: 0` as well.",
    ),
    "complement": Reading(
        why="Not decided here. Offline the order of best-of-N and DPO is the opposite (`labels`), so own samples help"
        " best-of-N more.",
        cost="Ten responses and their order at every prompt, for all of these methods.",
        do="With a reward that ranks many responses, try on-policy best-of-N beside on-policy DPO; without one, DPO.",
    ),
    "labels": Reading(
        why="Likely, not measured: with its temperature tuned, RWR within a prompt comes to best-of-N, on scores as on"
        " ranks, and learns from the best response; DPO on all pairs learns from every one.",
        cost="No label more: the 45 pairs are those of the same ten ranked responses.",
        do="Rank several responses to each prompt and train on all of their pairs.",
    ),
    "displacement": Reading(
        why="All pairs train one network: the more of them there are, the smaller it is and the more a pair has in"
        " common, the more of the step that pushes a loser down also pushes its winner down. Even pairs without a"
        " common token end with their winner below the reference.",
        cost="Nothing that gold shows here: only likelihoods are measured.",
        do="Do not stop a run because the winner falls; look at gold or held-out accuracy (`prefloop diagnose`). To"
        " keep the winner up, leave out pairs that are alike (`prefloop data rank`).",
    ),
    "min-mode-skew": Reading(),
    "overoptimisation": Reading(),
    "published-defects": Reading(
        why="The published code scores a token at the place that has already read it. Best-of-N then learns to copy,"
        " and falls; PPO, whose ratio is clipped, falls less. Scored right, neither falls at T = 10: the collapse of"
        " best-of-N is not in the method.",
        cost="As published, IPO learns little with or without the defect, so its row tells little.",
        do="Before methods are compared, compare log-probs with independent code. Put a KL into the reward, or into the"
        " loss with an estimator whose gradient is right (`kl_estimator: k2`), never as a bare log-ratio.",
    ),
    "real": Reading(),
}
