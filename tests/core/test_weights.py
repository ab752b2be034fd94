"""Golden values of every weight, from plain Python, with ties, ragged groups, refusals and one value per run."""

from __future__ import annotations

import inspect
import math
import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from prefloop.core import weights as w
from prefloop.core.batch import Batch, MissingNeed
from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS
from toys import make_batch, make_logp, stack

F64 = torch.float64
NAN, INF = math.nan, math.inf
# three prompts of three responses: a tie for the best, one absent place that holds garbage, one lonely response
SCORES = [[1.0, 3.0, 3.0], [-1.0, 0.5, NAN], [2.0, NAN, -INF]]
THERE = [[True, True, True], [True, True, False], [True, False, False]]
PRESENT = [[1.0, 3.0, 3.0], [-1.0, 0.5], [2.0]]
ALL = [r for row in PRESENT for r in row]


def record(scores: list[list[float]] = SCORES, there: list[list[bool]] | None = THERE, tokens: int = 2) -> Batch:
    r = torch.tensor(scores, dtype=F64)
    return Batch(
        prompts=torch.arange(len(scores)),
        responses=torch.zeros(*r.shape, tokens, dtype=torch.long),
        mask=torch.ones(*r.shape, tokens, dtype=torch.bool),
        scores=r,
        labels=r,
        valid=None if there is None else torch.tensor(there),
    )


def full(scores: list[list[float]]) -> Batch:
    return record(scores, None)


def close(x: Tensor, want: list[list[float]], tolerance: float = 1e-12) -> None:
    """Equal where present, exactly 0 where not (lists shorter than the group)."""
    filled = [row + [0.0] * (x.shape[-1] - len(row)) for row in want]
    assert x.tolist() == [pytest.approx(row, abs=tolerance, rel=tolerance) for row in filled]


def test_uniform_counts_every_response_that_is_there() -> None:
    close(w.uniform(record()), [[1, 1, 1], [1, 1], [1]])
    close(w.uniform(record([[5.0, 1.0]], None, tokens=1)), [[1, 1]])


def test_best_only_shares_ties_and_skips_empty_places() -> None:
    close(w.best_only(record()), [[0, 0.5, 0.5], [0, 1], [1]])
    close(w.best_only(full([[2.0, 2.0, 2.0, 1.0]])), [[1 / 3, 1 / 3, 1 / 3, 0]])
    none = w.best_only(record([[1.0, 2.0]], [[False, False]]))
    close(none, [[0, 0]])


def test_positive_is_strict() -> None:
    close(w.positive(record()), [[1, 1, 1], [0, 1], [1]])
    close(w.positive(full([[0.0, 1e-300, -1e-300, 7.0]])), [[0, 1, 0, 1]])


def test_above_keeps_what_reaches_the_threshold() -> None:
    close(w.above(record(), threshold=0.5), [[1, 1, 1], [0, 1], [1]])
    close(w.above(record(), threshold=2.5), [[0, 1, 1], [0, 0], [0]])


def test_above_takes_a_quantile_of_the_collection() -> None:
    # sorted: −1, 0.5, 1, 2, 3, 3; the 0.75 quantile sits at 3.75 of 0..5: between 2 and 3, at 2.75
    close(w.above(record()), [[0, 1, 1], [0, 0], [0]])
    # the 0.5 quantile sits at 2.5: 1.5
    close(w.above(record(), quantile=0.5), [[0, 1, 1], [0, 0], [1]])
    close(w.above(full([[1.0, 2.0, 3.0, 4.0, 5.0]])), [[0, 0, 0, 1, 1]])  # exactly the fourth of five


def test_exponential_raw_and_its_cap() -> None:
    close(w.exponential(record(), normalise="none", beta=2.0), [[math.exp(r / 2) for r in row] for row in PRESENT])
    got = w.exponential(full([[2.0, 3.0, 50.0]]), normalise="none")
    close(got, [[math.exp(2), 20.0, 20.0]])  # e³ = 20.09 is above the cap
    close(w.exponential(full([[1.0, 3.0]]), normalise="none", cap=5.0), [[math.e, 5.0]])


def test_exponential_normalised_by_prompt() -> None:
    def share(row: list[float], beta: float) -> list[float]:
        z = [math.exp(r / beta) for r in row]
        return [len(row) * v / sum(z) for v in z]

    for beta in (0.5, 1.0, 3.0):
        close(w.exponential(record(), normalise="prompt", beta=beta), [share(row, beta) for row in PRESENT])
    with pytest.raises(UserError, match="normalise='prompt'"):
        w.exponential(full([[1.0], [2.0]]), normalise="prompt")


def test_exponential_normalised_by_batch() -> None:
    z = sum(math.exp(r) for r in ALL)
    want = [[len(ALL) * math.exp(r) / z for r in row] for row in PRESENT]
    close(w.exponential(record()), want)
    close(w.exponential(record(), beta=1.0, normalise="batch", baseline="batch"), want)  # the baseline vanishes
    assert float(w.exponential(record(), beta=0.3).sum()) == pytest.approx(6.0)


def test_exponential_subtracts_its_baseline() -> None:
    got = w.exponential(full([[1.0, 2.0]]), normalise="none", baseline="prompt")
    close(got, [[math.exp(-0.5), math.exp(0.5)]])


@pytest.mark.parametrize(("name", "changes"), [("awr", {}), ("rwr", {"normalise": "none"})])
def test_absolute_weights_are_averaged_over_responses(name: str, changes: dict[str, object]) -> None:
    """−(1/N) Σ w log π with w = exp((r − b)/β), at most 20, by loops: the published AWR and RWR."""
    batch = make_batch(3, responses=4, ragged=True)
    logp, row = make_logp(batch, 3), METHODS[name].override(beta=0.4, **changes)
    assert batch.scores is not None
    total, places = 0.0, batch.present.nonzero().tolist()
    for p, i in places:
        mean = float(batch.scores[p][batch.present[p]].mean()) if name == "awr" else 0.0
        weight = min(20.0, math.exp((float(batch.scores[p, i]) - mean) / 0.4))
        total -= weight * sum(logp[p, i, : int(batch.lengths[p, i])].tolist())
    assert float(row.loss(logp, batch)) == pytest.approx(total / len(places), rel=1e-12)
    better = replace(batch, scores=batch.scores + 0.4)  # of rewards without a baseline, not the differences alone
    grown = float(row.override(cap=1e9).loss(logp, better) / row.override(cap=1e9).loss(logp, batch))
    assert grown == pytest.approx(1.0 if name == "awr" else math.e)


def test_unknown_names_suggest_the_nearest() -> None:
    """Of a method, and of the function itself where, unlike here, no type checker stands before it."""
    for name, wrong, right in (("rwr", {"normalise": "promt"}, "prompt"), ("reinforce", {"scale": "bach"}, "batch")):
        with pytest.raises(UserError, match=f"did you mean `{right}`"):
            METHODS[name].override(**wrong)
    with pytest.raises(UserError, match="did you mean `leave_one_out`"):
        METHODS["reinforce"].override(baseline="leave_one")
    exponential, advantage = (inspect.unwrap(f) for f in (w.exponential, w.advantage))
    with pytest.raises(UserError, match="did you mean `prompt`"):
        exponential(record(), normalise="promt")
    with pytest.raises(UserError, match="did you mean `leave_one_out`"):
        advantage(record(), baseline="leave_one")
    with pytest.raises(UserError, match="did you mean `batch`"):
        advantage(record(), scale="bach")


def test_baselines() -> None:
    close(w.advantage(record(), baseline="none"), PRESENT)
    mean = sum(ALL) / 6
    close(w.advantage(record()), [[r - mean for r in row] for row in PRESENT])
    want = [[r - sum(row) / len(row) for r in row] for row in PRESENT]
    close(w.advantage(record(), baseline="prompt"), want)
    first = torch.full((3, 3, 2), 9.0, dtype=F64)
    first[..., 0] = 0.25
    close(w.advantage(replace(record(), values=first), baseline="values"), [[r - 0.25 for r in row] for row in PRESENT])
    with pytest.raises(MissingNeed, match="values"):
        w.advantage(record(), baseline="values")


def test_leave_one_out_by_its_definition() -> None:
    want = [[r - (sum(row) - r) / (len(row) - 1) if len(row) > 1 else 0.0 for r in row] for row in PRESENT]
    close(w.leave_one_out(record()), want)
    close(w.leave_one_out(full([[1.0, 4.0]])), [[-3.0, 3.0]])


def test_a_lonely_response_has_no_advantage_only_against_its_group() -> None:
    # the lonely score 2 of prompt 2 keeps its advantage where the baseline is not its group
    for baseline in ("none", "batch", "running"):
        assert w.advantage(record(), baseline=baseline)[2, 0] != 0
    for baseline in ("prompt", "leave_one_out"):
        assert w.advantage(record(), baseline=baseline)[2, 0] == 0


@pytest.mark.parametrize("baseline", ["prompt", "leave_one_out"])
def test_group_baselines_refuse_single_responses(baseline: str) -> None:
    with pytest.raises(UserError, match=f"baseline='{baseline}' compares responses"):
        w.advantage(full([[1.0], [2.0]]), baseline=baseline)


def test_running_baseline_knows_earlier_collections_only() -> None:
    seen = {"count": torch.tensor(8.0, dtype=F64), "mean": torch.tensor(0.75, dtype=F64)}
    close(w.advantage(record(), baseline="running", state=seen), [[r - 0.75 for r in row] for row in PRESENT])
    mean = sum(ALL) / 6
    nothing = {"count": torch.tensor(0.0, dtype=F64), "mean": torch.tensor(5.0, dtype=F64)}
    for state in (None, nothing):
        got = w.advantage(record(), baseline="running", state=state)
        close(got, [[r - mean for r in row] for row in PRESENT])
    one = {"count": torch.tensor(1.0, dtype=F64), "mean": torch.tensor(-2.0, dtype=F64)}
    close(w.advantage(full([[1.0, 0.0]]), baseline="running", state=one), [[3.0, 2.0]])


def test_scales() -> None:
    mean, std = sum(ALL) / 6, statistics.stdev(ALL)
    close(w.advantage(record(), scale="batch"), [[(r - mean) / (std + 1e-4) for r in row] for row in PRESENT])
    got = w.advantage(record(), baseline="none", scale="prompt", eps=0.5)
    stds = [statistics.stdev(row) if len(row) > 1 else 0.0 for row in PRESENT]
    close(got, [[r / (s + 0.5) for r in row] for row, s in zip(PRESENT, stds, strict=True)])


def test_group_zscore() -> None:
    want = []
    for row in PRESENT[:2]:
        mean, std = sum(row) / len(row), statistics.stdev(row)
        want.append([(r - mean) / (std + 1e-4) for r in row])
    close(w.group_zscore(record()), [*want, [0.0]])
    close(w.group_zscore(full([[0.0, 2.0]]), eps=1.0), [[-1 / (1 + math.sqrt(2)), 1 / (1 + math.sqrt(2))]])
    close(w.group_zscore(full([[4.0, 4.0, 4.0]])), [[0, 0, 0]])  # a tie of all: no advantage, no NaN


VALUES = [[0.5, -0.25, 1.0], [0.125, 0.75, NAN], [2.0, NAN, NAN]]
REWARDS = [1.0, -2.0, 0.5]
LENGTHS = [3, 2, 1]


def critic_batch(penalty: bool = False) -> Batch:
    mask = torch.arange(3) < torch.tensor(LENGTHS)[:, None]
    cost = torch.tensor([[[0.1, 0.2, 0.3]], [[-0.5, 0.25, 0.0]], [[1.0, 0.0, 0.0]]], dtype=F64)
    return Batch(
        prompts=torch.arange(3),
        responses=torch.zeros(3, 1, 3, dtype=torch.long),
        mask=mask[:, None],
        scores=torch.tensor(REWARDS, dtype=F64)[:, None],
        values=torch.tensor(VALUES, dtype=F64)[:, None],
        penalty=cost if penalty else None,
    )


def gae_by_definition(i: int, g: float, lam: float, penalty: list[float]) -> list[float]:
    """Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} − V_t (arXiv:1506.02438, eq. 16)."""
    n = LENGTHS[i]
    reward = [penalty[t] + (REWARDS[i] if t == n - 1 else 0.0) for t in range(n)]
    v = [*VALUES[i][:n], 0.0]
    delta = [reward[t] + g * v[t + 1] - v[t] for t in range(n)]
    return [sum((g * lam) ** k * delta[t + k] for k in range(n - t)) for t in range(n)]


@pytest.mark.parametrize(("g", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.0, 0.3)])
@pytest.mark.parametrize("penalty", [False, True])
def test_gae_by_its_definition(g: float, lam: float, penalty: bool) -> None:
    batch = critic_batch(penalty)
    cost = [[0.0] * 3] * 3 if batch.penalty is None else batch.penalty[:, 0].tolist()
    got = w.gae(batch, discount=g, lam=lam, whiten=False)[:, 0]
    close(got, [gae_by_definition(i, g, lam, cost[i]) for i in range(3)])


def test_gae_whitens_over_the_tokens_of_the_run() -> None:
    raw = [gae_by_definition(i, 1.0, 0.95, [0.0] * 3) for i in range(3)]
    flat = [a for row in raw for a in row]
    mean, std = statistics.mean(flat), statistics.stdev(flat)
    close(w.gae(critic_batch())[:, 0], [[(a - mean) / (std + 1e-8) for a in row] for row in raw])


def test_gae_is_the_return_minus_the_value_at_lambda_one() -> None:
    got = w.gae(critic_batch(), lam=1.0, whiten=False)[:, 0]
    close(got, [[REWARDS[i] - VALUES[i][t] for t in range(LENGTHS[i])] for i in range(3)])


def test_gae_whitening_survives_equal_advantages() -> None:
    batch = replace(critic_batch(), values=torch.zeros(3, 1, 3, dtype=F64), scores=torch.ones(3, 1, dtype=F64))
    assert w.gae(batch, lam=1.0).abs().max() == 0


def test_gae_whitening_scale_has_a_tiny_floor() -> None:
    tiny = 1e-8 * torch.tensor([[1.0], [-1.0]], dtype=F64)
    mask = torch.ones(2, 1, 1, dtype=torch.bool)
    batch = Batch(torch.arange(2), mask.long(), mask, scores=tiny, values=torch.zeros(2, 1, 1, dtype=F64))
    # standard deviation √2·1e-8, floor 1e-8
    assert w.gae(batch)[:, 0, 0].tolist() == pytest.approx([1 / (math.sqrt(2) + 1), -1 / (math.sqrt(2) + 1)])


def test_gae_leaves_absent_responses_out_of_its_statistics() -> None:
    batch = critic_batch()
    more = replace(
        batch,
        responses=batch.responses.repeat(1, 2, 1),
        mask=batch.mask.repeat(1, 2, 1),
        scores=torch.cat([batch.scores, torch.full((3, 1), NAN, dtype=F64)], 1),
        values=torch.cat([batch.values, torch.full((3, 1, 3), 50.0, dtype=F64)], 1),
        valid=torch.tensor([[True, False]] * 3),
    )
    got = w.gae(more)
    assert torch.equal(got[:, :1], w.gae(batch)) and got[:, 1].abs().sum() == 0


def test_gae_names_what_is_missing() -> None:
    with pytest.raises(MissingNeed, match="values"):
        w.gae(replace(critic_batch(), values=None))
    with pytest.raises(MissingNeed, match="scores"):
        w.gae(replace(critic_batch(), scores=None))


CALLS = {
    "uniform": (w.uniform, {}),
    "best_only": (w.best_only, {}),
    "positive": (w.positive, {}),
    "above": (w.above, {"threshold": [-0.5, 0.3]}),
    "above_quantile": (w.above, {}),
    "rwr": (w.exponential, {"beta": [0.5, 2.0]}),
    "rwr_prompt": (w.exponential, {"beta": [0.5, 2.0], "normalise": "prompt"}),
    "awr": (w.exponential, {"beta": [0.5, 2.0], "normalise": "none", "baseline": "leave_one_out"}),
    "advantage": (w.advantage, {"scale": "batch"}),
    "running": (w.advantage, {"baseline": "running", "state": {"count": [0.0, 3.0], "mean": [1.0, -1.0]}}),
    "rloo": (w.leave_one_out, {}),
    "grpo": (w.group_zscore, {}),
    "gae": (w.gae, {"discount": [0.9, 1.0], "lam": [0.3, 0.95]}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("ragged", [False, True])
def test_stacked_runs_equal_each_alone(name: str, ragged: bool) -> None:
    part, options = CALLS[name]

    def pick(value: object, run: int | None) -> object:
        if isinstance(value, dict):
            return {k: pick(v, run) for k, v in value.items()}
        if not isinstance(value, list):
            return value
        return torch.tensor(value, dtype=F64) if run is None else torch.tensor(value[run], dtype=F64)

    alone = [make_batch(seed, ragged=ragged) for seed in (1, 2)]
    if ragged:
        alone = [replace(b, scores=torch.where(b.present, b.scores, NAN)) for b in alone]
    got = part(stack(alone), **{k: pick(v, None) for k, v in options.items()})
    for run, batch in enumerate(alone):
        want = part(batch, **{k: pick(v, run) for k, v in options.items()})
        assert torch.isfinite(want).all()
        assert torch.allclose(got[run], want, atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"uniform"}))
def test_float64_stays_float64_and_shape_is_kept(name: str) -> None:
    part, _ = CALLS[name]
    batch = make_batch(3)
    got = part(batch)
    assert got.dtype == F64
    assert got.shape == (batch.mask.shape if name == "gae" else batch.mask.shape[:-1])
