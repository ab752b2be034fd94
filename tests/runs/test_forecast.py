"""Predicted seconds by hand, and the share of a group that a loss reads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prefloop.core.methods import METHODS, method
from prefloop.runs.config import Config, EvaluationConfig, TrainingConfig
from prefloop.runs.speed import Speed, seconds, start, trained
from prefloop.worlds.text.spec import RewardOptions

SPEED = Speed(opening=3.0, sampling=0.1, forward=0.2, training=0.5)
EVALUATIONS = 2 * 10 * (0.1 + 2 * 0.2)  # answers to ten prompts, which two models read
CONFIG = Config(
    training=TrainingConfig(steps=4, batch=8, minibatch=8),
    evaluation=EvaluationConfig(prompts=10, every=3, samples=1, greedy=0),
)


def run(name: str, **override: object) -> Config:
    return replace(CONFIG, method=name, override=override)


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (run("dpo", on_policy=1.0), 8 * (0.1 + 0.2 + 0.5)),
        (run("dpo", on_policy=0.5), 8 * (0.05 + 0.2 + 0.5)),
        (run("dpo"), 8 * (0.2 + 0.5)),
        (run("dpo", responses=4), 8 * (0.2 + 0.5 / 2)),
        (run("pref_ft"), 8 * 0.5 / 2),
        (run("best_of_n"), 8 * (0.1 + 0.5 / 4)),
        (run("rloo", reuse=2), 8 * (0.1 / 2 + 0.5)),
    ],
)
def test_a_run_is_the_sum_of_its_steps_and_evaluations(config: Config, step: float) -> None:
    assert seconds(config, SPEED) == pytest.approx(EVALUATIONS + 4 * step)


def test_answers_at_temperature_0_are_sampled_too() -> None:
    greedy = replace(CONFIG, method="dpo", evaluation=replace(CONFIG.evaluation, greedy=10))
    assert seconds(greedy, SPEED) == pytest.approx(seconds(run("dpo"), SPEED) + 1.0)
    assert start([greedy], SPEED, 0) == pytest.approx(3.0 + 2 * 1.0)


def test_runs_share_the_start_and_the_responses_of_the_reference() -> None:
    two = [run("dpo", responses=4), run("dpo", responses=4, negative=0.0), run("dpo", responses=4, on_policy=1.0)]
    assert start(two, SPEED, 100) == pytest.approx(3.0 + 1.0 + 4 * 8 * 0.1)  # once for both offline runs
    assert start(two, SPEED, 5) == pytest.approx(3.0 + 1.0 + 5 * 4 * 0.1)  # one group per prompt
    assert start(two, SPEED, 0) == pytest.approx(3.0 + 1.0)  # the data bring responses


def test_a_run_on_labels_samples_no_answers_and_reads_held_out_pairs() -> None:
    labels = replace(run("dpo"), reward=RewardOptions("labels"))
    step = 8 * (0.2 + 0.5)
    assert seconds(labels, SPEED, given=60) == pytest.approx(2 * 60 * 0.2 + 4 * step)
    assert start([labels], SPEED, 0, given=60) == pytest.approx(3.0 + 60 * 0.2)


@pytest.mark.parametrize("name", METHODS)
def test_no_method_reads_more_than_its_group(name: str) -> None:
    assert 0 < trained(method(name)) <= 1
