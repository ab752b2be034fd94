"""One stack of the lab: what it refuses, stacked against alone for every row, observers, accounting, divergence."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop import lab
from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.methods import METHODS
from prefloop.core.metric_table import metric
from prefloop.core.metrics import DRIFT
from prefloop.core.streams import Stream
from prefloop.lab import stack as stack_module
from prefloop.lab.setting import Setting, changed, make, names, seeds, stacks
from prefloop.lab.stack import Run, Training, Watch, build, run_stack
from prefloop.lab.store import read, to_bytes
from prefloop.worlds.arms import problem as bandit
from prefloop.worlds.arms.spec import Categorical
from toys import unchecked

KLS = ("eval/kl_reverse_exact", "eval/kl_forward_exact")
SMALL = {"responses": 4, "batch": 32, "minibatch": 16, "evaluation": 8, "data": 20}
TABLE = make("rloo", "arms", policy="tabular", contexts=4, **SMALL)
NET = make("rloo", "arms", hidden=16, **SMALL)
SEQUENCES = make("rloo", "sequences", responses=4, batch=16, minibatch=16, evaluation=4, data=8)


def trained(settings: Sequence[Setting]) -> tuple[list[Run], Training]:
    """The runs of a stack, and the world that they have left behind."""
    worlds: list[Training] = []

    def kept(given: Sequence[Setting]) -> Training:
        worlds.append(build(given))
        return worlds[-1]

    with pytest.MonkeyPatch.context() as patch, unchecked():
        patch.setattr(stack_module, "build", kept)
        return run_stack(settings), worlds[-1]


def parameters(world: Training) -> list[Tensor]:
    return [p.detach() for p in world.loop.policy.parameters()]


# ---------------------------------------------------------------------------------------------------------- settings

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"method": "rlooo"}, "unknown method `rlooo`.*\n.*did you mean `rloo`"),
    "policy": ({"policy": "gpt"}, "`policy` cannot be 'gpt'.*\n.*mlp"),
    "field": ({"centr": 3.0}, "unknown field `centr` of `arms`.*\n.*did you mean `centre`"),
    "field of another problem": ({"peak": 3.0}, "unknown field `peak` of `arms`.*\n.*it is a field of lengths"),
    "labels": ({"labels": "noise"}, "`labels` cannot be 'noise'.*\n.*`noisy`"),
    "scorer": ({"scorer": "golden"}, "`scorer`.*\n.*`gold`"),
    "fit": ({"fit": "reversed"}, "`fit`.*\n.*`reverse`"),
    "precision": ({"precision": "float16"}, "`precision`.*\n.*float"),
    "override": ({"override": {"negativ": 0.5}}, "no `negativ`.*\n.*`negative`"),
    "override of another row": ({"override": {"tau": 0.5}}, "no `tau`"),
    "override out of range": ({"override": {"negative": 2.0}}, "`negative` must be a share between 0 and 1"),
    "override nan": ({"override": {"kl": math.nan}}, "`kl` must be finite"),
    "M and B": ({"batch": 40, "minibatch": 32}, "must divide.*\n.*minibatch=32, batch=32"),
    "C and M": ({"minibatch": 18, "batch": 36}, "C=4 must divide minibatch M=18.*\n.*minibatch=16"),
    "reuse": ({"override": {"reuse": 0}}, "`reuse`"),
    **{
        f"{name} of {value}": ({name: value}, f"`{name}`.*at least 1")
        for name in ("steps", "evaluate", "evaluation", "data", "hidden", "batch", "minibatch", "responses")
        for value in (0, -3, 2.5)
    },
    **{
        f"{name} of {value}": ({name: value}, f"`{name}` must be a positive number, not {value!r}")
        for name in ("lr", "width", "skew_width", "temperature", "max_grad_norm")
        for value in (0.0, -1.0, math.nan, math.inf, "0.1")
    },
    **{
        f"{name} of {value}": ({name: value}, f"`{name}` must be a number, not {value!r}")
        for name in ("centre", "skew_centre")
        for value in (math.nan, -math.inf, None)
    },
    **{
        f"coverage of {value}": ({"coverage": value}, "`coverage` must be a share between 0 and 1")
        for value in (-0.1, 1.1, math.nan)
    },
    **{
        f"{name} of {value}": ({name: value}, f"`{name}` must be a whole number of at least 0")
        for name in ("contexts", "seed", "warmup")
        for value in (-1, 0.5)
    },
    "table without a list": ({"policy": "tabular", "contexts": 0}, "fixed list of contexts.*\n.*contexts=10"),
    "one response for pairs": ({"method": "dpo", "responses": 1}, "compares responses.*\n.*responses >= 2"),
    "one response for a baseline": ({"responses": 1}, "compares responses to the same prompt.*\n.*responses >= 2"),
    "one response for a scale": ({"method": "grpo", "responses": 1}, "compares responses to the same prompt"),
    "tokens of a loss per response": (
        {"method": "kto", "override": {"reduction": "token"}},
        "averaged over responses.*\n.*reduction=token",
    ),
    "mixture of nothing": (
        {"method": "online_dpo", "override": {"on_policy": 0.05}},
        "is not a mixture.*\n.*larger batch",
    ),
    "mixture refused": ({"method": "sft", "override": {"on_policy": 0.5}}, "refuses on_policy=0.5"),
    "KL in the reward": ({"method": "dpo", "override": {"kl": 0.1}}, "needs a policy-gradient method.*\n.*kl_in=loss"),
    "proxy without pairs": ({"scorer": "proxy", "responses": 1}, "needs pairs.*\n.*responses >= 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_with_advice(case: str) -> None:
    change, message = REFUSED[case]
    NET.check()
    with unchecked(), pytest.raises(UserError, match=f"(?s){message}"):
        changed(NET, **change).check()


def test_unknown_problems_are_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"(?s)unknown problem `arm`.*did you mean `arms`"):
        make("rloo", "arm")


@pytest.mark.parametrize("problem", ["sequences", "lengths"])
def test_a_kl_that_cannot_be_summed_is_refused(problem: str) -> None:
    one = make("rloo", problem, {"kl": 0.1, "kl_in": "loss", "kl_estimator": "exact"}, **SMALL)
    with pytest.raises(UserError, match=r"(?s)cannot sum over all responses.*\n.*kl_estimator=k2"):
        one.check()


def test_every_row_can_be_set_for_every_problem() -> None:
    for name in METHODS:
        for one in (TABLE, NET, SEQUENCES, make("rloo", "categorical", **SMALL)):
            replace(one, method=name).check()


FIELDS = {name: getattr(NET, name) for name in names(Setting)} | vars(NET.world)  # by name, with their values


def other(value: Any) -> Any:
    """A value unlike this one, of its type."""
    if isinstance(value, str):
        return value + "x"
    return {"reuse": 7} if isinstance(value, dict) else value + 1


def test_the_name_of_a_run_says_everything_that_is_in_it() -> None:
    with unchecked():  # some of the values are not legal ones
        others = [changed(NET, **{name: other(value)}) for name, value in FIELDS.items()]
    others.append(replace(NET, world=Categorical()))
    assert len({s.run for s in [NET, *others]}) == len(FIELDS) + 2
    a, b = (replace(NET, override=dict(order)) for order in ([("kl", 0.1), ("reuse", 2)], [("reuse", 2), ("kl", 0.1)]))
    assert a.run == b.run
    code = f"from prefloop.lab.setting import Setting; from prefloop.worlds.arms.spec import Arms; print({NET!r}.run)"
    source = str(Path(lab.__file__).parents[2])
    env = {"PYTHONPATH": source, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}  # another process, another hash seed
    told = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == NET.run


OWN = ("seed", "lr", "max_grad_norm", "centre", "width", "coverage", "skew_centre", "skew_width", "temperature")


def test_a_stack_holds_what_differs_per_run_and_nothing_else() -> None:
    for name in OWN:
        assert changed(NET, **{name: FIELDS[name] + 1}).stack == NET.stack, name
    with unchecked():
        for name, value in FIELDS.items():
            if name not in (*OWN, "method", "override"):
                assert changed(NET, **{name: other(value)}).stack != NET.stack, name
    assert replace(NET, method="reinforce").stack != NET.stack != replace(NET, world=Categorical()).stack
    lengths = make("rloo", "lengths")
    assert changed(lengths, peak=25.0, width=3.0).stack == lengths.stack != changed(lengths, network="smoke").stack

    def key(**override: Any) -> str:
        return replace(NET, method="ppo", override=override).stack

    assert key(negative=0.0) == key(negative=1) == key(negative=0.3)
    assert key(kl=0.1) == key(kl=0.2) != key(kl=0.0)  # no KL is another loss
    assert key(clip=0.1) == key(clip=0.3) and key(clip_high=0.4) != key(clip_high=None)
    assert len({key(), key(reuse=2), key(reuse=3), key(entropy=0.1), key(kl_in="loss")}) == 5
    assert (
        replace(NET, method="dpo", override={"beta": 0.1}).stack
        == replace(NET, method="dpo", override={"beta": 1}).stack
    )


def test_stacks_keep_the_order_and_their_size() -> None:
    first, second = seeds(NET, range(5)), seeds(replace(NET, method="dpo"), range(2))
    mixed = [first[0], second[0], first[1], first[2], second[1], first[3], first[4]]
    got = stacks(mixed, 2)
    assert got == [first[:2], first[2:4], first[4:], second]
    assert stacks(mixed, 32) == [first, second] and stacks([], 3) == []


# ------------------------------------------------------------------------------------------------- stacked and alone


def mates(one: Setting, name: str, **more: Any) -> list[Setting]:
    """Two runs with a seed, learning rate, switch, norm limit and reward of their own."""
    one = changed(one, method=name, precision="float64", **more)
    rate = 1e-2 if vars(one.world).get("policy") == "tabular" else 2e-3
    a = replace(one, lr=rate, override={**one.override, "negative": 1.0})
    b = changed(one, lr=3 * rate, override={**one.override, "negative": 0.4}, seed=3, centre=20.0, max_grad_norm=0.5)
    return [a, b]


def assert_stacked_equals_alone(settings: list[Setting], members: Sequence[int], atol: float = 1e-5) -> None:
    """All curves and parameters, and that there was something to compare."""
    together, world = trained(settings)
    for run in members:
        (alone,), own = trained([settings[run]])
        for name, want in alone.curves.items():
            np.testing.assert_allclose(together[run].curves[name], want, rtol=0, atol=atol, err_msg=name)
        for a, b in zip(parameters(world), parameters(own), strict=True):
            assert torch.allclose(a[run], b[0], atol=atol, rtol=0)
        start = [p.detach() for p in own.loop.reference.parameters()]
        moved = [float((a - b).abs().max()) for a, b in zip(parameters(own), start, strict=True)]
        assert max(moved) > 100 * atol
        assert alone.last("step") == settings[run].steps and alone.last("diverged") == 0
    gap = max(float((p[0] - p[-1]).abs().max()) for p in parameters(world))
    assert gap > 100 * atol


@pytest.mark.parametrize("name", METHODS)
def test_stacked_tables_equal_each_alone(name: str) -> None:
    """16 updates of every row, one of both runs in turn."""
    member = list(METHODS).index(name) % 2
    assert_stacked_equals_alone(mates(TABLE, name, steps=16, evaluate=8), [member])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("one", [TABLE, NET], ids=["table", "net"])
def test_stacked_equals_alone_after_100_updates(one: Setting, name: str) -> None:
    assert_stacked_equals_alone(mates(one, name, steps=100, evaluate=25), [0, 1])


@pytest.mark.parametrize("name", ["ppo", "kto"])
def test_stacked_networks_equal_each_alone_after_100_updates(name: str) -> None:
    """Two of the rows above, in the quick tests too."""
    assert_stacked_equals_alone(mates(NET, name, steps=100, evaluate=25), [1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "kto", "dpo", "best_of_n"])
def test_stacked_networks_of_the_published_width_equal_each_alone(name: str) -> None:
    assert_stacked_equals_alone(mates(changed(NET, hidden=256), name, steps=100, evaluate=25), [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rloo", "ppo", "online_dpo", "best_of_n", "kto", "ipo"])
def test_stacked_sequences_equal_each_alone(name: str) -> None:
    """12 updates of the GPT."""
    assert_stacked_equals_alone(mates(SEQUENCES, name, steps=12, evaluate=4), [0, 1])


VARIANTS: dict[str, dict[str, Any]] = {
    "noise and coverage": {"method": "dpo", "labels": "noisy"},
    "learned reward": {"method": "rloo", "scorer": "proxy"},
    "mixture": {"method": "online_dpo", "override": {"on_policy": 0.5}},
    "listed contexts": {"method": "best_of_n", "contexts": 3},
    "penalty": {"method": "reinforce", "override": {"kl": 0.1, "reuse": 2}},
}


@pytest.mark.parametrize("case", VARIANTS)
def test_stacked_equals_alone_whatever_the_data(case: str) -> None:
    change = dict(VARIANTS[case])
    a, b = mates(replace(NET, steps=20, evaluate=10), change.pop("method"), **change)
    b = changed(b, coverage=0.5, skew_centre=60.0, temperature=0.3)  # and a stays covered
    assert_stacked_equals_alone([a, b], [0, 1])


def part(batch: Batch, run: int) -> Batch:
    """One run of a stacked batch, still stacked."""
    told = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    return Batch(**{k: None if v is None else v[run : run + 1] for k, v in told.items()})


@pytest.mark.parametrize("name", ["rloo", "ppo", "dpo", "kto", "rwr", "best_of_n"])
def test_one_update_in_float32_on_frozen_responses_equals_that_alone(name: str) -> None:
    """Three runs at one learning rate of 1e-3: the change of every parameter to 1e-5."""
    settings = [changed(NET, method=name, seed=s, centre=c) for s, c in ((0, 70.0), (1, 20.0), (2, 50.0))]
    together = build(settings)
    start = [p.clone() for p in parameters(together)]
    together.loop.collect(0)
    frozen, rows = together.loop.collection, torch.arange(4).flip(0).expand(3, 4)
    assert frozen is not None and together.loop.signal is not None
    policies = [together.loop.policy.take(torch.tensor([run])) for run in range(3)]  # type: ignore[attr-defined]
    together.loop.update(rows, 0, 0)
    moved = [a - b for a, b in zip(parameters(together), start, strict=True)]
    assert all(float(torch.cat([m[run].flatten() for m in moved]).abs().max()) > 5e-4 for run in range(3))
    for run, setting in enumerate(settings):
        own = build([setting])
        own.loop.policy.restore(policies[run].state())
        own.loop.collection = part(frozen, run)
        own.loop.signal = own.loop.method.signal(own.loop.collection, None, own.loop.rng["signal"])
        own.loop.update(rows[run : run + 1], 0, 0)
        for a, b, change in zip(start, parameters(own), moved, strict=True):
            assert torch.allclose(b[0] - a[run], change[run], atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------- same bytes, no influence


def test_the_same_settings_give_the_same_bytes(tmp_path: Path) -> None:
    settings = seeds(replace(NET, method="online_dpo", steps=6, evaluate=2), [0, 1])
    first, again = to_bytes(run_stack(settings)), to_bytes(run_stack(settings))
    assert first == again != to_bytes(run_stack(seeds(settings[0], [0, 2])))
    (tmp_path / "a.parquet").write_bytes(first)
    for got, want in zip(read(tmp_path / "a.parquet"), run_stack(settings), strict=True):
        assert got.setting == want.setting and got.curves.keys() == want.curves.keys()
        for name, column in want.curves.items():
            np.testing.assert_array_equal(got.curves[name], column)


@pytest.mark.parametrize("name", ["ppo", "online_dpo", "rwr"])
@pytest.mark.parametrize("one", [TABLE, NET], ids=["table", "net"])
def test_how_often_a_run_is_looked_at_changes_nothing(one: Setting, name: str) -> None:
    one = replace(one, method=name, steps=50)
    (often,), a = trained([replace(one, evaluate=1)])
    (once,), b = trained([replace(one, evaluate=50)])
    assert len(often.curves["step"]) == 51 and once.curves["step"].tolist() == [0, 50]
    assert all(torch.equal(p, q) for p, q in zip(parameters(a), parameters(b), strict=True))
    for key in ("eval/gold", "eval/entropy", "eval/mass/peak", *KLS, "samples", "reward_queries", "loss", "grad_norm"):
        assert often.last(key) == once.last(key), key
    assert once.last("push/up") == pytest.approx(often.curves["push/up"][1:].mean(), rel=1e-5)
    assert once.last("push/up") > 0
    (log,), c = trained([replace(one, spacing="log")])
    at = [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 50]
    assert log.curves["step"].tolist() == at
    assert all(torch.equal(p, q) for p, q in zip(parameters(a), parameters(c), strict=True))
    for key in ("eval/gold", "eval/mass/peak", *KLS, "samples", "loss"):
        np.testing.assert_array_equal(log.curves[key], often.curves[key][at], err_msg=key)


def test_evaluations_end_with_the_last_step() -> None:
    steps = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362]
    for n in range(1, 363):
        one = replace(NET, steps=n, evaluate=10)
        assert replace(one, spacing="log").evaluations == [s for s in steps if s < n] + [n]
        assert one.evaluations == [s for s in range(1, n + 1) if s % 10 == 0 or s == n]


# ---------------------------------------------------------------------------------------------------------- divergence


def test_a_run_that_diverges_is_marked_and_its_neighbours_do_not_notice() -> None:
    calm = seeds(replace(NET, method="ipo", steps=12, evaluate=4), [0, 1])
    wild = replace(calm[0], lr=1e30)
    with_it, world = trained([calm[0], wild, calm[1]])
    without, other_world = trained(calm)
    assert [run.last("diverged") for run in with_it] == [0, 1, 0]
    assert with_it[1].curves["diverged"][0] == 0
    for got, want in zip((with_it[0], with_it[2]), without, strict=True):
        for name, column in want.curves.items():
            np.testing.assert_allclose(got.curves[name], column, rtol=1e-5, atol=1e-5, err_msg=name)
    for p, q in zip(parameters(world), parameters(other_world), strict=True):
        assert torch.allclose(p[[0, 2]], q, atol=1e-5) and bool(torch.isfinite(p).all())


def test_where_every_run_diverges_each_is_marked_and_has_a_whole_curve() -> None:
    one = replace(NET, method="ipo", steps=10, evaluate=4)
    wild = [replace(one, lr=1e30), replace(one, lr=1e30, seed=1)]
    told: list[int] = []
    both = run_stack(wild, told.append)
    (calm,) = run_stack([one])
    assert sum(told) == 10
    (log,) = run_stack([replace(wild[0], spacing="log")])
    assert log.curves["step"].tolist() == [0, 1, 2, 3, 4, 6, 8, 10] and log.last("diverged") == 1
    for run in [*both, *run_stack(wild[:1])]:
        assert run.curves["step"].tolist() == calm.curves["step"].tolist() == [0, 4, 8, 10]
        assert run.curves["diverged"].tolist() == [0, 1, 1, 1] and calm.last("diverged") == 0
        assert run.curves.keys() == calm.curves.keys()


# ---------------------------------------------------------------------------------------------------------- accounting


def counted(setting: Setting) -> dict[int, tuple[float, float, float]]:
    """At each evaluation: samples, queries, passes of a run, which are the same in a stack of three."""
    (run,) = run_stack([setting])
    for mate in run_stack(seeds(setting, [0, 1, 2])):
        assert all(mate.curves[k].tolist() == run.curves[k].tolist() for k in ("samples", "reward_queries", "passes"))
    told = (run.curves[name].tolist() for name in ("samples", "reward_queries", "passes"))
    return dict(zip(map(int, run.curves["step"].tolist()), zip(*told, strict=True), strict=True))


def test_what_an_on_policy_run_with_reuse_has_used() -> None:
    """B=40 in M=20, four passes: 8 steps per collection."""
    one = replace(TABLE, override={"reuse": 4}, batch=40, minibatch=20, steps=20, evaluate=4)
    assert counted(one) == {
        0: (0, 0, 0),
        4: (40, 40, 80 / 40),
        8: (40, 40, 160 / 40),
        12: (80, 80, 240 / 80),
        16: (80, 80, 320 / 80),
        20: (120, 120, pytest.approx(400 / 120)),
    }


def test_what_an_offline_run_has_used() -> None:
    """20 groups of 4: 80 responses, of which a step takes 20."""
    one = replace(TABLE, method="dpo", batch=20, minibatch=20, steps=16, evaluate=2)
    want = {step: (0, 0, 1.0 if step <= 4 else step / 4) for step in range(2, 17, 2)}
    assert counted(one) == {0: (0, 0, 0), **want}


def test_what_an_offline_run_with_reuse_has_used() -> None:
    """B=40 in M=20, two passes: 4 steps per collection, and the 80 responses are all there from step 5 on."""
    one = replace(TABLE, method="dpo", override={"reuse": 2}, batch=40, minibatch=20, steps=12, evaluate=2)
    want = {2: 40 / 40, 4: 80 / 40, 6: 120 / 80, 8: 160 / 80, 10: 200 / 80, 12: 240 / 80}
    assert counted(one) == {0: (0, 0, 0), **{step: (0, 0, passes) for step, passes in want.items()}}


def test_what_a_mixture_has_used() -> None:
    """Half of 40 responses are fresh; one scorer judges all of them; 8 steps take each of 20 offline groups once
    at most, so that no response is met twice before the data has gone round."""
    one = replace(TABLE, method="online_dpo", override={"on_policy": 0.5}, batch=40, minibatch=40, steps=4, evaluate=1)
    got = counted(changed(one, data=40))
    assert got == {0: (0, 0, 0), **{k: (20 * k, 40 * k, 1.0) for k in range(1, 5)}}


def test_a_learned_reward_does_not_make_a_run_offline() -> None:
    got = counted(changed(TABLE, scorer="proxy", batch=32, minibatch=32, steps=2, evaluate=1))
    assert got == {0: (0, 0, 0), 1: (32, 32, 1), 2: (64, 64, 1)}


def test_staleness_counts_the_steps_since_collection() -> None:
    """Two minibatches, three passes: the last of them is five updates old."""
    one = replace(TABLE, method="ppo_critic_free", override={"reuse": 3}, batch=32, minibatch=16, steps=6, evaluate=6)
    (run,) = run_stack([replace(one, lr=0.1)])
    assert run.last("staleness") == 5 and 0 < run.last("ess") < 0.99 and run.last("kl/collection") > 1e-3
    (run,) = run_stack([replace(one, lr=1e-12)])
    assert run.last("ess") == pytest.approx(1, abs=1e-5) and run.last("kl/collection") == pytest.approx(0, abs=1e-5)


EXACT = {"eval/gold", "eval/reward", *KLS, "eval/entropy", "eval/mass/*"}  # what arms are evaluated by
OF_STEPS = {"step", "passes", "diverged", "samples", "reward_queries", "push/up", "push/down", "rest/log_ratio"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_writes_the_same_keys_of_the_table(name: str) -> None:
    """A number that a method does not have is nan; what has a standard error says so by its key."""
    (run,) = run_stack([replace(TABLE, method=name, steps=2, evaluate=1)])
    rows = {key: metric(key) for key in run.curves}
    assert None not in rows.values(), [key for key, row in rows.items() if row is None]
    assert {row.key for row in rows.values() if row} == {*EXACT, *OF_STEPS, *stack_module.FROM_STEP, *DRIFT}
    for key in ("loss", "grad_norm", "push/up", "reward"):
        assert np.isfinite(run.curves[key][1:]).all(), key


def test_a_learned_reward_is_evaluated_beside_gold() -> None:
    for scorer in ("gold", "proxy"):
        (run,) = run_stack([changed(TABLE, scorer=scorer, steps=2, evaluate=1)])
        assert np.array_equal(run.curves["eval/reward"], run.curves["eval/gold"]) == (scorer == "gold")


def test_the_mean_over_training_is_the_trapezoid() -> None:
    run = Run(NET, {"step": np.array([0.0, 1.0, 4.0]), "x": np.array([0.0, 2.0, 8.0])})
    assert run.mean("x") == (0.5 * (0 + 2) * 1 + 0.5 * (2 + 8) * 3) / 4 and run.last("x") == 8


def test_the_first_row_is_the_reference() -> None:
    """A table starts at the law itself: the facts of the study, to rounding."""
    (run,) = run_stack([replace(TABLE, precision="float64", steps=1, evaluate=1)])
    start = {k: float(v[0]) for k, v in run.curves.items()}
    p, gold = bandit.reference_law(), bandit.bump(70.0, 10.0)
    assert start["eval/gold"] == start["eval/reward"] == pytest.approx(float((p * gold).sum()), abs=1e-12)
    assert start["eval/entropy"] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-12)
    assert start["eval/mass/peak"] == pytest.approx(float(p[60:81].sum()), abs=1e-12)
    assert start["eval/mass/hump"] == pytest.approx(float(p[15:26].sum()), abs=1e-12)
    assert start["eval/mass/edges"] == pytest.approx(float(p[0] + p[99]), abs=1e-12)
    assert [start[key] for key in (*KLS, "step")] == [0, 0, 0]


@pytest.mark.parametrize("diverges", [False, True])
def test_only_the_last_evaluation_is_whole(diverges: bool) -> None:
    """Where a world has a cheaper one for the others; a stack whose runs have all diverged is at its last."""
    one = make("rloo", "categorical", steps=4, evaluate=2, responses=10, batch=10, minibatch=10)
    training, kinds = build([one]), list[str]()

    def noted(kind: str, policy: Any, reference: Any, rng: Stream) -> dict[str, Tensor]:
        kinds.append(kind)
        return training.evaluate(policy, reference, rng)

    seen = replace(training, evaluate=partial(noted, "whole"), glance=partial(noted, "glance"))
    watch = Watch(seen, one)
    watch.evaluate(None)
    for record in training.loop:
        watch.observe(record)
        if diverges:
            watch.freeze()
            break
    assert kinds == (["glance", "whole"] if diverges else ["glance", "glance", "whole"])
