"""Do the lemmas of section 6 hold as stated, and under which exact conditions? Random categoricals, one step each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.analysis import theory
from prefloop.core.kl import exact
from prefloop.report.chart import SHARE, Array, Chart, Line, Table
from prefloop.studies.study import Claim, Finding, Outcome, Study, judged

CATEGORIES = (3, 5, 10, 20)
CONCENTRATIONS = (0.3, 1.0, 3.0)
PER_CELL = {
    "smoke": 170,
    "small": 2000,
    "paper": 4000,
}  # number of instances for each number of categories and concentration
TOLERANCE = 1e-10  # of closed forms compared with autograd, relative to 1 + the largest entry
TIE = 1e-12  # differences of log-probs whose sign rounding can change
SMALL_STEP, STEP = 1e-4, 0.1  # of Lemma 6.2, which is first-order, and of Theorem 6.5, which is exact in the step
ALMOST_ALL = 0.999

Measured = dict[str, Array]
Objective = Callable[[Tensor], Tensor]


def _claim(name: str, prediction: str, effect: str) -> Claim:
    return Claim(name, prediction, effect, ALMOST_ALL, "share of instances", counts=False)


CLAIMS = (
    _claim("forward-gradient", "∇KL(q‖p) = p − q in the logits", "equals autograd"),
    _claim("reverse-gradient", "∇KL(p‖q) = p·(log p/q − KL(p‖q)) in the logits", "equals autograd"),
    _claim("one-step", "Δ(x1,x2) of one step of size 0.1 is −0.1·(∇_x1 − ∇_x2), no higher order", "equals a real step"),
    _claim("lemma-6.1", "E_π[r] − β KL(π‖π_ref) = β log Z − β KL(π‖π*)", "both sides are equal"),
    _claim("lemma-6.1-gradient", "KL-regularised reward ascends β × reverse KL to π*", "equals autograd"),
    _claim("lemma-6.2-margin", "eq. 6.2, for every pair: the push-down term widens the margin", "wider after a step"),
    _claim("lemma-6.2-loser", "eq. 6.4: the push-down term lowers log π(y_l)", "lower after a real step"),
    _claim("lemma-6.2-winner", "eq. 6.3: where g_w·g_l ≤ 0 it raises log π(y_w)", "higher after a real step"),
    _claim("winner-unconditional", "it always raises log π(y_w); the lemma does not say so", "higher after a step"),
    _claim("winner-exact", "it raises log π(y_w) exactly where p_w + p_l ≥ |p|²", "condition and real step agree"),
    _claim("theorem-6.5-1", "(1) as stated: p(x1) = p(x2), q(x1) > q(x2) give Δ^reverse > Δ^forward", "it is so"),
    _claim("theorem-6.5-1-exact", "(1) holds exactly where p(x1) > log-mean(q(x1), q(x2))", "condition and step agree"),
    _claim("theorem-6.5-2", "(2): p(x1) > p(x2), q(x1) = q(x2) > p(x1) give Δ^reverse > Δ^forward", "it is so"),
    _claim("theorem-6.5-3", "(3) with any c1 < 1: q(x1) = q(x2) < p(x2) give Δ^reverse < Δ^forward", "it is so"),
    _claim("theorem-6.5-3-enough", "(3) holds where q < p(x2)·exp(−KL(p‖q))", "it is so"),
    _claim("theorem-6.5-23-exact", "(2), (3): Δ^reverse > Δ^forward exactly where q > identric mean of p(x1), p(x2)"
           " × exp(−KL(p‖q))", "condition and step agree"),
)  # fmt: skip


def forward(logits: Tensor, q: Tensor) -> Tensor:
    """KL(q‖p), in its textbook form."""
    return (q * (q / logits.softmax(-1)).log()).sum()


def reverse(logits: Tensor, q: Tensor) -> Tensor:
    """KL(p‖q), in its textbook form."""
    p = logits.softmax(-1)
    return (p * (p / q).log()).sum()


def slope(objective: Objective, logits: Tensor) -> Tensor:
    """The gradient by autograd."""
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(objective(leaf), leaf)[0]


def drawn(rng: np.random.Generator, n: int, categories: int, concentration: float) -> Tensor:
    """Distributions [n, V] from a symmetric Dirichlet, float64."""
    return torch.from_numpy(rng.dirichlet(np.full(categories, concentration), size=n))


def moved(p: Tensor, gradient: Tensor, step: float) -> Tensor:
    """log p' − log p after a real step of descent."""
    return (p.log() - step * gradient).log_softmax(-1) - p.log()


def same(a: Tensor, b: Tensor) -> Array:
    """Per row: equal within TOLERANCE."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return ((a - b).abs().amax(-1) <= TOLERANCE * (1 + b.abs().amax(-1))).double().numpy()


def gradients(rng: np.random.Generator, n: int, v: int, concentration: float) -> Measured:
    p, q = drawn(rng, n, v, concentration), drawn(rng, n, v, concentration)
    auto = [slope(lambda z, kl=kl: kl(z, q), p.log()) for kl in (forward, reverse)]  # type: ignore[misc]
    closed = [f(p.log(), q.log()) for f in (theory.forward_gradient, theory.reverse_gradient)]
    first, second = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.long)
    gone = [moved(p, g, STEP) for g in auto]
    one = [
        same(d[:, 0] - d[:, 1], theory.relative_change(g, first, second, STEP))
        for d, g in zip(gone, closed, strict=True)
    ]
    return {
        "forward-gradient": same(auto[0], closed[0]),
        "reverse-gradient": same(auto[1], closed[1]),
        "one-step": one[0] * one[1],
    }


def regularised(rng: np.random.Generator, n: int, v: int, concentration: float) -> Measured:
    pi, ref = drawn(rng, n, v, concentration), drawn(rng, n, v, concentration)
    reward = torch.from_numpy(rng.normal(size=(n, v)))
    beta = torch.from_numpy(np.exp(rng.uniform(np.log(0.05), np.log(5.0), size=n)))

    def objective(z: Tensor) -> Tensor:
        p = z.softmax(-1)
        return ((p * reward).sum(-1) - beta * (p * (p / ref).log()).sum(-1)).sum()

    parts = (pi.log(), ref.log(), reward, beta)
    star, _ = theory.optimum(ref.log(), reward, beta)
    ascent = -beta[:, None] * theory.reverse_gradient(pi.log(), star)
    return {
        "lemma-6.1": same(theory.regularised_reward(*parts), theory.reverse_kl_form(*parts)),
        "lemma-6.1-gradient": same(slope(objective, pi.log()), ascent),
    }


def pushed(rng: np.random.Generator, n: int, v: int, concentration: float) -> Measured:
    """y_w is category 0 and y_l category 1; compares a step with the push-down term to the same step without it."""
    p = drawn(rng, n, v, concentration)
    c1, c2 = torch.from_numpy(rng.uniform(size=(2, n)))

    def objective(z: Tensor, c2: Tensor) -> Tensor:
        logp = z.log_softmax(-1)
        return (c2 * logp[:, 1] - c1 * logp[:, 0]).sum()

    off, on = (moved(p, slope(lambda z, c=c: objective(z, c), p.log()), SMALL_STEP) for c in (0 * c2, c2))  # type: ignore[misc]
    gain = (on - off).numpy()
    lifted = theory.push_down_lifts_winner(p.log(), torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.long))
    tie, holds = np.abs(gain[:, 0]) <= TIE, lifted.numpy()
    up = (gain[:, 0] > 0).astype(float)
    return {
        "lemma-6.2-margin": (gain[:, 0] - gain[:, 1] > 0).astype(float),
        "lemma-6.2-loser": (gain[:, 1] < 0).astype(float)[np.abs(gain[:, 1]) > TIE],
        "lemma-6.2-winner": up[holds & ~tie],
        "winner-unconditional": up[~tie],
        "winner-exact": (up == holds).astype(float)[~tie],
        "ties of y_w in Lemma 6.2": tie.astype(float),
        "ties of y_l in Lemma 6.2": (np.abs(gain[:, 1]) <= TIE).astype(float),
    }


def reverse_lead(p: Tensor, q: Tensor) -> Array:
    """Δ^reverse − Δ^forward of categories 0 and 1 after real steps along autograd's gradients."""
    ahead = [moved(p, slope(lambda z, kl=kl: kl(z, q), p.log()), STEP) for kl in (reverse, forward)]  # type: ignore[misc]
    rev, fwd = (d[:, 0] - d[:, 1] for d in ahead)
    return (rev - fwd).numpy()


def levelled(x: Tensor) -> Tensor:
    """Categories 0 and 1 share their total mass equally."""
    return torch.cat([x[:, :2].mean(-1, keepdim=True).expand(-1, 2), x[:, 2:]], -1)


def ordered(x: Tensor) -> Tensor:
    """Category 0 is at least as likely as category 1."""
    return torch.cat([x[:, :2].sort(-1, descending=True).values, x[:, 2:]], -1)


def first_part(rng: np.random.Generator, n: int, v: int, concentration: float) -> Measured:
    p, q = levelled(drawn(rng, n, v, concentration)), ordered(drawn(rng, n, v, concentration))
    lead = reverse_lead(p, q)
    tie, more = np.abs(lead) <= TIE, (lead > 0).astype(float)
    predicted = theory.reverse_moves_more(p[:, 0], q[:, 0], q[:, 1]).numpy()
    means = {
        "logarithmic": theory.log_mean(q[:, 0], q[:, 1]),
        "arithmetic": q[:, :2].mean(-1),
        "geometric": q[:, :2].log().mean(-1).exp(),
    }
    return {
        "theorem-6.5-1": more[~tie],
        "theorem-6.5-1-exact": (more == predicted).astype(float)[~tie],
        "(1) where p(x1) ≥ (q(x1) + q(x2))/2": more[~tie & (p[:, 0] >= means["arithmetic"]).numpy()],
        "(1) where p(x1) < √(q(x1) q(x2))": more[~tie & (p[:, 0] < means["geometric"]).numpy()],
        "ties in Theorem 6.5 (1)": tie.astype(float),
        "p": p[~tie, 0].numpy(),
    } | {mean: x[~tie].numpy() for mean, x in means.items()}


def equal_targets(
    rng: np.random.Generator, n: int, v: int, concentration: float, keep: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """n pairs (p, q) with p(0) > p(1) and q(0) = q(1) that `keep` accepts."""
    pairs: list[tuple[Tensor, Tensor]] = []
    while sum(len(p) for p, _ in pairs) < n:
        p, q = ordered(drawn(rng, 4 * n, v, concentration)), levelled(drawn(rng, 4 * n, v, concentration))
        accepted = keep(p, q) & (p[:, 0] > p[:, 1])
        pairs.append((p[accepted], q[accepted]))
    return torch.cat([p for p, _ in pairs])[:n], torch.cat([q for _, q in pairs])[:n]


def other_parts(rng: np.random.Generator, n: int, v: int, concentration: float) -> Measured:
    subsets: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
        "all": lambda p, q: torch.ones(len(p), dtype=torch.bool),
        "above": lambda p, q: q[:, 0] > p[:, 0],
        "below": lambda p, q: q[:, 0] < p[:, 1],
        "enough": lambda p, q: q[:, 0] < p[:, 1] * torch.exp(-exact(p.log(), q.log())),
    }
    pairs = {name: equal_targets(rng, n, v, concentration, keep) for name, keep in subsets.items()}
    lead = {name: reverse_lead(p, q) for name, (p, q) in pairs.items()}
    clear = {name: np.abs(x) > TIE for name, x in lead.items()}
    p, q = pairs["all"]
    predicted = theory.reverse_favours_likelier(p[:, 0], p[:, 1], q[:, 0], exact(p.log(), q.log())).numpy()
    less, ratio = lead["below"] < 0, (pairs["below"][1][:, 0] / pairs["below"][0][:, 1]).numpy()
    return {
        "theorem-6.5-2": (lead["above"] > 0).astype(float)[clear["above"]],
        "theorem-6.5-3": less.astype(float)[clear["below"]],
        "theorem-6.5-3-enough": (lead["enough"] < 0).astype(float)[clear["enough"]],
        "theorem-6.5-23-exact": ((lead["all"] > 0) == predicted).astype(float)[clear["all"]],
        **{f"(3) where q < {c} · p(x2)": less.astype(float)[clear["below"] & (ratio < c)] for c in (0.5, 0.1, 0.01)},
        "ties in Theorem 6.5 (2), (3)": np.concatenate([~c for c in clear.values()]).astype(float),
    }


CHECKS = (gradients, regularised, pushed, first_part, other_parts)


def measure(size: str) -> dict[tuple[int, float], Measured]:
    """Every check on PER_CELL instances of every number of categories and concentration."""
    cells: dict[tuple[int, float], Measured] = {}
    for v in CATEGORIES:
        for concentration in CONCENTRATIONS:
            rng = np.random.default_rng([v, round(10 * concentration)])
            cells[v, concentration] = {
                k: x for check in CHECKS for k, x in check(rng, PER_CELL[size], v, concentration).items()
            }
    return cells


def shares(findings: Sequence[Finding], whole: Measured) -> Table:
    made = {f.claim.name: f.decision for f in findings}
    rows = [(name, str(d.interval), d.n, "yes" if d.verdict == "supported" else "no") for name, d in made.items()]
    further = [(k, x) for k, x in whole.items() if k.startswith(("(1)", "(3)"))]
    return Table(
        "Share of random instances on which each statement holds",
        ("statement", "share [95 % interval]", "instances", "holds"),
        [*rows, *((k, f"{x.mean():.3f}" if len(x) else "–", len(x), "not judged") for k, x in further)],
    )


def by_cell(cells: Mapping[tuple[int, float], Measured]) -> Table:
    names = ("winner-unconditional", "theorem-6.5-1", "theorem-6.5-3")
    return Table(
        "The same by number of categories and Dirichlet concentration",
        ("categories", "concentration", *names),
        [(v, a, *(f"{cell[name].mean():.3f}" for name in names)) for (v, a), cell in cells.items()],
    )


def boundary(whole: Measured) -> tuple[Chart, Chart]:
    """The plane of p and log-mean, and how well each mean of q separates the two cases."""
    some = np.random.default_rng(0).permutation(len(whole["p"]))[:800]
    x, y, more = whole["logarithmic"][some], whole["p"][some], whole["theorem-6.5-1"][some] > 0
    edge = np.linspace(0.0, 0.5, 2)
    plane = Chart(
        "Theorem 6.5 (1): who moves more mass?",
        "log-mean of q(x1), q(x2)",
        "p(x1) = p(x2)",
        [
            Line("reverse", x[more].tolist(), y[more]),
            Line("forward", x[~more].tolist(), y[~more]),
            Line("p = log-mean", edge.tolist(), edge, dashed=True),
        ],
        kind="points",
        range=SHARE,
    )
    edges = np.geomspace(0.25, 4.0, 25)
    lines = [_profile(name, whole["p"] / whole[name], whole["theorem-6.5-1"], edges) for name in MEANS]
    return plane, Chart(
        "Only the logarithmic mean is the boundary",
        "p(x1) / mean of q(x1), q(x2)",
        "share of instances: reverse moves more",
        lines,
        log_x=True,
        range=SHARE,
    )


MEANS = ("logarithmic", "arithmetic", "geometric")


def _profile(label: str, ratio: Array, more: Array, edges: Array) -> Line:
    """The share in each non-empty bin."""
    place = np.digitize(ratio, edges)
    bins = [b for b in range(1, len(edges)) if (place == b).any()]
    return Line(label, [float(np.sqrt(edges[b - 1] * edges[b])) for b in bins], [more[place == b].mean() for b in bins])


def run(bench: Any) -> Outcome:  # uses only the size of a Bench
    cells = measure(bench.size)
    whole = {k: np.concatenate([cell[k] for cell in cells.values()]) for k in next(iter(cells.values()))}
    findings = judged(CLAIMS, whole)
    ties = [f"{k}: {int(x.sum())} of {len(x)}" for k, x in whole.items() if k.startswith("ties")]
    return Outcome(
        findings,
        figures={"theory-log-mean": boundary(whole)},
        tables=(shares(findings, whole), by_cell(cells)),
        caveats=(
            f"Instances whose two steps differ by at most {TIE} in log-probability are left out; {'; '.join(ties)}.",
            "The shares of statements that are not general depend on how instances are drawn; being below 1 does not.",
            "Theorem 6.5's constants δ, β, c0, c1 are taken at their limits (0, 0, 1, 1); the wording of the theorem is"
            " quoted from second hand.",
        ),
    )


STUDY = Study(
    name="theory",
    question="Do the lemmas of the paper's theory hold as stated, and under which exact conditions?",
    source="Tajwar et al. 2024, §6: Lemmas 6.1 and 6.2, Theorem 6.5",
    finding="KL-regularised RL is mode-seeking; a negative gradient widens the margin; reverse KL commits faster.",
    design={
        "problem": "random policies and targets over 3 to 20 categories, drawn from Dirichlets of concentration 0.3 to"
        " 3; softmax with independent logits",
        "compared": "gradients from autograd on the divergences as a textbook writes them; a statement about a step is"
        " checked on a real one, of size 1e-4 for Lemma 6.2, which is first-order, and 0.1 for Theorem 6.5",
        "objective": "the share of instances on which a statement holds; one that is meant to be general needs 0.999",
    },
    claims=CLAIMS,
    run=run,
)
