"""The length-controlled win rate: the fit against planted coefficients, its interval, and when there is none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from paths import real
from prefloop.analysis.length_control import FEWEST, controlled


def planted(theta: float, phi: float, *, n: int, seed: int = 0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    longer = rng.normal(shift, 100, n)
    p = expit(theta + phi * np.tanh(longer / longer.std()))
    return (rng.random(n) < p).astype(float), longer


@pytest.mark.parametrize(("theta", "phi"), [(0.0, 0.0), (0.4, 2.0), (-0.7, -1.0)])
def test_planted_coefficients_are_found(theta: float, phi: float) -> None:
    wins, longer = planted(theta, phi, n=20_000, shift=60)
    found = controlled(wins, longer)
    assert found is not None
    assert found.rate == pytest.approx(expit(theta), abs=0.015) and found.length == pytest.approx(phi, abs=0.15)
    assert found.low < found.rate < found.high


def test_a_longer_side_that_wins_by_length_alone_is_put_back_to_one_half() -> None:
    wins, longer = planted(0.0, 3.0, n=5000, shift=100)
    found = controlled(wins, longer)
    assert wins.mean() > 0.75 and found is not None and found.low < 0.5 < found.high


def test_swapping_the_sides_gives_the_complement() -> None:
    wins, longer = planted(0.5, 1.0, n=300)
    one, two = controlled(wins, longer), controlled(1 - wins, -longer)
    assert one is not None and two is not None
    assert (one.rate + two.rate, one.low + two.high) == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4))
    assert one.length == pytest.approx(two.length, abs=1e-3)


def test_without_an_effect_of_length_it_is_the_win_rate() -> None:
    """Every length equally often won and lost: the fit's only free number is the intercept."""
    longer = np.tile([-2.0, -1.0, 1.0, 2.0], 50)
    wins = np.repeat([1.0, 0.5, 1.0, 0.5, 0.0], 40)
    wins = np.stack([np.random.default_rng(i).permutation(wins[::4]) for i in range(4)], axis=1).ravel()
    found = controlled(wins, longer)
    assert found is not None and logit(found.rate) == pytest.approx(logit(wins.mean()), abs=0.1)


def test_intervals_cover_and_clusters_widen_them() -> None:
    held = 0
    for seed in range(200):
        wins, longer = planted(0.3, 1.5, n=200, seed=seed)
        found = controlled(wins, longer)
        assert found is not None
        held += found.low <= expit(0.3) <= found.high
    assert 0.91 <= held / 200 <= 0.99
    wins, longer = planted(0.3, 1.5, n=100)
    alone = controlled(wins, longer)
    twice = controlled(np.tile(wins, 2), np.tile(longer, 2), clusters=[*range(100), *range(100)])
    assert alone is not None and twice is not None
    assert twice.high - twice.low == pytest.approx(alone.high - alone.low, rel=0.02)  # copies tell nothing new


def test_what_cannot_be_separated_has_no_rate() -> None:
    wins, longer = planted(0.0, 1.0, n=200)
    assert controlled(wins[: FEWEST - 1], longer[: FEWEST - 1]) is None
    assert controlled(wins, np.zeros(200)) is None and controlled(np.ones(200), longer) is None
    with pytest.raises(ValueError, match="one win in"):
        controlled(wins * 2, longer)
    by_length = controlled((longer > 0).astype(float), longer)  # length decides everything: finite all the same
    assert by_length is not None and 0.2 < by_length.rate < 0.8 and np.isfinite(by_length.length)


@pytest.mark.parametrize(
    ("model", "raw", "published", "gap"),
    [
        ("phi-2", 30.6633, 29.8192, -0.31),
        ("text_davinci_001", 15.1741, 20.5712, 0.50),
        ("alpaca-7b", 26.4596, 26.2950, -0.59),
        ("alpaca-farm-ppo-human", 41.2422, 29.7821, 0.75),
    ],
)
def test_beside_the_published_figures(
    model: str, raw: float, published: float, gap: float, preference_data: Path
) -> None:
    """Raw rates are equal; at equal lengths two of four are within half a point, without instruction difficulties."""
    name = f"alpaca_eval/raw_alpaca_eval_gpt4/{model}.annotations.json.gz"
    annotated = json.loads(gzip.decompress(real(preference_data, name).read_bytes()))
    rows = [row for row in annotated if row["preference"] is not None]
    codes = np.array([float(row["preference"]) for row in rows])
    wins = np.where(codes == 0, 0.5, codes - 1)  # 0 is a tie
    found = controlled(wins, [len(row["output_2"]) - len(row["output_1"]) for row in rows])
    assert found is not None and 100 * wins.mean() == pytest.approx(raw, abs=1e-3)
    assert 100 * found.rate - published == pytest.approx(gap, abs=0.01)
