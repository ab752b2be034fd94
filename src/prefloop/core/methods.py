"""The table of methods. An entry has the parts, the settings that differ from the defaults, a summary and the paper.

A new method needs only this file: its function may be defined here too, decorated with `reads`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from prefloop.core import objectives as _o
from prefloop.core import pairs as _p
from prefloop.core import user
from prefloop.core import weights as _w
from prefloop.core.errors import UserError, nearest
from prefloop.core.method import Method

__all__ = ["METHODS", "Method", "method"]

OWN = "imitating its own samples has an expected gradient of zero, so a mixture only dilutes the data"


class UnknownMethod(UserError, KeyError):
    """No method has that name."""

    __str__ = UserError.__str__  # KeyError's shows the message as a Python string


class Methods(dict[str, Method]):
    """Methods by name; an unknown one suggests the nearest."""

    def __missing__(self, name: str) -> Method:
        raise UnknownMethod(f"unknown method `{name}`", fix=nearest(str(name), self))


# fmt: off
METHODS = Methods({
    # supervised: c >= 0
    "sft": Method(_o.nll, _w.uniform, on_policy=0.0, responses=1, refuses_mixture=OWN,
        summary="Imitates all responses of the dataset equally.",
        paper="Ouyang 2022, arXiv:2203.02155"),
    "pref_ft": Method(_o.nll, _w.best_only, on_policy=0.0, responses=2,
        summary="Imitates only the preferred response of each pair and discards the other.",
        paper="Dubois 2023, arXiv:2305.14387"),
    "binary_feedme": Method(_o.nll, _w.positive, on_policy=0.0, responses=1,
        summary="Imitates the responses with a positive label and discards the others.",
        paper="Dubois 2023, arXiv:2305.14387"),
    "best_of_n": Method(_o.nll, _w.best_only,
        summary="Writes N responses to each prompt and imitates the best one.",
        paper="Stiennon 2020, arXiv:2009.01325"),
    "best_of_n_offline": Method(_o.nll, _w.best_only, on_policy=0.0,
        summary="Imitates the best of N dataset responses to each prompt.",
        paper="Stiennon 2020, arXiv:2009.01325"),
    "rest": Method(_o.nll, _w.above, reuse=2,
        summary="Writes responses, keeps those above a threshold and imitates them for several passes.",
        paper="Gulcehre 2023, arXiv:2308.08998"),
    "rwr": Method(_o.nll, _w.exponential,
        summary="Imitates its own responses, each weighted by its exponentiated reward.",
        paper="Peters & Schaal 2007, doi:10.1145/1273496.1273590"),
    "awr": Method(_o.nll, _w.exponential, options={"normalise": "none", "baseline": "prompt"},
        summary="Imitates its own responses, each weighted by its exponentiated advantage.",
        paper="Peng 2019, arXiv:1910.00177"),
    "best_of_n_negative": Method(_o.nll_negative, pairs=_p.best_vs_worst,
        summary="Imitates the best of N of its own responses and pushes the worst one down, with a bounded term.",
        paper="Tajwar 2024, arXiv:2404.14367"),
    # policy gradient: c = A · ρ
    "reinforce": Method(_o.policy_gradient, _w.advantage, options={"baseline": "running"},
        summary="Pulls up its own responses that score above the running mean and pushes down those below.",
        paper="Williams 1992, doi:10.1007/BF00992696"),
    "rloo": Method(_o.policy_gradient, _w.leave_one_out,
        summary="REINFORCE whose baseline is the mean score of the other responses to the same prompt.",
        paper="Ahmadian 2024, arXiv:2402.14740"),
    "grpo": Method(_o.clipped, _w.group_zscore, responses=8, reduction="mean",
        summary="PPO's clip on advantages that are standardised within each group; no critic.",
        paper="Shao 2024, arXiv:2402.03300"),
    "grpo_no_std": Method(_o.clipped, _w.advantage, responses=8, reduction="constant", options={"baseline": "prompt"},
        summary="GRPO without the biased divisions by the group's standard deviation and by the length.",
        paper="Liu 2025, arXiv:2503.20783"),
    "ppo": Method(_o.clipped, _w.gae, reuse=4, critic=True, kl=0.05, reduction="token",
        summary="Makes four passes over its own responses with a clipped ratio, a critic and token-level advantages.",
        paper="Schulman 2017, arXiv:1707.06347"),
    "ppo_critic_free": Method(_o.clipped, _w.advantage, reuse=4, options={"scale": "batch"},
        summary="PPO's clip with one standardised advantage per response; the paper's PPO.",
        paper="Tajwar 2024, arXiv:2404.14367"),
    # contrastive: c_w > 0 > c_l
    "dpo": Method(_o.dpo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="Raises the preferred response over the other one, relative to the reference model.",
        paper="Rafailov 2023, arXiv:2305.18290"),
    "cdpo": Method(_o.dpo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2, options={"smoothing": 0.1},
        summary="DPO that assumes a share of flipped labels, and therefore stops at a finite margin.",
        paper="Mitchell 2023, A note on DPO with noisy preferences"),
    "ipo": Method(_o.ipo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="Drives the margin between the two responses to a fixed target instead of raising it forever.",
        paper="Azar 2023, arXiv:2310.12036"),
    "slic": Method(_o.slic, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="Raises the preferred response over the other up to a margin, and imitates it; no reference model.",
        paper="Zhao 2023, arXiv:2305.10425"),
    "simpo": Method(_o.simpo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="Raises the preferred response over the other by mean log-prob per token; needs no reference model.",
        paper="Meng 2024, arXiv:2405.14734"),
    "orpo": Method(_o.orpo, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="Imitates the preferred response and raises its odds over the other; needs no reference model.",
        paper="Hong 2024, arXiv:2403.07691"),
    "dpop": Method(_o.dpop, pairs=_p.best_vs_worst, on_policy=0.0, responses=2,
        summary="DPO with a penalty if the preferred response itself becomes less likely than under the reference.",
        paper="Pal 2024, arXiv:2402.13228"),
    "kto": Method(_o.kto, on_policy=0.0, responses=1,
        summary="Learns from single responses labelled good or bad, each against the model's average drift.",
        paper="Ethayarajh 2024, arXiv:2402.01306"),
    "rso": Method(_o.dpo, pairs=_p.rejection_pairs, on_policy=0.0, responses=8,
        summary="DPO on pairs chosen by rejection sampling, so that they resemble samples from the optimal policy.",
        paper="Liu 2023, arXiv:2309.06657"),
    "online_dpo": Method(_o.dpo, pairs=_p.best_vs_worst, responses=2,
        summary="DPO on pairs that the current policy writes and the reward labels.",
        paper="Guo 2024, arXiv:2402.04792"),
    "online_ipo": Method(_o.ipo, pairs=_p.best_vs_worst, responses=2,
        summary="IPO on pairs that the current policy writes and the reward labels.",
        paper="Calandriello 2024, arXiv:2403.08635"),
})
# fmt: on
BUILTIN = dict(METHODS)


def own_code(name: str) -> Any:
    """What a method that this session added to METHODS computes, as JSON; None for a built-in one or `module:name`."""
    added = METHODS.get(name)
    if added is None or added is BUILTIN.get(name):
        return None
    said = ("summary", "paper", "refuses_mixture")
    return {f.name: user.code(getattr(added, f.name)) for f in fields(added) if f.name not in said}


def method(name: str) -> Method:
    """The method of that name; for `module:name`, import the user's module first, which adds it to METHODS.

    Raises:
        UserError: no such module or method; the nearest name is suggested.
    """
    home, _, own = name.rpartition(":")
    if home:
        user.module(home, where=f"method={name}")
    if home and own not in METHODS:
        raise UserError(f"`{home}` does not add a method `{own}` to METHODS", fix=nearest(own, METHODS))
    return METHODS[own]
