"""What the published bandit code's defects do: each put back alone, compared with the same runs without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from prefloop.analysis import theory
from prefloop.core.objectives import sequence
from prefloop.core.streams import Stream
from prefloop.lab.setting import Setting, make
from prefloop.lab.stack import Run
from prefloop.lab.summary import Cell
from prefloop.lab.tuning import Scoring
from prefloop.report.chart import Array, Chart, Table
from prefloop.studies.bench import Bench
from prefloop.studies.conduct import Condition, Contrast, conduct, versus
from prefloop.studies.present import curves
from prefloop.studies.study import Claim, Outcome, Study, judged
from prefloop.worlds.arms.build import reference_policy
from prefloop.worlds.arms.defects import DropoutReference, seen_as
from prefloop.worlds.arms.problem import bump, prompt_tokens, reference_law
from prefloop.worlds.arms.spec import REWARDS, TOKENS, Sequences

FAR = REWARDS["far"]
REUSE = 10
LR = 3e-4
NO_LIMIT = 1e6  # limit of the gradient's norm, as published: none
KL = 0.05
CALLS = 16  # number of calls of the noisy reference on the same responses
NOISE_SEEDS = 4
LATE, TERM, DROPOUT, PROMPT = "off_by_one", "k1_loss", "reference_dropout", "prompt_in_reward"
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
Key = tuple[str, str]  # variant, defect
KEYS: tuple[Key, ...] = (
    *((variant, defect) for variant in ("best-of-N", "PPO") for defect in ("", LATE, PROMPT)),
    *(("IPO", defect) for defect in ("", LATE)),
    *(("PPO + KL", defect) for defect in ("", TERM)),
    ("PPO, no KL", ""),
    *(("DPO", defect) for defect in ("", DROPOUT)),
)
BEST, PPO = "best-of-N", "PPO"


def last(run: Run) -> float:
    """Gold reward at the end."""
    return run.last("eval/gold")


def fall(run: Run) -> float:
    """Best reward in training minus the last."""
    return float(run.curves["eval/gold"].max()) - last(run)


def over_training(run: Run) -> float:
    """Mean gold reward over training."""
    return run.mean("eval/gold")


def distance(run: Run) -> float:
    """KL(π‖π_ref) at the end."""
    return run.last("eval/kl_reverse_exact")


def lost(variant: str, defect: str, score: Callable[[Run], float] = last) -> Contrast:
    """Score without the defect minus that with it."""
    return versus([(variant, "")], [(variant, defect)], score)


def apart(defect: str) -> Contrast:
    """Fall of best-of-N minus the fall of PPO."""
    return versus([(BEST, defect)], [(PPO, defect)], fall)


CLAIMS = (
    Claim(
        "late-best-of-n-decays",
        f"with log-probs of the published code, best-of-N at T = {REUSE} rises and then decays",
        "best reward in training less the reward at the end, with the defect",
        0.1,
        REWARD,
        Contrast({(BEST, LATE): 1.0}, fall),
    ),
    Claim(
        "aligned-best-of-n-arrives",
        "with aligned log-probs it approaches the ceiling",
        "reward at the end, without the defect",
        0.8,
        REWARD,
        Contrast({(BEST, ""): 1.0}, last),
    ),
    Claim(
        "late-costs-best-of-n",
        "the defect alone makes that difference",
        "reward of best-of-N at the end, without the defect less with it",
        0.2,
        REWARD,
        lost(BEST, LATE),
    ),
    Claim(
        "late-ppo-survives",
        "with the defect, PPO survives the reuse that best-of-N does not",
        "with the defect: reward of PPO at the end less that of best-of-N",
        0.1,
        REWARD,
        versus([(PPO, LATE)], [(BEST, LATE)], last),
    ),
    Claim(
        "asymmetry-with-defect",
        "so the defect by itself shows that best-of-N collapses under reuse and PPO does not",
        "with the defect: fall of best-of-N from its best reward to its last, less the fall of PPO",
        0.05,
        REWARD,
        apart(LATE),
    ),
    Claim(
        "no-asymmetry-without",
        "and without the defect no such asymmetry is there",
        "without the defect: fall of best-of-N less the fall of PPO",
        0.05,
        REWARD,
        apart(""),
        sense="equal",
    ),
    Claim(
        "late-costs-ipo",
        f"IPO on its own samples at T = {REUSE} is hurt by it too",
        "reward of IPO at the end, without the defect less with it",
        0.05,
        REWARD,
        lost("IPO", LATE),
    ),
    Claim(
        "k1-lets-go",
        "a KL that is added as a differentiable log-ratio does not hold the policy near the reference",
        f"KL(π‖π_ref) at the end, with the term less with the KL in the reward, both of weight {KL:g}",
        5.0,
        NATS,
        versus([("PPO + KL", TERM)], [("PPO + KL", "")], distance),
    ),
    Claim(
        "k1-is-no-penalty",
        "on fresh samples it is as if there were no penalty",
        "KL(π‖π_ref) at the end, with the term less without any penalty",
        2.5,
        NATS,
        versus([("PPO + KL", TERM)], [("PPO, no KL", "")], distance),
        sense="equal",
    ),
    Claim(
        "dropout-is-harmless",
        "online DPO does not mind a reference with dropout left on",
        "reward at the end, with the defect less without it",
        0.02,
        REWARD,
        lost("DPO", DROPOUT),
        sense="equal",
    ),
    Claim(
        "prompt-leaves-comparisons",
        "a prompt inside the reward changes nothing where responses to one prompt are compared",
        "mean reward of best-of-N over training, without the defect less with it",
        0.01,
        REWARD,
        lost(BEST, PROMPT, over_training),
        sense="equal",
    ),
    Claim(
        "prompt-disturbs-batch-baseline",
        "it costs PPO some, whose baseline is a mean over prompts",
        "mean reward of PPO over training, without the defect less with it",
        0.01,
        REWARD,
        lost(PPO, PROMPT, over_training),
    ),
)
NOISE = Claim(
    "dropout-is-noise",
    "a reference with dropout left on says something else at every call",
    "standard deviation of repeated log π_ref of one response, mean over responses",
    0.01,
    NATS,
    counts=False,
)


def run(bench: Bench) -> Outcome:
    """Every variant with and without its defect, and the noise of the reference alone."""
    conditions = {key: Condition(setting(bench, *key), group=key[0]) for key in KEYS}
    evidence = conduct(bench, conditions, CLAIMS, Scoring(last))
    noise = reference_noise(conditions["DPO", ""].setting, list(range(NOISE_SEEDS)))
    findings = [*evidence.findings, *judged([NOISE], {NOISE.name: noise})]
    return Outcome(findings, figures(evidence.cells), [table(evidence.cells)], caveats(noise))


def setting(bench: Bench, variant: str, defect: str) -> Setting:
    """A variant of VARIANTS with the peak far away, with one defect or none."""
    own = VARIANTS[variant]
    fields: dict[str, Any] = {"centre": FAR, "lr": LR, "max_grad_norm": NO_LIMIT, "defect": defect}
    steps = max(4, 3 * bench.scale("sequences").steps)  # the published pattern needs more than other questions
    return make(own.method, "sequences", own.override, steps=steps, evaluate=max(1, steps // 20), **fields)


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


def figures(cells: Mapping[Key, Cell]) -> dict[str, list[Chart]]:
    """One figure per defect: the same settings with and without it."""

    def both(variant: str, defect: str, label: str, y: str = "eval/gold") -> Chart:
        return curves(variant, [cells[variant, ""], cells[variant, defect]], ["without the defect", label], y=y)

    late, prompt = "log-probs as published", "prompt in the reward"
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


def table(cells: Mapping[Key, Cell]) -> Table:
    """Final and best reward, gold and as published, and KL to the reference; means over seeds."""
    rows = []
    for (variant, defect), cell in cells.items():
        end = float(cell.last().mean())
        best, away = (float(x.mean()) for x in (cell.curve("eval/gold").max(1), cell.values(distance)))
        numbers = (end, best, published(end), away)
        rows.append([defect or "none", variant, *(f"{x:.3f}" for x in numbers)])
    head = ("defect", "method", "end reward", "best reward", "end reward as published", "KL(π‖π_ref), nats")
    return Table("Each defect", head, sorted(rows, key=lambda r: r[0]))


def caveats(noise: Array) -> list[str]:
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
    finding="Best-of-N collapses when samples are reused; PPO survives.",
    design={
        "problem": "sequences of nine tokens, peak far, 10 prompts × 10 responses per step",
        "compared": f"one defect at a time, paired by seed with the same run without it; T = {REUSE} for best-of-N, PPO"
        " and IPO, T = 1 for the others; the KL term on fresh samples, with advantages that are not rescaled",
        "objective": "the true gold reward of what the policy samples",
        "tuning": "none: Adam at 3·10⁻⁴ and no limit of the gradient's norm, as published",
    },
    claims=(*CLAIMS, NOISE),
    run=run,
)
