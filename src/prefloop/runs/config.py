"""The configuration: frozen dataclasses are the schema, a YAML file has the values, dotted flags override them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from prefloop.core.errors import UserError, nearest
from prefloop.runs import flags, schema, yaml12
from prefloop.runs.other_tools import OURS
from prefloop.runs.schema import Flag
from prefloop.tracking.record import PROJECT
from prefloop.tracking.trackers import known
from prefloop.worlds.text.spec import (
    DataOptions,
    ModelOptions,
    RewardOptions,
    SamplingOptions,
    require,
    require_positive,
)

LENGTHS = ("steps", "epochs")
HIGHER = (  # metrics of evaluations by which a model can be the best
    *("reward", "gold", "rewards/accuracies", "rewards/margins", "rewards/chosen"),
    *("accuracy/sum_logp", "accuracy/mean_logp", "labels/auc", "labels/good"),
    *("labels/accuracy/good", "labels/accuracy/bad"),
)
LOWER = ("loss", "perplexity", "kl_reverse", "kl_forward")
BOTH = "`training.steps` and `training.epochs` both say how long to train"


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser and batch sizes; batch and minibatch count responses."""

    steps: int = 100
    """Total optimiser steps; 0 evaluates the model without training it."""
    epochs: float | None = None
    """In place of `steps`: passes over the training prompts, rounded up to whole steps."""
    batch: int = 64
    """Responses in one collection (B); a multiple of `minibatch`."""
    minibatch: int = 64
    """Responses in one optimiser step (M); a multiple of the method's group size."""
    lr: float = 1e-6
    """Highest learning rate of AdamW, reached after warm-up."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or falling to 0 after the last step (`linear`, `cosine`)."""
    warmup: float = 0.0
    """Steps over which the learning rate rises linearly from 0; below 1: their share of all steps."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to it."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay; of matrices only, not of biases and norms."""
    stop_if_flat: int = 10
    """Stop after so many steps with nothing to learn from (equal scores, only ties, no gradient); 0 never stops."""
    micro_tokens: int = 8192
    """Token budget of one forward and backward pass; limits memory without changing gradients."""

    def __post_init__(self) -> None:
        require(self.stop_if_flat >= 0, "training.stop_if_flat", self.stop_if_flat, "use 0 (never stop) or more")
        require_positive("training", self, ("epochs", "batch", "minibatch", "lr", "max_grad_norm", "micro_tokens"))
        require(self.steps >= 0, "training.steps", self.steps, "use 0 (evaluate only) or more")
        if self.epochs is not None and self.steps != TrainingConfig.steps:
            raise UserError(BOTH, where="training", fix="leave one of them out")
        whole = self.warmup < 1 or self.warmup == int(self.warmup)
        fix = "use 0 or more: a whole number of steps, or a share of them below 1"
        require(self.warmup >= 0 and whole, "training.warmup", self.warmup, fix)
        require(self.weight_decay >= 0, "training.weight_decay", self.weight_decay, "use 0 or more")


@dataclass(frozen=True)
class EvaluationConfig:
    """Measurements on held-out prompts; they never change the training."""

    prompts: int = 64
    """Held-out prompts to answer."""
    samples: int = 1
    """Answers per prompt."""
    pairs: int = 400
    """Held-out pairs, labelled responses or demonstrations to measure, whichever the held-out set has."""
    every: int | None = None
    """Steps between evaluations; null: a quarter of all steps; 0 evaluates only before and after training."""
    probe: str | None = None
    """A second set of prompts with responses, which are not trained on: the log-prob per token of policy minus
    reference shows what is forgotten. Any data file, or several kinds of response (docs/how-to/diagnose-run.md)."""
    greedy: int = 12
    """Held-out questions also answered at temperature 0 before and after training: for reading, not for metrics."""
    max_cut: float = 0.2
    """Maximum share of the untrained model's answers that the length limit may cut."""
    keep_best: str | None = None
    """Metric by which the best model so far is kept in `best/`, such as reward, rewards/accuracies or loss."""
    patience: int | None = None
    """Stop after so many evaluations in a row without a better `keep_best`."""

    def __post_init__(self) -> None:
        require_positive("evaluation", self, ("samples", "pairs"))
        require(
            self.prompts >= 2, "evaluation.prompts", self.prompts, "use 2 or more: a single one has no standard error"
        )
        require(0 <= self.max_cut <= 1, "evaluation.max_cut", self.max_cut, "use a share between 0 and 1")
        require(self.probe != "", "evaluation.probe", self.probe, "give a file, or null")
        require(self.greedy >= 0, "evaluation.greedy", self.greedy, "use 0 (none) or more")
        name, known = self.keep_best, (*HIGHER, *LOWER)
        require(name is None or name in known, "evaluation.keep_best", name, nearest(name or "", known))
        require_positive("evaluation", self, ("patience",))
        waits = self.patience is None or (name is not None and self.every != 0)
        require(waits, "evaluation.patience", self.patience, "name a metric (keep_best), and evaluate during training")
        fix = "use 0 (before and after only) or more, or null (every quarter of the steps)"
        require(self.every is None or self.every >= 0, "evaluation.every", self.every, fix)


@dataclass(frozen=True)
class SaveConfig:
    """What is saved on disk besides the records."""

    every: int = 0
    """Steps between checkpoints; 0 saves one only when a run ends early."""
    final: bool = True
    """Write the trained model in Hugging Face layout."""
    state: bool = True
    """Keep the state of the optimiser with it, so that the run can be trained further (`--resume RUN
    --training.steps N`); twice the size of the trained weights."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "save.every", self.every, "use 0 (on interruption only) or more")


@dataclass(frozen=True)
class TrackingConfig:
    """Trackers that the metrics of a run are sent to as well; they never change the run."""

    to: Annotated[tuple[str, ...], Flag(commas=True)] = ()
    """Any of trackio, tensorboard, wandb, mlflow; each is an extra of that name (docs/how-to/track.md)."""
    project: str = PROJECT
    """Project in trackio and W&B, experiment in MLflow."""
    name: str | None = None
    """Name of the run in the trackers; null: that of the run folder."""

    def __post_init__(self) -> None:
        known(self.to)
        require(self.project != "", "tracking.project", self.project, "give a name")
        require(self.name is None or self.name != "", "tracking.name", self.name, "give a name, or null")


@dataclass(frozen=True)
class Config:
    """Everything that determines a run."""

    OTHER_TOOLS = OURS  # without a type: no key of the file

    method: str = "dpo"
    """A name from `prefloop methods`, or `module:name` of your own file that adds the method to METHODS."""
    override: dict[str, Any] = field(default_factory=dict)
    """Changes to the method's switches (on_policy, reuse, negative) and hyper-parameters."""
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    reward: RewardOptions = field(default_factory=RewardOptions)
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    save: SaveConfig = field(default_factory=SaveConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    """Seed of all random numbers of the run."""
    output: str = "runs"
    """Folder in which the run folder is created."""

    def __post_init__(self) -> None:
        require(self.method != "", "method", self.method, "give a method: see `prefloop methods`")
        require(0 <= self.seed < 2**63, "seed", self.seed, "use a whole number from 0 to 2^63 - 1")
        require(self.output != "", "output", self.output, "give a folder")

    @property
    def saves_final(self) -> bool:
        """Whether there is a trained model to save at the end."""
        return self.save.final and self.training.steps > 0

    @property
    def keeps_state(self) -> bool:
        """Whether the run can be trained further when it is finished."""
        return self.saves_final and self.save.state


def load(path: str | Path | None, words: Sequence[str] = ()) -> Config:
    """The configuration of a YAML file (None: all defaults), overridden by dotted flags such as `--training.steps 20`.

    A file may extend another one (`extends: base.yaml`, relative to itself, one level deep). Paths inside a
    configuration are relative to the working directory.

    Raises:
        UserError: a missing or unreadable file, an unknown key, a value of the wrong type or out of range.
    """
    return changed(path, flags.given([Config], words)[0])


def changed(path: str | Path | None, tree: Mapping[str, Any]) -> Config:
    """The configuration of a YAML file, overridden by the values of a checked tree; see `load`."""
    try:
        return layered([*(_files(Path(path)) if path else []), tree])
    except UserError as error:
        where = f"{path or 'defaults'}{' with the command line' if tree else ''}: {error.where}"
        raise UserError(error.what, where=where, fix=error.fix) from None


def layered(layers: Sequence[Mapping[str, Any]]) -> Config:
    """The configuration of checked trees, later ones above earlier ones.

    Raises:
        UserError: a value out of range, or two lengths in one tree.
    """
    whole: dict[str, Any] = {}
    for layer in layers:
        whole = schema.merged(_other_length(whole, layer), layer)
    return schema.build(Config, whole)


def _other_length(below: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """The lower layers without `steps` where this one gives `epochs`, and the other way round.

    Raises:
        UserError: this one gives both.
    """
    given = {key for key in LENGTHS if layer.get("training", {}).get(key) is not None}
    if len(given) == len(LENGTHS):
        raise UserError(BOTH, where="training", fix="leave one of them out")
    kept = {k: v for k, v in below.get("training", {}).items() if not given or k in given or k not in LENGTHS}
    return {**below, "training": kept}


def _files(path: Path) -> list[dict[str, Any]]:
    """The checked trees of the file that it extends, if any, and of the file itself."""
    tree = yaml12.read(path)
    base = tree.pop("extends", None)
    layers = [schema.checked(tree, Config, str(path))]
    if base is None:
        return layers
    if not isinstance(base, str):
        raise UserError("`extends` must be the name of a file", where=str(path))
    lower = yaml12.read(path.parent / base)
    if "extends" in lower:
        fix = "only one level is supported: extend that file's base, or copy its values"
        raise UserError(f"`{base}` itself extends a file", where=str(path), fix=fix)
    return [schema.checked(lower, Config, str(path.parent / base)), *layers]


def to_yaml(config: Config) -> str:
    """The full configuration as YAML that `load` reads back unchanged."""
    tree = asdict(config)
    del tree["training"]["epochs" if config.training.epochs is None else "steps"]
    return yaml12.dump(tree)


def options() -> list[tuple[str, Any, str]]:
    """Every dotted key with its default and meaning, in the order of the file."""
    return [(key.name, key.default, key.note) for key in schema.keys(Config)]
