"""From a configuration to the parts of a run: method, policy, reference, problem, reward, held-out sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.files import sha256
from prefloop.core.loop import Plan
from prefloop.core.method import Method
from prefloop.core.methods import method
from prefloop.core.protocols import no_op
from prefloop.core.streams import Stream, streams
from prefloop.data.formats import load
from prefloop.data.instructions import builtin, instructions
from prefloop.data.records import Group, Message, first_responses, split
from prefloop.policies import pretrained
from prefloop.policies.causal_lm import CausalLM, resolve_autocast
from prefloop.policies.sampler import Sampling
from prefloop.rewards import scorers
from prefloop.rewards.bradley_terry.accuracy import reward_accuracy
from prefloop.rewards.bradley_terry.model import known
from prefloop.runs.config import Config
from prefloop.runs.learned import first_pairs, learned, spread
from prefloop.worlds.text.problem import TextProblem, label_threshold

Scorer = Callable[[Batch], Tensor]
Poll = Callable[[], None]


@dataclass
class Parts:
    """Everything that a run needs, built once; only the policy changes afterwards."""

    config: Config
    method: Method
    plan: Plan
    policy: CausalLM
    reference: CausalLM
    problem: TextProblem
    scorer: Scorer | None  # None: the labels that came with the data
    scorer_note: str  # what is known of a learned scorer, printed beside every result that uses it
    gold: Scorer | None  # a second reward that evaluations measure
    held_out: list[Group]
    hashes: dict[str, str]

    @property
    def prompts(self) -> list[Int[Tensor, " L"]]:
        """Held-out prompts that the policy answers at an evaluation."""
        return self.problem.render(self.held_out[: self.config.evaluation.prompts])

    @property
    def generates(self) -> bool:
        """Fresh answers can be scored."""
        return self.scorer is not None

    @property
    def preferences(self) -> tuple[Batch, list[str]] | None:
        """Held-out pairs with their questions, where the held-out set has pairs with a winner."""
        pairs = [g for g in self.held_out if len(g.responses) == 2 and g.scores and g.scores[0] != g.scores[1]]
        pairs = spread(pairs)[: self.config.evaluation.pairs]
        return (self.problem.batch_of(pairs, 2), [g.key for g in pairs]) if pairs else None


def build(config: Config, *, poll: Callable[[], None] = no_op, say: Callable[[str], None] = print) -> Parts:
    """Load model and data, make the reward, and check that everything fits together before anything is trained.

    Raises:
        UserError, DataError: what is wrong, where, and how to mend it.
    """
    row = _row(config)
    plan = _plan(config, row)
    train, held_out, hashes = _groups(config)
    threshold = _label_threshold(config, row, train)
    torch.manual_seed(config.seed)  # libraries that initialise new weights (LoRA, heads) draw from it
    model, tokenizer = pretrained.load(config.model.path)
    if config.model.lora_rank:
        model = pretrained.with_lora(model, config.model.lora_rank, seed=config.seed)
    policy = CausalLM(
        model,
        tokenizer,
        sampling=Sampling(**vars(config.sampling)),
        micro_tokens=config.training.micro_tokens,
        autocast=resolve_autocast(config.model.autocast, model),
        critic=row.critic,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    reference = policy.reference()
    problem = TextProblem(
        train,
        tokenizer,
        scorer=None,
        system=config.data.system,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_new_tokens=config.sampling.max_new_tokens,
    )
    problem.remember(held_out)
    measured = _gold(config, problem)  # its mistakes are found before a reward model is fitted
    scorer, note = _scorer(config, problem, reference, train, held_out, poll)
    problem = replace(problem, scorer=scorer, label_threshold=threshold)
    if row.on_policy > 0 and scorer is None:
        raise UserError(
            "the labels of the data cannot score fresh responses, which on_policy > 0 draws",
            where="reward.name",
            fix="name a reward (length_min, bradley_terry, module:function, …) or set on_policy: 0",
        )
    lost = problem.truncation([group for group in train if group.responses])
    if lost.cut or lost.empty or lost.identical:
        say(f"training responses: {lost}")
    parts = Parts(config, row, plan, policy, reference, problem, scorer, note, measured, held_out, hashes)
    if note:
        say(note)
    return parts


def offline_groups(parts: Parts) -> int:
    """As many offline groups as the run will see, at most one per prompt."""
    m, plan = parts.method, parts.plan
    per_collection = plan.batch // m.responses
    given = per_collection - round(m.on_policy * per_collection)
    collections = -(-plan.steps * plan.minibatch // (plan.batch * m.reuse))
    return min(len(parts.problem.train), given * collections)


def offline_collection(parts: Parts, poll: Poll = no_op) -> Batch:
    """Responses of the reference to the training prompts, scored: the preference data of prompt-only sets."""
    prompts = parts.problem.prompts(0, offline_groups(parts), streams(parts.config.seed)["prompts"])
    with torch.no_grad():
        drawn = parts.reference.draw(prompts, parts.method.responses, streams(parts.config.seed)["dataset"], poll)
    return replace(parts.problem.score(drawn), logp_behaviour=None, logp_proximal=None)


def needs_collection(parts: Parts) -> bool:
    """The row wants offline responses and the data are prompts only."""
    return parts.method.on_policy < 1 and all(not group.responses for group in parts.problem.train)


def check_cut(share: float, config: Config) -> None:
    """Refuse a limit that cuts so many of the reference's answers that the reward would be about the limit.

    Raises:
        DataError: more than `evaluation.max_cut` of them are cut.
    """
    if share > config.evaluation.max_cut:
        raise DataError(
            f"{share:.0%} of the reference's answers are cut at {config.sampling.max_new_tokens} tokens;"
            f" at most {config.evaluation.max_cut:.0%} may be",
            where="sampling.max_new_tokens",
            fix="raise it, or choose prompts with shorter answers (data.system can ask for them)",
        )


def evaluation_stream(config: Config) -> Stream:
    """The same random numbers at every evaluation, so that before and after differ by the policy alone."""
    return streams(config.seed)["evaluation"]


def _row(config: Config) -> Method:
    """The method with its overrides."""
    try:
        return method(config.method).override(**config.override)
    except UserError as error:
        raise UserError(error.what, where=error.where or f"method {config.method}", fix=error.fix) from None


def _plan(config: Config, row: Method) -> Plan:
    t = config.training
    plan = Plan(t.steps, t.batch, t.minibatch, t.lr, t.warmup, t.max_grad_norm)
    plan.check(row)
    return plan


def _groups(config: Config) -> tuple[list[Group], list[Group], dict[str, str]]:
    """Training and held-out groups, and the SHA-256 of every file they came from."""
    data, hashes = config.data, {}
    if "builtin" in (data.train, data.held_out):
        hashes["builtin"] = sha256(builtin())

    def read(path: str) -> list[Group]:
        hashes[path] = sha256(path) if Path(path).is_file() else ""
        groups = load(path, format=data.format, group_by=data.group_by, columns=data.columns, limit=data.limit)
        return groups if data.responses is None else first_responses(groups, data.responses)

    if data.held_out == "split":
        whole = instructions("train") if data.train == "builtin" else read(data.train)
        train, held_out = split(whole, data.held_out_share, config.seed)
    else:
        train = instructions("train") if data.train == "builtin" else read(data.train)
        held_out = instructions("held_out") if data.held_out == "builtin" else read(data.held_out)
    for name, groups in (("train", train), ("held_out", held_out)):
        if not groups:
            raise DataError(f"no {name} examples are left", where=f"data.{name}", fix="more data, or another share")
    return train, held_out, hashes


def _scorer(
    config: Config, problem: TextProblem, policy: CausalLM, train: list[Group], held_out: list[Group], poll: Poll
) -> tuple[Scorer | None, str]:
    """The reward of the configuration, and what must be said of it beside every result."""
    name, options = config.reward.name, config.reward.options
    if name == "labels":
        return None, ""
    if name != "bradley_terry":
        return scorers.build(name, options, decode=problem.decode, decode_prompts=problem.decode_prompts), ""
    seen = partial(with_system, config.data.system)  # fitted and judged on the prompts that it will score
    model = learned(options, policy, seen(train), config.seed, poll)
    if model.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise UserError("the reward model has another vocabulary than the policy", where="reward.options.path")
    pairs = first_pairs([g for g in held_out if not known(g, model.trained_on)], config.evaluation.pairs)
    if not pairs:
        why = "the held-out set has no pairs that it was not fitted to"
        return model.score_batch, f"Bradley–Terry scorer: accuracy not measured, {why}"
    note = f"Bradley–Terry scorer: {reward_accuracy(model, seen(pairs), seed=config.seed)}"
    return model.score_batch, note


def _label_threshold(config: Config, row: Method, train: list[Group]) -> float | None:
    """Above which score a label is positive: as configured, or of data whose scores are labels.

    Raises:
        UserError: the method reads labels, and none can be made.
        DataError: the method reads labels, and none of the data is positive.
    """
    given, of_data = config.reward.label_threshold, config.reward.name == "labels"
    threshold = label_threshold(train) if given is None and of_data else given
    if "labels" not in row.needs:
        return threshold
    if threshold is None:
        source = "the scores of the data are ratings" if of_data else f"the reward `{config.reward.name}` gives scores"
        raise UserError(
            f"the method `{config.method}` reads labels (+1 good, -1 not), but {source}",
            where=f"method={config.method}, reward.name={config.reward.name}",
            fix="reward.label_threshold=NUMBER: a response scored above it gets the label +1",
        )
    if of_data and not any(score > threshold for group in train for score in group.scores or ()):
        raise DataError(
            f"the method `{config.method}` reads labels, but no response of the training data has a positive one",
            where="data.train",
            fix="data with both kinds, or another reward.label_threshold",
        )
    return threshold


def _gold(config: Config, problem: TextProblem) -> Scorer | None:
    """What evaluations measure beside the reward."""
    options = config.reward.gold_options
    if config.reward.gold is None:
        if options:
            what = "there are options of a gold reward, but no gold reward"
            raise UserError(what, where="reward.gold_options", fix="name it: reward.gold")
        return None
    if config.reward.name == "labels":
        fix = "name a reward that scores fresh responses, or leave reward.gold out"
        raise UserError("labels leave no responses to measure gold on", where="reward.gold", fix=fix)
    name, where = config.reward.gold, scorers.Where("reward.gold", "reward.gold_options", known=("module:function",))
    return scorers.build(name, options, decode=problem.decode, decode_prompts=problem.decode_prompts, where=where)


def with_system(system: str | None, groups: Sequence[Group]) -> list[Group]:
    """The groups with the system message that the policy's prompts have."""
    if system is None:
        return list(groups)
    said = Message("system", system)
    return [g if g.prompt[0].role == "system" else replace(g, prompt=(said, *g.prompt)) for g in groups]
