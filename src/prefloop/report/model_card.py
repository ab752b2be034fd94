"""The model card of an exported run, from its records: front matter for hubs, method, data, training, evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefloop.analysis.numbers import cell, is_part
from prefloop.core.errors import UserError
from prefloop.report.cells import columns
from prefloop.report.data import Line, Run
from prefloop.report.findings import findings
from prefloop.report.markdown import grid
from prefloop.runs.best import best_of
from prefloop.runs.folder import BEST

UNKNOWN = "Its license is not known here: look it up before you share this model, to which it may apply."
LOADED = {
    False: """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")""",
    True: """from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

model = AutoPeftModelForCausalLM.from_pretrained("{folder}")  # loads its base model too
tokenizer = AutoTokenizer.from_pretrained("{folder}")""",
}


@dataclass(frozen=True)
class About:
    """What the records of a run do not say."""

    name: str  # of the exported model
    folder: str  # its name or address, for the lines that load it
    adapter: bool
    base: str  # hub name of the base model; empty: a folder of the user's
    license: str  # of the base model; empty: not known
    which: str  # `final` or `best`


def model_card(path: Path, about: About) -> str:
    """The card as Markdown.

    Raises:
        UserError: not a run folder, or a run without evaluations.
        DataError: a broken record.
    """
    run = columns([path], [about.name])[0]
    before, after = _ends(run, about.which)
    parts = [_front(run, about), f"# {about.name}", _summary(run, about, after)]
    sections = {
        "Use": f"```python\n{LOADED[about.adapter].format(folder=about.folder)}\n```",
        "Base model": _base(run, about),
        "Method": _method(run),
        "Data": _data(run),
        "Training": _training(run),
        "Evaluation": _evaluation(run, before, after, about.which),
        "How it was made": _made(run),
    }
    return "\n\n".join([*parts, *(f"## {title}\n\n{text}" for title, text in sections.items())]) + "\n"


def _ends(run: Run, which: str) -> tuple[Line, Line]:
    """The evaluations before training, and of the exported model."""
    if not run.evaluations:
        raise UserError("the run has no evaluations", where=str(run.path), fix="finish it first")
    first, last = run.evaluations[0], run.evaluations[-1]
    if which == BEST:
        metric = run.config.get("evaluation", {}).get("keep_best")
        best = best_of([{"kind": "evaluation", **line} for line in run.evaluations], metric)
        last = next(line for line in run.evaluations if best is not None and line["step"] == best.step)
    return first, last


def _front(run: Run, about: About) -> str:
    front: dict[str, Any] = {"base_model": about.base} if about.base else {}
    front |= {"license": about.license} if about.license else {}
    kind = {"base_model_relation": "adapter" if about.adapter else "finetune"} if about.base else {}
    front |= kind | {"library_name": "peft" if about.adapter else "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["prefloop", "preference-tuning", run.method, *(["lora"] if about.adapter else [])]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _summary(run: Run, about: About, after: Line) -> str:
    what = "A LoRA adapter for" if about.adapter else "A fine-tuned version of"
    kept = " The best model of the run by `{}`.".format(run.config["evaluation"]["keep_best"])
    return (
        f"{what} {_base_name(run, about)}, trained with `{run.method}` by Prefloop for {after['step']} optimiser steps."
        f"{kept if about.which == BEST else ''}"
    )


def _base_name(run: Run, about: About) -> str:
    if about.base:
        return f"[{about.base}](https://huggingface.co/{about.base})"
    return f"`{Path(str(run.manifest['model']['path'])).name}`"


def _base(run: Run, about: About) -> str:
    model = run.manifest["model"]
    stated = f"Its license, by its card: {about.license}." if about.license else UNKNOWN
    known = f"{_base_name(run, about)}, SHA-256 of its weights `{model['sha256']}`."
    return f"{known} {stated}"


def _method(run: Run) -> str:
    goal = run.objective
    switches = ", ".join(f"{key} = {value}" for key, value in goal.get("switches", {}).items())
    rows = [("objective", goal.get("formula")), ("weight", goal.get("weight")), ("pairs", goal.get("pairs"))]
    rows += [("switches", switches), ("hyper-parameters", _named(goal.get("hyperparameters", {})))]
    rows += [(key, _named(goal[key])) for key in ("reward", "gold") if key in goal]
    rows += [("source", goal.get("paper"))]
    return grid(("", ""), [(key, str(value)) for key, value in rows if value not in (None, "", {})])


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())


def _data(run: Run) -> str:
    files = [(Path(name).name, f"`{digest}`") for name, digest in run.manifest.get("data", {}).items()]
    counts = run.manifest.get("trained_on", {})
    said = [f"{counts['examples']:,} training examples with {counts['responses']:,} responses"] if counts else []
    held = run.manifest.get("held_out", {}).get("examples")
    said += [f"{held:,} held-out examples"] if held else []
    last = run.steps[-1] if run.steps else {}
    seen = {"samples": "responses drawn from the policy", "tokens/trained": "response tokens trained on"}
    said += [f"{last[key]:,} {text}" for key, text in seen.items() if last.get(key)]
    return f"{grid(('file', 'SHA-256'), files)}\n\n{'; '.join(said)}."


def _training(run: Run) -> str:
    parts = ("training", "sampling", "model", "data")
    kept = {part: {k: v for k, v in run.config.get(part, {}).items() if not _is_place(k, v)} for part in parts}
    text = yaml.safe_dump(kept | {"seed": run.seed}, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{text}```"


def _is_place(key: str, value: Any) -> bool:
    """Whether a key names a place on the machine of the training, or is not set."""
    return key in ("path", "device", "train", "held_out") or value in (None, {}, [], ())


def _evaluation(run: Run, before: Line, after: Line, which: str) -> str:
    keys = [key for key in after if key.startswith("eval/") and not is_part(key) and key in before]
    rows = [(key.removeprefix("eval/"), cell(before, key), cell(after, key)) for key in keys]
    table = grid(("held-out", "before", f"after step {after['step']}"), rows)
    note = "± is one standard error over prompts; [low, high] is a 95 % interval. "
    kl = "kl_reverse is KL(π ‖ π_ref) in nats a response, on samples of the model; kl_forward the other way round."
    has_kl = any("kl_" in key for key in keys)
    said = [] if which == BEST else findings([run])
    return "\n\n".join([table, note + (kl if has_kl else ""), *(_listed(said) if said else [])]).strip()


def _listed(sentences: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {sentence}" for sentence in sentences)]


def _made(run: Run) -> str:
    manifest = run.manifest
    versions = ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items() if value)
    hardware = manifest.get("hardware", {})
    where = hardware.get("gpu") or hardware.get("processor", "")
    notes = _listed(manifest.get("notes", [])) if manifest.get("notes") else []
    command = f"```\n{shlex.join(manifest.get('command', []))}\n```"
    about = f"Created {manifest.get('created', '')} with {versions}" + (f" on {where}." if where else ".")
    return "\n\n".join([command, about, *notes])
