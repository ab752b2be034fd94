"""All measures of data on a small tabular policy, against enumeration, and the page that tells them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.analysis import enumerated
from prefloop.analysis.cannot_tell import CannotTell
from prefloop.analysis.offer import Given, Samples, measured, record
from prefloop.analysis.statistics import Mean
from prefloop.core.streams import streams
from prefloop.policies.categorical import Categorical
from prefloop.report.offer import About, _percent, _place, _plain, cell, sentences, text, unknown
from toys import rewards, tabular

PROMPTS, ARMS, GROUP = 40, 4, 16
ABOUT = About("tabular", "pairs.jsonl", "reward", PROMPTS, GROUP, 2, 2 * PROMPTS, 0.25, 0.0, 1.0)


def number(tokens: Tensor) -> Tensor:
    return tokens[..., 0] * ARMS + tokens[..., 1]


def likelier(policy: Categorical, x: Tensor, responses: Tensor) -> Tensor:
    """Probability of all next tokens that are likelier than each token, [P, G, T]."""
    law = policy.next_logp(x, responses).detach()
    return (law.exp() * (law > law.gather(-1, responses[..., None]))).sum(-1)


@pytest.fixture(scope="module")
def lab() -> tuple[Given, Samples, Tensor, Tensor]:
    """Pairs of a near-uniform writer, the better one chosen; samples of the reference; its law; all rewards."""
    policy, table, x = tabular(PROMPTS, ARMS, 2, scale=2.0), rewards(PROMPTS, ARMS, 2), torch.arange(PROMPTS)
    law, rng = policy.distribution(x).detach(), streams(0)["sampling"]
    samples = policy.draw(x, GROUP, rng).responses
    data = tabular(PROMPTS, ARMS, 2, seed=3, scale=0.3).draw(x, 2, rng).responses
    score = table.gather(1, number(data))
    first = score[:, :1] >= score[:, 1:]
    side = torch.cat([first, ~first], 1).long() * 2 - 1
    pairs = [[2 * i + int(not f), 2 * i + int(f)] for i, f in enumerate(first[:, 0].tolist())]
    given = Given(
        np.repeat(np.arange(PROMPTS), 2),
        side.flatten().numpy(),
        law.gather(1, number(data)).flatten().numpy(),
        np.full(2 * PROMPTS, 2.0),
        data.flatten(0, 1).tolist(),
        list(likelier(policy, x, data).flatten(0, 1).numpy()),
        np.array(pairs),
        reward=score.flatten().numpy(),
    )
    own = Samples(
        law.gather(1, number(samples)).numpy(),
        np.full((PROMPTS, GROUP), 2.0),
        samples.tolist(),
        table.gather(1, number(samples)).numpy(),
    )
    return given, own, law, table


def test_the_measures_are_those_of_the_law(lab: tuple[Given, Samples, Tensor, Tensor]) -> None:
    given, own, law, table = lab
    found = measured(given, own, beta=2.0)
    chosen = np.flatnonzero(given.side == 1)
    exact = enumerated.percentile(law, law, torch.from_numpy(given.logp[chosen])).numpy()
    place, best, tilt = (
        found[f"{key}"] for key in ("coverage/chosen/percentile", "geometry/best_of/8", "geometry/optimum/kl")
    )
    assert isinstance(place, Mean) and abs(place.value - exact.mean()) <= 4 * place.se
    assert isinstance(best, Mean) and abs(best.value - float(enumerated.best_of(law, table, 8).mean())) <= 4 * best.se
    assert isinstance(tilt, Mean) and abs(tilt.value - float(enumerated.tilt(law, table, 2.0)[1].mean())) <= 4 * tilt.se
    agrees, votes = found["coverage/pairs/reward_agrees"], found["boundary/votes"]
    assert isinstance(agrees, Mean) and agrees.value >= 0.5 and isinstance(votes, Mean) and votes.units == PROMPTS
    assert set(record(found)) == set(found) and record(found)["coverage/global"]["cannot_tell"]


def test_the_page_has_the_numbers_and_fits_80_columns(lab: tuple[Given, Samples, Tensor, Tensor]) -> None:
    given, own, _, _ = lab
    found = measured(given, own, beta=2.0)
    page = text(found, ABOUT, ["a note"])
    assert all(len(line) <= 80 for line in page.splitlines()) and page.endswith("note: a note")
    for side in ("chosen", "rejected"):
        for key in ("percentile", "unlikely", "tokens_outside"):
            value = found[f"coverage/{side}/{key}"]
            assert isinstance(value, Mean) and cell(value, key) in page
    for key, value in found.items():
        if key.startswith(("geometry/best_of/", "geometry/optimum/kl")) and isinstance(value, Mean):
            assert _plain(value) in page
    assert sentences(found, ABOUT)[0].startswith("tabular wrote 16 samples to each of 40 prompts of pairs.jsonl")


def test_what_cannot_be_told_is_named_with_its_reason(lab: tuple[Given, Samples, Tensor, Tensor]) -> None:
    given, own, _, _ = lab
    found = measured(given, Samples(own.logp, own.length, own.tokens), beta=2.0)
    assert isinstance(found["geometry"], CannotTell) and "boundary/votes" not in found
    assert any(name.startswith("reward of the reference's samples") for name in unknown(found))
    assert unknown(measured(None, own, beta=1e-3))["coverage"] == "the data have no responses"
    assert "effective samples" in unknown(measured(None, own, beta=1e-3))["optimum at the asked β"]
    assert len(sentences(measured(None, own, beta=2.0), ABOUT)) >= 2


def test_rewards_of_cut_samples_are_not_compared_with_those_of_whole_responses(
    lab: tuple[Given, Samples, Tensor, Tensor],
) -> None:
    given, own, _, _ = lab
    few, many = (measured(given, replace(own, cut=share), beta=2.0) for share in (0.05, 0.4))
    compared = [key for key in few if "reward_percentile" in key or "reward_minus" in key or key.startswith("boundary")]
    compared += [key for key in few if key.endswith("as_best_of")]
    assert len(compared) == 8 and all(isinstance(many[key], CannotTell) for key in compared)
    assert {k: v for k, v in many.items() if k not in compared} == {k: v for k, v in few.items() if k not in compared}
    shown = " ".join(text(many, ABOUT, []).split())
    assert "40 % of the samples are cut and scored unfinished" in shown and "stage boundary of arXiv" not in shown
    assert "It scores the chosen responses" in shown and "percentile of the samples" not in shown


@pytest.mark.parametrize(
    ("se", "share", "place", "plain"),
    [
        (0.0003, "0.5 ± <0.05 %", "1st (± <0.05)", "0.0052 ± 0.0003"),
        (0.00002, "0.5 ± <0.05 %", "1st (± <0.05)", "0.0052 ± <0.00005"),
        (0.0121, "0.5 ± 1.2 %", "1st (± 1.2)", "0.005 ± 0.012"),
        (0.0, "0.5 % (alike in all 12 prompts)", "1st (alike in all 12 prompts)", "0.005200"),
        (float("nan"), "0.5 %", "1st", "0.005200"),
    ],
)
def test_no_standard_error_is_rounded_to_nothing(se: float, share: str, place: str, plain: str) -> None:
    found = Mean(0.0052, se, 12)
    assert (_percent(found), _place(found), _plain(found)) == (share, place, plain)
    assert cell(Mean(0.0, 0.0, 12), "unlikely") == "0 % of 12" and cell(Mean(0.5, 0.0, 12), "unlikely") == "50.0 %"
