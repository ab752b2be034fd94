"""What the runs of a comparison share: model, data and reward, the reference's evaluation and its offline responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from prefloop.analysis.numbers import duration
from prefloop.core import devices
from prefloop.core.batch import Batch
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.processes import ALONE, Processes
from prefloop.core.protocols import no_op
from prefloop.core.wrapping import wrapped
from prefloop.runs.config import Config
from prefloop.runs.evaluation import Baseline, evaluate_reference
from prefloop.runs.flat import same_score
from prefloop.runs.length import with_steps
from prefloop.runs.offline import collect_offline, offline_groups
from prefloop.runs.probe import checked
from prefloop.runs.speed import expected
from prefloop.runs.trial import check_end
from prefloop.runs.world import TextWorld, check_reward, groups_used, method_of, open_world, plan_of, resolved
from prefloop.tracking.trackers import check
from prefloop.worlds.text.open_data import open_data
from prefloop.worlds.text.problem import TextProblem

Say = Callable[[str], None]
Poll = Callable[[], None]
LONG = 20.0  # seconds from which a run is worth a forecast


@dataclass(frozen=True)
class Start:
    """Everything that the runs of a comparison share: see `prepare`."""

    world: TextWorld
    baseline: Baseline
    offline: Mapping[tuple[int, int], Batch]  # the reference's responses, by groups and responses per group

    def problem(self, method: Method, plan: Plan) -> TextProblem:
        """The problem with the offline responses that the method trains on."""
        size = (offline_groups(method, plan, len(self.world.data.train)), method.responses)
        return replace(self.world.problem, offline=self.offline.get(size))


def prepare(
    configs: Sequence[Config],
    *,
    poll: Poll = no_op,
    say: Say = print,
    ends: bool = True,
    forecast: bool = False,
    done: int = 0,
    processes: Processes = ALONE,
) -> Start:
    """Open what the configurations of a comparison share, evaluate the reference, and draw its offline responses.

    Args:
        configs: may differ in method, override, training and what they save; the rest is taken from the first.
        ends: whether to find out if what they save can be saved; false if only that is left to do.
        forecast: whether to say how long the first of them will take in all.
        done: steps of it that are taken already.
        processes: those that compute the run together; several give no forecast.

    Raises:
        UserError, DataError: what is wrong, where, and how to fix it.
    """
    configs = [resolved(config) for config in configs]
    first, methods = configs[0], [method_of(config) for config in configs]
    devices.chosen(first.model.device)  # refused before anything is loaded, and so are trackers
    for config in configs:
        check(config.tracking.to)
    runs = list(zip(configs, methods, strict=True))
    for config, method in runs:
        plan_of(config, method)
    data = checked(first, open_data(first.data))
    for config, method in runs:
        check_reward(config, method, data)
    most = max(groups_used(with_steps(config, method, len(data.train)), method) for config, method in runs)
    world = open_world(first, data, methods=methods, groups=most, poll=poll, say=say, processes=processes)
    whole = [(with_steps(config, method, len(world.problem.train)), method) for config, method in runs]
    if ends:
        for config, _ in whole:
            check_end(config, world.model)
    if forecast and processes.count == 1 and (time := expected(whole[0][0], world, done)) >= LONG:
        say(f"about {duration(time)} in all, by the speed of a few responses")
    say("evaluating the untrained model on held-out data")
    baseline = evaluate_reference(first, world, poll)
    if baseline.probe is not None:
        world = replace(world, notes=(*world.notes, *baseline.probe.notes))
        for note in baseline.probe.notes:
            say(note)
    if same := same_score(baseline.answers):
        world = replace(world, notes=(*world.notes, same))
        say(same)
    sizes = {
        (offline_groups(method, plan_of(config, method), len(world.data.train)), method.responses)
        for config, method in whole
        if method.on_policy < 1 and not world.data.has_responses
    }
    for groups, responses in sorted(sizes):
        say(f"sampling {responses} responses to each of {groups} prompts from the untrained model, to train on")
    collect = partial(collect_offline, world.problem, world.model.reference, seed=first.seed, poll=poll)
    return Start(world, baseline, {size: collect(*size) for size in sorted(sizes)})


def speaker(quiet: bool) -> Say:
    """A function that prints a sentence immediately, or nothing if quiet."""
    return (lambda text: None) if quiet else (lambda text: print(wrapped(text), flush=True))
