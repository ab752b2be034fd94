"""Data that a page reads from run folders, and the numbers of its table."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from prefloop.analysis.compare import Difference, Scores, crossed
from prefloop.analysis.numbers import NONE, plus_minus
from prefloop.core.errors import DataError
from prefloop.core.files import short
from prefloop.runs.folder import CONFIG, existing, read, read_manifest

Line = dict[str, Any]
Real = float | int
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Value:
    """A number and, if known, its standard error."""

    value: Real
    se: Real | None = None


@dataclass(frozen=True)
class Run:
    """The records of one run."""

    path: Path
    letter: str  # A, B, …: its name in plots
    label: str
    config: dict[str, Any]
    config_text: str
    manifest: dict[str, Any]
    steps: list[Line]
    evaluations: list[Line]
    samples: list[Line]
    timing: list[Line]
    pairs: list[Line] = field(default_factory=list)
    rewards: list[Line] = field(default_factory=list)  # of the answers to each held-out prompt
    examples: list[Line] = field(default_factory=list)  # held-out labels and demonstrations
    members: tuple[Run, ...] = ()  # if these are means: the runs of each seed

    @property
    def method(self) -> str:
        return str(self.config.get("method", "?"))

    @property
    def seed(self) -> int:
        seed = self.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    def judged(self) -> list[Line]:
        """How each held-out pair is ordered at the last evaluation."""
        pairs = self.members[0].pairs if self.members else self.pairs
        last = max((line["step"] for line in pairs), default=0)
        return [line for line in pairs if line["step"] == last]

    @property
    def objective(self) -> dict[str, Any]:
        return dict(self.manifest.get("objective", {}))

    def points(self, key: str) -> Points:
        """(step, value) of a training metric or, with `eval/`, of an evaluation."""
        lines = self.evaluations if key.startswith("eval/") else self.steps
        return [(float(line["step"]), float(line[key])) for line in lines if line.get(key) is not None]

    def errors(self, key: str) -> list[Real | None]:
        """Standard errors of `points(key)`."""
        return [line.get(f"{key}_se") for line in self.evaluations if line.get(key) is not None]

    def bounds(self, key: str) -> tuple[list[float], list[float]] | None:
        """Ends of the intervals of `points(key)`; None if it has none."""
        lines = [line for line in self.evaluations if line.get(key) is not None]
        if not any(f"{key}_low" in line for line in lines):
            return None
        low, high = ([float(line.get(f"{key}_{end}", math.nan)) for line in lines] for end in ("low", "high"))
        return low, high

    def before(self, key: str) -> Value | None:
        return self._evaluated(key, 0)

    def after(self, key: str) -> Value | None:
        return self._evaluated(key, -1)

    def scores(self, end: Callable[[Iterable[int]], int], key: str = "reward") -> dict[Hashable, float]:
        """The mean reward of the answers to each held-out prompt, at the earliest (`min`) or latest (`max`) step.

        Args:
            key: reward or gold.
        """
        lines = self._scored(key)
        if not lines:
            return {}
        step, found = end(line["step"] for line in lines), dict[Hashable, list[float]]()
        for line in lines:
            if line["step"] == step:
                found.setdefault(line["prompt"], []).extend(line[key])
        return {prompt: fmean(values) for prompt, values in found.items()}

    def _scored(self, key: str) -> list[Line]:
        """Lines with the rewards of a prompt; evaluations of earlier versions have that of the first answer only."""
        known = [line for line in self.rewards if key in line]
        first = [line for line in self.samples if line.get("score") is not None and not line.get("greedy")]
        if key != "reward" or {line["step"] for line in first} <= {line["step"] for line in known}:
            return known
        return [{"step": x["step"], "prompt": short(str(x["prompt"])), key: [float(x["score"])]} for x in first]

    @property
    def asked(self) -> dict[Hashable, Hashable]:
        """The question of each held-out prompt, where it is recorded."""
        return {line["prompt"]: line["question"] for run in self.members or (self,) for line in run.rewards}

    def change(self) -> Difference | None:
        """Change of the reward from the first to the last evaluation, by the rule of all comparisons.

        None if answers to the same prompts lack scores.
        """
        runs = self.members or (self,)
        if any(len({line["step"] for line in run._scored("reward")}) < 2 for run in runs):
            return None
        return _gap(self.by_seed(max), self.by_seed(min), self.asked)

    def against(self, other: Run) -> Difference | None:
        """Final reward minus that of another run, by the same rule; None if they have no prompts in common."""
        return _gap(self.by_seed(max), other.by_seed(max), {**self.asked, **other.asked})

    def by_seed(self, end: Callable[[Iterable[int]], int], key: str = "reward") -> Scores:
        """`scores` of each seed."""
        return {run.seed: run.scores(end, key) for run in self.members or (self,)}

    def last(self, key: str) -> float | None:
        values = [line[key] for line in self.steps if line.get(key) is not None]
        return float(values[-1]) if values else None

    def mean(self, key: str) -> float | None:
        values = [float(line[key]) for line in self.steps if line.get(key) is not None]
        return sum(values) / len(values) if values else None

    def most(self, key: str) -> float | None:
        return max((float(line[key]) for line in self.steps if line.get(key) is not None), default=None)

    @property
    def seconds(self) -> float | None:
        """Sum of `seconds` over timing.jsonl."""
        values = [float(line["seconds"]) for line in self.timing if line.get("seconds") is not None]
        return sum(values) if values else None

    def _evaluated(self, key: str, place: int) -> Value | None:
        lines = [line for line in self.evaluations if line.get(key) is not None]
        if not lines:
            return None
        error = lines[place].get(f"{key}_se")
        return Value(float(lines[place][key]), None if error is None else float(error))


def _gap(a: Scores, b: Scores, questions: Mapping[Hashable, Hashable]) -> Difference | None:
    """The difference on the prompts that all seeds of both answered; None if there are none."""
    shared = set.intersection(*(set(own) for own in (*a.values(), *b.values())))
    return crossed(a, b, clusters={p: questions.get(p, p) for p in shared}) if shared else None


def load(folders: Sequence[Path], labels: Sequence[str] | None = None) -> list[Run]:
    """The runs in the folders, in order, named by their differences unless labels are given.

    Raises:
        UserError: not a run folder.
        DataError: a broken record.
    """
    runs = [_load(Path(folder), letter(i)) for i, folder in enumerate(folders)]
    names = list(labels) if labels is not None else named(runs)
    return [replace(run, label=name) for run, name in zip(runs, names, strict=True)]


def letter(i: int) -> str:
    return chr(65 + i) if i < 26 else f"{chr(64 + i // 26)}{chr(65 + i % 26)}"


def _load(folder: Path, letter: str) -> Run:
    path = existing(folder)
    text = (path / CONFIG).read_text(encoding="utf-8", errors="replace")
    try:
        config = dict(yaml.safe_load(text) or {})
    except (yaml.YAMLError, TypeError, ValueError):
        raise DataError("the configuration of this run is invalid", where=str(path / CONFIG)) from None
    config.pop("tracking", None)  # no difference between runs
    metrics = read(path, "metrics")
    return Run(
        path=path,
        letter=letter,
        label=letter,
        config=config,
        config_text=text,
        manifest=read_manifest(path),
        steps=[line for line in metrics if line.get("kind") == "step"],
        evaluations=sorted((line for line in metrics if line.get("kind") == "evaluation"), key=lambda e: e["step"]),
        samples=read(path, "samples"),
        timing=read(path, "timing"),
        pairs=read(path, "pairs"),
        rewards=read(path, "scores"),
        examples=read(path, "examples"),
    )


# ---- names --------------------------------------------------------------------------------------------------------

WORDS = {
    ("on_policy", 0.0): "offline",
    ("on_policy", 1.0): "on-policy",
    ("negative", 0.0): "no negative gradient",
    ("negative", 1.0): "negative gradient",
}


def named(runs: Sequence[Run]) -> list[str]:
    """The method if it differs, and the differences between runs of the same method, in words."""
    settings = [flat(run.config) | flat({"override": _switches(run)}) for run in runs]
    several = len({run.method for run in runs}) > 1 or len(runs) == 1
    names = []
    for run, own in zip(runs, settings, strict=True):
        peers = [s for s, other in zip(settings, runs, strict=True) if other.method == run.method]
        keys = [
            k
            for k in own
            if k not in ("output", "method", "data.template_date") and len({json.dumps(s.get(k)) for s in peers}) > 1
        ]
        names.append(" · ".join([*([run.method] if several else []), *(_words(k, own[k]) for k in keys)]))
    unique = len(set(names)) == len(names)
    return [n if n and unique else f"{n or run.method} ({run.path.name})" for n, run in zip(names, runs, strict=True)]


def _switches(run: Run) -> dict[str, Any]:
    """The three switches as used, so that a default equals its explicit value."""
    result = flat(run.objective)
    names = {key.rpartition(".")[2]: value for key, value in result.items()}
    return {k: names[k] for k in ("on_policy", "reuse", "negative") if k in names}


def _words(key: str, value: Any) -> str:
    name = key.rpartition(".")[2]
    if isinstance(value, int | float) and (name, float(value)) in WORDS:
        return WORDS[name, float(value)]
    return str(value) if key == "reward.name" else f"{name} {value}"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def measured(x: Value | None, *, sign: bool = False) -> str:
    """Value ± standard error; – if missing."""
    return NONE if x is None else plus_minus(x.value, x.se, sign=sign)


# ---- samples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One prompt with each run's answers before and after training; None if a run has no answer."""

    prompt: str
    before: list[Line | None]
    after: list[Line | None]

    @property
    def shared(self) -> Line | None:
        """The answer before training, if it is the same in all runs."""
        texts = {line["response"] for line in self.before if line}
        return self.before[0] if len(texts) == 1 and all(self.before) else None


def comparisons(runs: Sequence[Run], limit: int) -> list[Comparison]:
    """The first prompts answered by every run with samples, in recorded order: none is picked by hand."""
    ends = [(_at(run.samples, min), _at(run.samples, max)) for run in runs if run.samples]
    if not ends:
        return []
    shared = [p for p in ends[0][1] if all(p in after for _, after in ends)]
    sides = [(_at(run.samples, min), _at(run.samples, max)) for run in runs]
    return [
        Comparison(p, [before.get(p) for before, _ in sides], [after.get(p) for _, after in sides])
        for p in shared[:limit]
    ]


def _at(samples: Sequence[Line], end: Any) -> dict[str, Line]:
    """The first response to each prompt at the earliest or latest step; at temperature 0 if recorded."""
    if not samples:
        return {}
    samples = [line for line in samples if line.get("greedy")] or samples
    step = end(line["step"] for line in samples)
    result: dict[str, Line] = {}
    for line in samples:
        if line["step"] == step:
            result.setdefault(str(line["prompt"]), line)
    return result


CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(text: str) -> str:
    """Text without characters that are invalid in a page or in UTF-8."""
    return CONTROL.sub("\ufffd", text).encode("utf-8", "replace").decode("utf-8")


def cut(text: str, limit: int) -> str:
    """At most `limit` characters."""
    return text if len(text) <= limit else text[:limit].rstrip() + " …"
