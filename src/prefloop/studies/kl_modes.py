"""How do forward KL(q‖p) and reverse KL(p‖q) move probability mass to a target q that the policy p can represent?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.analysis.statistics import mean_se
from prefloop.analysis.theory import forward_gradient, reverse_gradient
from prefloop.core.kl import exact
from prefloop.policies.mlp import MLP
from prefloop.report.chart import SHARE, Array, Chart, Line, Table
from prefloop.studies.study import Claim, Outcome, Study, judged

FIGURE_P, FIGURE_Q = (0.3, 0.3, 0.1, 0.3), (0.2, 0.1, 0.6, 0.1)  # the paper's case study
PRINTED = ((0.33, 0.225, 0.22, 0.225), (0.25, 0.20, 0.35, 0.20))  # its forward and reverse, read off to ± 0.003
INSTANCES = {"smoke": 20, "small": 200, "paper": 1000}  # number of random targets, and of targets with two modes
STEPS = {"smoke": 120, "small": 400, "paper": 400}
EARLY, SHOWN = 30, (10, 30, 100)  # the step used in claims, and those in the table
CATEGORIES, CONCENTRATIONS = 10, (0.5, 1.0, 3.0)  # of random instances; concentrations are used in turn
MODE, MODE_START = 0.4, 0.3  # mass of each of the two modes in the target, and maximum initial mass of one
CONTEXTS, FEATURES, HIDDEN, FIGURE_NETWORKS = 4, 8, (16,), 8  # of the shared network; number of networks in the figure
RATES = {  # learning rates of both parametrisations; momentum is 0.9
    "logits": {"sgd": 0.1, "momentum": 0.01, "adam": 0.01},
    "network": {"sgd": 0.03, "momentum": 0.003, "adam": 0.003},
}
FACTORS = (0.3, 1.0, 3.0)  # factors of the learning rate, in the search for the printed values
OBJECTIVES = ("forward", "reverse")
ANY = 1e-9  # any difference counts: divergences are exact
Key = tuple[str, str]  # parametrisation and optimiser
Fit = tuple[float, float, int]  # largest error over both printed distributions, of the best factor and step
Fits = dict[str, tuple[Fit, Fit]]  # by optimiser: labels as printed, labels exchanged


def _claims() -> tuple[Claim, ...]:
    faster, seeks = "reverse KL moves mass faster to where q is heaviest", "of two equal modes reverse KL favours"
    lead, share = "mass on the target's heaviest category", "p(likelier)/p(both modes)"
    half, path = "where half of KL(q‖p) + KL(p‖q) is gone", f"at the path length that the shorter has at step {EARLY}"
    rows = [
        ("labels-as-printed", "the case study's printed curves are those of the objectives that label them",
         "best max error with labels exchanged − as printed"),
        ("forward-raises-category-0", "in the case study forward KL first raises category 0, which must fall",
         f"p(0) − 0.3 after {EARLY} steps of forward"),
        ("reverse-raises-category-2-more", "in the case study reverse KL adds more mass to category 2",
         f"p(2) of reverse − of forward after {EARLY} steps"),
    ]  # fmt: skip
    for where in RATES:
        rows += [
            (f"{where}-faster-sgd", faster, f"{lead}, reverse − forward, after {EARLY} steps of SGD"),
            (f"{where}-faster-adam", faster, f"{lead}, reverse − forward, after {EARLY} steps of Adam"),
            (f"{where}-faster-path", faster, f"{lead}, reverse − forward, {path}, SGD"),
            (f"{where}-entropy", "reverse KL lowers the entropy more early on", f"forward − reverse {path}, SGD"),
            (f"{where}-mode-steps", f"{seeks} the likelier", f"{share}, reverse − forward, after {EARLY} steps of SGD"),
            (f"{where}-mode-progress", f"{seeks} the likelier", f"{share}, reverse − forward, {half}, SGD"),
        ]
    return tuple(Claim(*row, ANY, "nats" if "entropy" in row[0] else "probability", counts=False) for row in rows)


CLAIMS = _claims()


@dataclass(frozen=True)
class Instances:
    """Starting policies [N, V], the same in every context, and targets [N, P, V]."""

    start: Tensor
    target: Tensor


def random_targets(rng: np.random.Generator, n: int, contexts: int) -> Instances:
    concentration = [np.full(CATEGORIES, CONCENTRATIONS[i % len(CONCENTRATIONS)]) for i in range(n)]
    start = np.stack([rng.dirichlet(a) for a in concentration])
    target = np.stack([rng.dirichlet(a, size=contexts) for a in concentration])
    return Instances(torch.from_numpy(start), torch.from_numpy(target))


def two_modes(rng: np.random.Generator, n: int, contexts: int) -> tuple[Instances, Tensor]:
    """Targets with MODE on each of two random categories, the rest spread evenly; modes [N, P, 2], likelier first."""
    start = rng.dirichlet(np.ones(CATEGORIES), size=10 * n)
    start = start[start.max(-1) <= MODE_START][:n]  # both modes can grow
    modes = np.argsort(rng.random((n, contexts, CATEGORIES)), -1)[..., :2]
    mass = np.take_along_axis(np.broadcast_to(start[:, None], (n, contexts, CATEGORIES)), modes, -1)
    modes = np.take_along_axis(modes, np.argsort(-mass, -1), -1)
    target = np.full((n, contexts, CATEGORIES), (1 - 2 * MODE) / (CATEGORIES - 2))
    np.put_along_axis(target, modes, MODE, -1)
    return Instances(torch.from_numpy(start), torch.from_numpy(target)), torch.from_numpy(modes)


def case_study(rng: np.random.Generator, n: int, contexts: int) -> Instances:
    """The paper's instance in the first context; other contexts have random targets."""
    target = rng.dirichlet(np.ones(len(FIGURE_P)), size=(n, contexts))
    target[:, 0] = FIGURE_Q
    return Instances(torch.tensor(FIGURE_P, dtype=torch.float64).expand(n, -1), torch.from_numpy(target))


@dataclass(frozen=True)
class Paths:
    """Both descents of every instance: log-probs [2, time, N, P, V] and length of the parameters' path [2, time, N]."""

    logp: Tensor
    length: Tensor


def logits(start: Tensor) -> tuple[list[Tensor], Callable[[], Tensor]]:
    z = start.log()[None, :, None].expand(2, -1, 1, -1).flatten(0, 1).clone().requires_grad_()
    return [z], lambda: z.log_softmax(-1)


def network(start: Tensor) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """One small network per instance for all its contexts; its last bias starts at log p0, its weights near 0."""
    rows, arms = start.shape
    policy = MLP.create([*range(rows)] * 2, context=FEATURES, arms=arms, hidden=HIDDEN, dtype=torch.float64)
    contexts = np.tile(np.random.default_rng(rows).normal(size=(rows, CONTEXTS, FEATURES)), (2, 1, 1))
    with torch.no_grad():
        policy.weights[f"layer{policy.layers - 1}.bias"].copy_(start.log().repeat(2, 1))
    used = [w for name, w in policy.weights.items() if not name.startswith("value")]
    return used, lambda: policy.distribution(torch.from_numpy(contexts))


MODELS = {"logits": logits, "network": network}


def direction(optimiser: str, grad: Tensor, state: tuple[Tensor, Tensor], t: int) -> Tensor:
    """The optimiser's update direction at step t = 1, 2, …, per unit of learning rate; updates `state` in place."""
    first, second = state
    if optimiser == "adam":
        first.lerp_(grad, 1 - 0.9)
        second.lerp_(grad * grad, 1 - 0.999)
        return first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
    return first.mul_(0.9).add_(grad) if optimiser == "momentum" else grad


def descend(key: Key, at: Instances, steps: int, factors: Tensor | None = None) -> Paths:
    """Forward (first) and reverse from the same parameters. Instances are stacked but independent.

    Args:
        factors: [N], factors of the learning rate per instance.
    """
    n, target = len(at.start), at.target.log().repeat(2, 1, 1)
    parameters, log_probs = MODELS[key[0]](at.start)
    states = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    rates = RATES[key[0]][key[1]] * (torch.ones(n, dtype=torch.float64) if factors is None else factors).repeat(2)
    seen, lengths = [log_probs()], [torch.zeros(2 * n, dtype=torch.float64)]
    for t in range(1, steps + 1):
        logp, moved = seen[-1], torch.zeros_like(lengths[0])
        loss = torch.cat([exact(target[:n], logp[:n]), exact(logp[n:], target[n:])]).mean(-1).sum()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, grad, state in zip(parameters, gradients, states, strict=True):
                step = rates.view(-1, *[1] * (p.ndim - 1)) * direction(key[1], grad, state, t)
                p -= step
                moved += step.flatten(1).square().sum(-1)
        seen[-1] = logp.detach()
        seen.append(log_probs())
        lengths.append(lengths[-1] + moved.sqrt())
    logp = torch.stack([x.detach() for x in seen]).unflatten(1, (2, n)).transpose(0, 1)
    return Paths(logp, torch.stack(lengths).unflatten(1, (2, n)).transpose(0, 1))


def heaviest(paths: Paths, at: Instances) -> Array:
    """Mass on the target's heaviest category, mean over contexts."""
    place = at.target.argmax(-1, keepdim=True).expand(*paths.logp.shape[:-1], 1)
    return paths.logp.gather(-1, place).exp().squeeze(-1).mean(-1).numpy()


def left(paths: Paths, at: Instances) -> Array:
    """KL(q‖p) + KL(p‖q), which favours neither objective, as a share of its initial value."""
    target = at.target.log().expand_as(paths.logp)
    both = (exact(paths.logp, target) + exact(target, paths.logp)).mean(-1)
    return (both / both[:, :1]).numpy()


def at_path(measure: Array, length: Array) -> Array:
    """[2, N] at the path length of the shorter one at step EARLY: as if gradients were normalised."""
    common = length[:, EARLY].min(0)
    return np.stack([[np.interp(s, length[o, :, i], measure[o, :, i]) for i, s in enumerate(common)] for o in range(2)])


def at_progress(measure: Array, remains: Array, level: float) -> Array:
    """[2, N] where `remains` first reaches `level`, interpolated between steps; nan if it never does."""
    below = remains <= level
    t = below.argmax(1)[:, None]
    before = np.maximum(t - 1, 0)
    old, new = (np.take_along_axis(remains, i, 1) for i in (before, t))
    part = np.where(old > new, (old - level) / np.where(old > new, old - new, 1.0), 0.0)
    a, b = (np.take_along_axis(measure, i, 1) for i in (before, t))
    return np.where(below.any(1), (a + part * (b - a))[:, 0], np.nan)


def lead(pair: Array) -> Array:
    """Reverse − forward, for instances that have both."""
    return (pair[1] - pair[0])[np.isfinite(pair).all(0)]


# of one parametrisation and optimiser, [2, N] unless said otherwise: `mass` and `share` [2, time, N]; both at equal
# `_path` and `_progress`; `curve` [levels, 2, N]; `likelier` and `both`, what the likelier and both modes have gained
Measured = dict[str, Array]
LEVELS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def measure(key: Key, n: int, steps: int) -> Measured:
    rng = np.random.default_rng(n)
    contexts = 1 if key[0] == "logits" else CONTEXTS
    some, (double, modes) = random_targets(rng, n, contexts), two_modes(rng, n, contexts)
    together = Instances(torch.cat([some.start, double.start]), torch.cat([some.target, double.target]))
    every = descend(key, together, steps)
    paths, split = (Paths(every.logp[:, :, part], every.length[:, :, part]) for part in (slice(n), slice(n, None)))
    both = split.logp.gather(-1, modes.expand(*split.logp.shape[:-1], 2)).exp().numpy()  # [2, time, N, P, 2]
    gained, share = (both - both[:, :1]).mean(-2), (both[..., 0] / both.sum(-1)).mean(-1)
    mass, remains, length = heaviest(paths, some), left(split, double), paths.length.numpy()
    entropy = -(paths.logp.exp() * paths.logp).sum(-1).mean(-1).numpy()
    return {
        "mass": mass,
        "mass_path": at_path(mass, length),
        "mass_progress": at_progress(mass, left(paths, some), 0.5),
        "entropy_path": at_path(entropy, length),
        "share": share,
        "share_progress": at_progress(share, remains, 0.5),
        "curve": np.stack([at_progress(share, remains, level) for level in LEVELS]),
        "likelier": at_progress(gained[..., 0], remains, 0.5),
        "both": at_progress(gained.sum(-1), remains, 0.5),
    }


def case_paths(key: Key, steps: int) -> Array:
    """[2, time, N, V] of the case study's context: N learning rates of the logits, or N networks."""
    n, contexts = (FIGURE_NETWORKS, CONTEXTS) if key[0] == "network" else (len(FACTORS), 1)
    factors = torch.tensor(FACTORS, dtype=torch.float64) if key[0] == "logits" else None
    at = case_study(np.random.default_rng(4), n, contexts)
    return descend(key, at, steps, factors).logp[..., 0, :].exp().numpy()


def fits(cases: Mapping[Key, Array]) -> Fits:
    """Per optimiser, with labels as printed and exchanged; the same learning rates and steps for both."""

    def best(paths: Array, printed: Array) -> Fit:
        error = np.abs(paths - printed[:, None, None]).max((0, 3))
        step, factor = np.unravel_index(error.argmin(), error.shape)
        return float(error.min()), FACTORS[factor], int(step)

    both = np.array(PRINTED), np.array(PRINTED[::-1])
    return {name: (best(x, both[0]), best(x, both[1])) for (where, name), x in cases.items() if where == "logits"}


def effects(seen: Mapping[Key, Measured], cases: Mapping[Key, Array], fitted: Fits) -> dict[str, Array]:
    out = {
        "labels-as-printed": np.array([swapped[0] - printed[0] for printed, swapped in fitted.values()]),
        "forward-raises-category-0": np.array([p[0, EARLY, 0] - FIGURE_P[0] for p in cases.values()]),
        "reverse-raises-category-2-more": np.array([p[1, EARLY, 2] - p[0, EARLY, 2] for p in cases.values()]),
    }
    for where in RATES:
        sgd, adam = seen[where, "sgd"], seen[where, "adam"]
        out |= {
            f"{where}-faster-sgd": lead(sgd["mass"][:, EARLY]),
            f"{where}-faster-adam": lead(adam["mass"][:, EARLY]),
            f"{where}-faster-path": lead(sgd["mass_path"]),
            f"{where}-entropy": -lead(sgd["entropy_path"]),
            f"{where}-mode-steps": lead(sgd["share"][:, EARLY]),
            f"{where}-mode-progress": lead(sgd["share_progress"]),
        }
    return out


def mass_table(seen: Mapping[Key, Measured]) -> Table:
    def row(key: Key, m: Measured) -> tuple[str, ...]:
        pairs = [*(m["mass"][:, k] for k in SHOWN), m["mass_path"], m["mass_progress"]]
        cells = (f"{mean_se(lead(x))}; {(lead(x) > 0).mean():.0%}" if len(lead(x)) else "–" for x in pairs)
        got = np.isfinite(m["mass_progress"]).all(0).mean()
        return (" ".join(key), f"{RATES[key[0]][key[1]]:g}", *cells, f"{got:.0%}")

    return Table(
        "Mass on the target's heaviest category, reverse − forward: mean ± SE; share of instances with reverse ahead",
        (
            "",
            "learning rate",
            *(f"after {k} steps" for k in SHOWN),
            "equal length of path",
            "half the divergence gone",
            "get half",
        ),
        [row(key, m) for key, m in seen.items()],
    )


def mode_table(seen: Mapping[Key, Measured]) -> Table:
    def row(key: Key, m: Measured) -> tuple[str, ...]:
        got = np.isfinite(m["share_progress"]).all(0)
        gained = [m[part][:, got].sum(-1) if got.any() else np.full(2, np.nan) for part in ("likelier", "both")]
        half = m["share_progress"][:, got].mean(-1) if got.any() else gained[0]
        shares = (*m["share"][:, EARLY].mean(-1), *half, *(gained[0] / gained[1]))
        return (" ".join(key), f"{m['share'][0, 0].mean():.3f}", *(f"{x:.3f}" for x in shares), f"{got.mean():.0%}")

    heads = [f"{o}, {when}" for when in (f"{EARLY} steps", "half gone", "of the gain") for o in OBJECTIVES]
    return Table(
        "Two modes of equal mass in the target: p(likelier)/p(both), and the likelier one's part of what both gained",
        ("", "start", *heads, "instances that got half"),
        [row(key, m) for key, m in seen.items()],
    )


def case_table(cases: Mapping[Key, Array]) -> Table:
    p, q = (torch.tensor(x, dtype=torch.float64).log() for x in (FIGURE_P, FIGURE_Q))
    gradients = zip(OBJECTIVES, (forward_gradient(p, q), reverse_gradient(p, q)), strict=True)
    rows = [(f"−∇ {name} KL in the logits, at p0", *(f"{-x:+.3f}" for x in g.tolist())) for name, g in gradients]
    for key, x in cases.items():
        rows += [(f"{' '.join(key)}, {name}", *(f"{v:.3f}" for v in x[o, EARLY])) for o, name in enumerate(OBJECTIVES)]
    rows += [(f"printed as {name}", *map(str, x)) for name, x in zip(OBJECTIVES, PRINTED, strict=True)]
    title = f"The case study from p0 = {FIGURE_P} to q = {FIGURE_Q}, after {EARLY} steps"
    return Table(title, ("", *(f"category {i}" for i in range(4))), rows)


def fit_table(fitted: Fits) -> Table:
    def cells(name: str, fit: Fit) -> tuple[str, str]:
        return f"{fit[0]:.3f}", f"{fit[1] * RATES['logits'][name]:g}, {fit[2]}"

    return Table(
        "The printed distributions against both labellings: largest error of the best learning rate and step",
        ("optimiser", "as printed", "at rate, step", "exchanged", "at rate, step"),
        [(name, *cells(name, printed), *cells(name, swapped)) for name, (printed, swapped) in fitted.items()],
    )


def case_chart(key: Key, p: Array) -> Chart:
    steps, shown = list(range(min(101, p.shape[1]))), [(c, o) for c in (0, 2) for o in range(2)]
    lines = [Line(f"{OBJECTIVES[o]}, category {c}", steps, p[o, : len(steps), c], dashed=bool(o)) for c, o in shown]
    return Chart(f"Case study: {' '.join(key)}", "gradient steps", "probability", lines, range=SHARE)


def mean_line(name: str, x: Sequence[int | float], rows: Array, dashed: bool) -> Line:
    """Means of [x, N] ± 1.96 standard errors, without missing values."""
    means = {place: mean_se(r[np.isfinite(r)]) for place, r in zip(x, rows, strict=True) if np.isfinite(r).sum() > 1}
    value, spread = (np.array([getattr(m, part) for m in means.values()]) for part in ("value", "se"))
    return Line(name, list(means), value, value - 1.96 * spread, value + 1.96 * spread, dashed=dashed)


def mass_chart(key: Key, m: Measured) -> Chart:
    steps = list(range(0, m["mass"].shape[1], 20))
    lines = [mean_line(name, steps, m["mass"][o, steps], bool(o)) for o, name in enumerate(OBJECTIVES)]
    return Chart(f"Random targets: {' '.join(key)}", "gradient steps", "mass on the heaviest category", lines, **BAND)


def mode_chart(key: Key, m: Measured) -> Chart:
    """Over the instances that both objectives brought to a level."""
    rows = np.where(np.isfinite(m["curve"]).all(1, keepdims=True), m["curve"], np.nan)
    gone = [1 - level for level in LEVELS]
    lines = [mean_line(name, gone, rows[:, o], bool(o)) for o, name in enumerate(OBJECTIVES)]
    return Chart(
        f"Two modes: {' '.join(key)}", "share of KL(q‖p) + KL(p‖q) gone", "p(likelier) / p(both modes)", lines, **BAND
    )


BAND: dict[str, Any] = {"range": SHARE, "interval": "mean over random instances; band: ±1.96 standard errors"}
NOTES = (
    "forward = KL(q‖p), maximum likelihood on samples of q; reverse = KL(p‖q). Divergences and gradients are exact.",
    "Equal steps depend on the scale of the gradients: reverse KL's is weighted by p, forward KL's is p − q; Adam has"
    f" none. Equal length of path: after the same movement of the parameters, the slower's at step {EARLY}. Half gone:"
    " where KL(q‖p) + KL(p‖q), which prefers neither, has halved; the tables say how many instances get there.",
    "The printed values of the case study are read off a picture; the labels are judged by a fit, which is no proof."
    " Its intervals span parametrisations and optimisers, not random draws.",
)


def run(bench: Any) -> Outcome:  # uses only the size of a Bench
    n, steps = INSTANCES[bench.size], STEPS[bench.size]
    keys = [(where, name) for where, rates in RATES.items() for name in rates]
    seen = {key: measure(key, n, steps) for key in keys}
    tried, charted = {key: case_paths(key, steps) for key in keys}, [key for key in keys if key[1] != "momentum"]
    cases = {key: x[:, :, FACTORS.index(1.0)] if key[0] == "logits" else x.mean(2) for key, x in tried.items()}
    fitted = fits(tried)
    return Outcome(
        judged(CLAIMS, effects(seen, cases, fitted)),
        figures={
            "kl-modes-case": [case_chart(key, cases[key]) for key in charted],
            "kl-modes-mass": [mass_chart(key, seen[key]) for key in charted],
            "kl-modes-two": [mode_chart(key, seen[key]) for key in charted],
        },
        tables=(case_table(cases), fit_table(fitted), mass_table(seen), mode_table(seen)),
        caveats=NOTES,
    )


STUDY = Study(
    name="kl-modes",
    question="How do the forward and the reverse KL move probability mass on the way to a target?",
    source="Tajwar et al. 2024, §6, categorical case study and its figure",
    finding="Reverse KL moves mass faster, and to a subset of the target's categories.",
    design={
        "problem": "the paper's four categories; random policies and targets over ten; logits, or a small network",
        "compared": "exact descent of both divergences from the same start, by SGD, SGD with momentum 0.9, and Adam",
        "objective": "paired by instance; the case study has one value per parametrisation and optimiser",
    },
    claims=CLAIMS,
    run=run,
)
