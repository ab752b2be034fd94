"""The explorer: one page that trains a categorical policy in the browser, by the update rules of the methods.

The rules are JavaScript (templates/explore/update.js). `METHODS` says which of Prefloop's methods each of them is; a
test holds both equal.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefloop.core import files
from prefloop.report.chart import METHODS as COLOURS
from prefloop.report.page import TEMPLATES, environment

PARTS = ("policy", "update", "measure", "words", "state", "svg", "charts", "stage", "controls", "figures", "main")
RULES = PARTS[:3]  # pure functions of numbers, without a page
STEPS = 200
EXACT: dict[str, Any] = {"kl_in": "loss", "kl_estimator": "exact"}


@dataclass(frozen=True)
class Rule:
    """A method of the explorer.

    Args:
        label: its name, by which it has its colour.
        method: an entry of Prefloop's methods.
        knob: the hyper-parameter that β stands for.
        on_policy: the switch at first.
        does: what a step does, in a sentence.
        override: what else differs from the entry.
    """

    label: str
    method: str
    knob: str
    on_policy: float
    does: str
    override: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> str:
        """What β is to the method, in words."""
        return {"kl": "weight of KL(π‖π_ref) in the loss", "tau": "τ", "beta": "β"}[self.knob]

    @property
    def settings(self) -> str:
        """What differs from the entry, as overrides are written."""
        return ", ".join(f"{name}={value}" for name, value in {self.knob: "β", **self.override}.items())


METHODS = {
    "dpo": Rule("DPO", "dpo", "beta", 0.0, "raises the margin of log π/π_ref of every pair, ever more slowly"),
    "ipo": Rule("IPO", "ipo", "tau", 0.0, "drives that margin to 1/(2τ), from both sides"),
    "rloo": Rule(
        "RLOO",
        "rloo",
        "kl",
        1.0,
        "policy gradient; the baseline of a response is the reward of the other one",
        {"responses": 2, **EXACT},
    ),
    "ppo": Rule(
        "PPO",
        "ppo_critic_free",
        "kl",
        1.0,
        "the same advantage without a critic, clipped where π/π_old leaves 0.8 to 1.2; differs with several passes",
        {"responses": 2, "baseline": "leave_one_out", "scale": "none", **EXACT},
    ),
    "best_of_n": Rule("best-of-N", "best_of_n", "kl", 1.0, "imitates the best of four responses", EXACT),
    "pref_ft": Rule("Pref-FT", "pref_ft", "kl", 0.0, "imitates the better response of every pair", EXACT),
    "rwr": Rule(
        "RWR",
        "rwr",
        "beta",
        1.0,
        "imitates both responses of a pair, weighted by softmax(r/β)",
        {"responses": 2, "normalise": "prompt"},
    ),
}


# ---- what the page starts with --------------------------------------------------------------------------------------


def _runs(*runs: tuple[str, float, int, float]) -> list[dict[str, Any]]:
    return [dict(zip(("method", "on_policy", "reuse", "negative"), run, strict=True)) for run in runs]


FOUR = _runs(("dpo", 0.0, 1, 1.0), ("dpo", 1.0, 1, 1.0), ("rloo", 1.0, 1, 1.0), ("pref_ft", 0.0, 1, 1.0))
FAR: dict[str, Any] = {
    "peak": 70,
    "width": 10,
    "coverage": 1.0,
    "centre": 20,
    "beta": 0.1,
    "rate": 3.0,
    "step": STEPS,
    "runs": FOUR,
}
PRESETS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("Far peak", "good answers are rare (Min Length)", {}),
    ("Near peak", "good answers are common (Mode Length)", {"peak": 20}),
    ("Skewed data", "and the data avoid the far peak (Skew Length)", {"coverage": 0.2}),
    ("Covered peak", "the data show the far peak", {"coverage": 0.2, "centre": 70}),
    (
        "No push-down",
        "with and without the negative gradient",
        {
            "peak": 45,
            "runs": _runs(("dpo", 1.0, 1, 1.0), ("dpo", 1.0, 1, 0.0), ("rloo", 1.0, 1, 1.0), ("rloo", 1.0, 1, 0.0)),
        },
    ),
    (
        "Reused samples",
        "one pass, and eight over each collection",
        {
            "peak": 45,
            "rate": 10.0,
            "runs": _runs(("dpo", 1.0, 1, 1.0), ("dpo", 1.0, 8, 1.0), ("rloo", 1.0, 8, 1.0), ("ppo", 1.0, 8, 1.0)),
        },
    ),
)


def problem(reference: Sequence[float], data_width: float) -> dict[str, Any]:
    """Everything that the page computes from, as JSON: distributions, methods and presets."""
    return {
        "reference": [*reference],
        "data_width": data_width,
        "steps": STEPS,
        "methods": {name: {**asdict(rule), "colour": COLOURS[rule.label]} for name, rule in METHODS.items()},
        "presets": [{"title": title, "note": note, "state": {**FAR, **own}} for title, note, own in PRESETS],
    }


# ---- the page -------------------------------------------------------------------------------------------------------


def write(out: Path, reference: Sequence[float], data_width: float) -> Path:
    """Write the page; an existing one is replaced.

    Args:
        reference: probability of each arm under the reference.
        data_width: width of the bump that offline data follow where they do not follow the reference.
    """
    files.write(out, render(problem(reference, data_width)).encode("utf-8"))
    return out


def render(constants: Mapping[str, Any]) -> str:
    """The page as text; its policy for scripts allows its own script only, by its hash."""
    code = script(PARTS)
    digest = base64.b64encode(hashlib.sha256(code.encode("utf-8")).digest()).decode("ascii")
    return (
        environment()
        .get_template("explore/page.html")
        .render(
            digest=f"sha256-{digest}",
            script=Markup(code),
            style=Markup("\n".join(_text(name) for name in ("style.css", "explore/style.css"))),
            problem=Markup(json.dumps(constants, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")),
            arms=len(constants["reference"]),
            steps=constants["steps"],
            data_width=constants["data_width"],
            group=4,
            methods=METHODS.values(),
        )
    )


def script(parts: Sequence[str]) -> str:
    """The JavaScript of these parts, in one piece."""
    return "\n".join(_text(f"explore/{name}.js") for name in parts)


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
