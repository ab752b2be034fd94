"""What the published bandit code's defects do: each put back alone, compared with the same runs without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from prefloop.analysis import theory
from prefloop.core.objectives import sequence
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting
from prefloop.lab.summary import Cell
from prefloop.report.chart import Array, Chart, Table
from prefloop.studies.bench import Bench
from prefloop.studies.cells import FAR, curves, sequences
from prefloop.studies.study import Claim, Outcome, Study, judged
from prefloop.worlds.arms.build import reference_policy
from prefloop.worlds.arms.defects import DropoutReference, seen_as
from prefloop.worlds.arms.problem import bump, prompt_tokens, reference_law
from prefloop.worlds.arms.spec import TOKENS, Sequences

UPDATES = {"smoke": 4, "small": 400, "paper": 600}  # the published pattern needs more than the size gives
SEEDS = {
    "smoke": 2,
    "small": 5,
    "paper": 10,
}  # number of the bench's seeds: every effect is a difference of paired runs
REUSE = 10
LR = 3e-4
NO_LIMIT = 1e6  # limit of the gradient's norm, as published: none
KL = 0.05
CALLS = 16  # number of calls of the noisy reference on the same responses
CLEAN = "without the defect"
REWARD, NATS = "gold reward", "nats"


@dataclass(frozen=True)
class Variant:
    """A method and its overrides."""

    method: str
    override: dict[str, Any]


VARIANTS = {
    "best-of-N": Variant("best_of_n", {"reuse": REUSE}),
    "PPO": Variant("ppo_critic_free", {"reuse": REUSE}),
    "IPO": Variant("online_ipo", {"reuse": REUSE, "tau": 0.05}),
    "PPO + KL": Variant("ppo_critic_free", {"reuse": 1, "scale": "none", "kl": KL}),
    "PPO, no KL": Variant("ppo_critic_free", {"reuse": 1, "scale": "none"}),
    "DPO": Variant("online_dpo", {}),
}
Key = tuple[str, str]  # row, defect
KEYS: tuple[Key, ...] = (
    *((variant, defect) for variant in ("best-of-N", "PPO") for defect in ("", "off_by_one", "prompt_in_reward")),
    *(("IPO", defect) for defect in ("", "off_by_one")),
    *(("PPO + KL", defect) for defect in ("", "k1_loss")),
    ("PPO, no KL", ""),
    *(("DPO", defect) for defect in ("", "reference_dropout")),
)


@dataclass(frozen=True)
class Evidence:
    """Cells by row and defect, and the noise of a reference with dropout, per seed."""

    cells: Mapping[Key, Cell]
    noise: Array


def peak(cell: Cell) -> Array:
    """Best reward of any evaluation, per seed."""
    return cell.values(lambda run: float(run.curves["eval/gold"].max()))


def fall(cell: Cell) -> Array:
    """Best reward in training minus the last, per seed."""
    return peak(cell) - cell.last()


def lost(e: Evidence, variant: str, defect: str) -> Array:
    """Final reward without the defect minus that with it."""
    return e.cells[variant, ""].last() - e.cells[variant, defect].last()


def slower(e: Evidence, variant: str) -> Array:
    """Mean reward over training without the prompt in the reward minus that with it."""
    return e.cells[variant, ""].mean() - e.cells[variant, "prompt_in_reward"].mean()


def asymmetry(e: Evidence, defect: str) -> Array:
    """Fall of best-of-N minus the fall of PPO."""
    return fall(e.cells["best-of-N", defect]) - fall(e.cells["PPO", defect])


def strayed(e: Evidence, variant: str) -> Array:
    """Final KL(π‖π_ref) with the published KL term minus that of another variant."""
    kl = "eval/kl_reverse_exact"
    return e.cells["PPO + KL", "k1_loss"].last(kl) - e.cells[variant, ""].last(kl)


CLAIMS = (
    Claim(
        "late-best-of-n-decays",
        f"with all tokens, the prompt included, scored at their own places, best-of-N at T = {REUSE} rises and decays",
        "best reward in training less the reward at the end, with the defect",
        0.1,
        REWARD,
        of=lambda e: fall(e.cells["best-of-N", "off_by_one"]),
    ),
    Claim(
        "aligned-best-of-n-arrives",
        "with aligned log-probs it approaches the ceiling",
        "reward at the end, without the defect",
        0.8,
        REWARD,
        of=lambda e: e.cells["best-of-N", ""].last(),
    ),
    Claim(
        "late-costs-best-of-n",
        "the defect alone makes that difference",
        "reward of best-of-N at the end, without the defect less with it",
        0.2,
        REWARD,
        of=lambda e: lost(e, "best-of-N", "off_by_one"),
    ),
    Claim(
        "late-ppo-survives",
        "scored like this, PPO survives the reuse that best-of-N does not",
        "with the defect: reward of PPO at the end less that of best-of-N",
        0.1,
        REWARD,
        of=lambda e: e.cells["PPO", "off_by_one"].last() - e.cells["best-of-N", "off_by_one"].last(),
    ),
    Claim(
        "asymmetry-with-defect",
        "so the defect by itself shows that best-of-N collapses under reuse and PPO does not",
        "with the defect: fall of best-of-N from its best reward to its last, less the fall of PPO",
        0.05,
        REWARD,
        of=lambda e: asymmetry(e, "off_by_one"),
    ),
    Claim(
        "no-asymmetry-without",
        "and without the defect no such asymmetry is there",
        "without the defect: fall of PPO less the fall of best-of-N",
        -0.05,
        REWARD,
        of=lambda e: -asymmetry(e, ""),
    ),
    Claim(
        "late-costs-ipo",
        f"IPO on its own samples at T = {REUSE} is hurt by it too",
        "reward of IPO at the end, without the defect less with it",
        0.05,
        REWARD,
        of=lambda e: lost(e, "IPO", "off_by_one"),
    ),
    Claim(
        "k1-lets-go",
        "a KL that is added as a differentiable log-ratio does not hold the policy near the reference",
        f"KL(π‖π_ref) at the end, with the term less with the KL in the reward, both of weight {KL:g}",
        5.0,
        NATS,
        of=lambda e: strayed(e, "PPO + KL"),
    ),
    Claim(
        "k1-is-no-penalty",
        "on fresh samples it is as if there were no penalty",
        "KL(π‖π_ref) at the end, with the term less without any penalty",
        -2.5,
        NATS,
        of=lambda e: strayed(e, "PPO, no KL"),
    ),
    Claim(
        "dropout-is-noise",
        "a reference with dropout left on says something else at every call",
        "standard deviation of repeated log π_ref of one response, mean over responses",
        0.01,
        NATS,
        of=lambda e: e.noise,
    ),
    Claim(
        "dropout-is-harmless",
        "online DPO does not mind",
        "reward at the end, with the defect less without it",
        -0.02,
        REWARD,
        of=lambda e: -lost(e, "DPO", "reference_dropout"),
    ),
    Claim(
        "prompt-leaves-comparisons",
        "a prompt inside the reward changes nothing where responses to one prompt are compared",
        "−|difference| of the mean reward of best-of-N over training, with and without the defect",
        -0.01,
        REWARD,
        of=lambda e: -abs(slower(e, "best-of-N")),
    ),
    Claim(
        "prompt-disturbs-batch-baseline",
        "it costs PPO some, whose baseline is a mean over prompts",
        "mean reward of PPO over training, without the defect less with it",
        0.01,
        REWARD,
        of=lambda e: slower(e, "PPO"),
    ),
)


def run(bench: Bench) -> Outcome:
    """Every variant with and without its defect, and the noise of the reference alone."""
    seeds = bench.seeds[: SEEDS[bench.size]]
    settings = {key: setting(bench, *key) for key in KEYS}
    runs = bench.sweep([replace(s, seed=n) for s in settings.values() for n in seeds])
    groups = [runs[i : i + len(seeds)] for i in range(0, len(runs), len(seeds))]
    cells = {key: Cell(s, group, {}) for (key, s), group in zip(settings.items(), groups, strict=True)}
    noise = reference_noise(settings["DPO", ""], seeds)
    return Outcome(judged(CLAIMS, Evidence(cells, noise)), figures(cells), [table(cells)], notes(noise))


def setting(bench: Bench, variant: str, defect: str) -> Setting:
    """A variant of VARIANTS on R1 with one defect or none."""
    steps = UPDATES[bench.size]
    return sequences(
        VARIANTS[variant].method,
        override=VARIANTS[variant].override,
        defect=defect,
        centre=FAR,
        lr=LR,
        max_grad_norm=NO_LIMIT,
        steps=steps,
        evaluate=max(1, steps // bench.budget.evaluations),
    )


# ------------------------------------------------------------------------------------------------------------ effects


def reference_noise(one: Setting, seeds: list[int]) -> Array:
    """Standard deviation of log π_ref(y|x) over calls of a reference with dropout, mean over responses, per seed."""
    assert isinstance(one.world, Sequences)
    policy = reference_policy(one.world, seeds, torch.float32)
    noise, rng = (Stream(name, seeds, stacked=True) for name in ("reference dropout", "repeated calls"))
    noisy = seen_as(DropoutReference, policy.reference(), noise=noise)
    with torch.no_grad():
        batch = policy.draw(prompt_tokens(0, 16, rng), 4, rng)
        calls = torch.stack([sequence(noisy.evaluate(batch).logp, batch) for _ in range(CALLS)])
    return calls.double().std(0).mean((-2, -1)).numpy()


def published(reward: float) -> float:
    """The published reward, a mean over prompt and response, for a gold reward with uniform prompts."""
    return (TOKENS * reward + float(bump(FAR, 10.0).mean())) / (TOKENS + 1)


def regularised_kl() -> float:
    """KL(π*‖π_ref) of a response, π* the optimum of E[reward] − KL · KL(π‖π_ref) if every token follows π_ref."""
    law = reference_law().log()[None]
    star, _ = theory.optimum(law, bump(FAR, 10.0)[None], torch.tensor([TOKENS * KL], dtype=law.dtype))
    return TOKENS * float(theory.exact(star, law))


# ---------------------------------------------------------------------------------------------- figures, table, notes


def figures(cells: dict[Key, Cell]) -> dict[str, list[Chart]]:
    """One figure per defect: the same settings with and without it."""

    def both(variant: str, defect: str, label: str, y: str = "eval/gold") -> Chart:
        return curves(variant, [cells[variant, ""], cells[variant, defect]], [CLEAN, label], y=y)

    late, prompt = "scored at its own place", "prompt in the reward"
    penalties = [cells["PPO + KL", ""], cells["PPO + KL", "k1_loss"], cells["PPO, no KL", ""]]
    labels = ["KL in the reward", "log-ratio as a loss", "no KL"]
    distance = curves("PPO", penalties, labels, y="eval/kl_reverse_exact")
    distance = replace(distance, y="KL(π‖π_ref), nats", guides={"regularised optimum": regularised_kl()})
    return {
        "off-by-one": [both(variant, "off_by_one", late) for variant in ("best-of-N", "PPO", "IPO")],
        "k1-loss": [distance, curves("PPO", penalties, labels)],
        "reference-dropout": [both("DPO", "reference_dropout", "dropout in the reference")],
        "prompt-in-reward": [both(variant, "prompt_in_reward", prompt) for variant in ("best-of-N", "PPO")],
    }


def table(cells: dict[Key, Cell]) -> Table:
    """Final and best reward, gold and as published, and KL to the reference; means over seeds."""
    rows = []
    for (variant, defect), cell in cells.items():
        end = float(cell.last().mean())
        numbers = (end, float(peak(cell).mean()), published(end), float(cell.last("eval/kl_reverse_exact").mean()))
        rows.append([defect or "none", variant, *(f"{x:.3f}" for x in numbers)])
    head = ("defect", "method", "end reward", "best reward", "end reward as published", "KL(π‖π_ref), nats")
    return Table("Each defect", head, sorted(rows, key=lambda r: r[0]))


def notes(noise: Array) -> list[str]:
    return [
        "A perfect response has a gold reward of 1. The published reward counts the prompt, which no policy chooses, so"
        f" that its ceiling for uniform prompts is {published(1.0):.3f}.",
        f"Repeated log π_ref of one response, dropout on: standard deviation {noise.mean():.3f} nats.",
        f"The optimum that a KL of weight {KL:g} asks for lies {regularised_kl():.2f} nats from the reference.",
    ]


STUDY = Study(
    name="published-defects",
    question="What do the defects of the published bandit code change by themselves?",
    source="the published bandit code, against Tajwar et al. 2024, §5.1",
    method=(
        "Sequences of nine tokens, reward R1 (peak far), B = M = 100 responses (10 prompts × 10), Adam at 3·10⁻⁴,"
        f" no limit of the gradient's norm, T = {REUSE} for best-of-N, PPO and IPO, T = 1 for the others; one defect"
        " at a time is put back into the loop, paired by seed with the same run without it. The first scores all ten"
        " tokens, the prompt included, at their own places, where each has already been read. Place 0, the prompt's, is"
        " where the first arm is sampled, so best-of-N and PPO also learn to repeat the prompt; in IPO's comparisons of"
        " answers to one prompt that place cancels. The reward that is shown is"
        " always the true one of what the policy samples. The pattern of the first defect needs more updates than other"
        f" studies of sequences take: {UPDATES['small']} at size small, {UPDATES['paper']} at size paper, with"
        f" {SEEDS['small']} and {SEEDS['paper']} seeds. The KL term is compared on fresh samples and with advantages"
        " that are not rescaled, so that its weight means the same in reward and loss. The noisy reference is asked"
        " once per collection, which at T = 1 is once per update, as published."
    ),
    claims=CLAIMS,
    run=run,
)
