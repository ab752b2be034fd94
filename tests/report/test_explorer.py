"""The explorer: its rules are Prefloop's own to 1e-6, and the page is self-contained and shows the numbers it has."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import explorer_rules
import pytest
import torch
from test_report import Reader
from torch import Tensor

from javascript import evaluate, loaded
from prefloop.analysis import theory
from prefloop.cli import explore
from prefloop.cli.main import execute
from prefloop.core.batch import Batch
from prefloop.core.errors import UserError
from prefloop.core.kl import exact
from prefloop.core.loop import Loop, Plan
from prefloop.core.objectives import MAX_LOG_RATIO
from prefloop.core.streams import Stream
from prefloop.policies.categorical import Categorical
from prefloop.report import explorer
from prefloop.report.explorer import METHODS, PARTS, PRESETS, RULES, problem, render, script, write
from prefloop.worlds.arms.problem import Law, bump, reference_law, replaced
from toys import F64, unchecked

STEPS = 50
SMALL = {"reference": (0.3, 0.1, 0.25, 0.3, 0.05), "coverage": 0.6, "centre": 1.0, "data_width": 1.5}
REWARD = (0.1, 0.9, 0.4, 0.4, 1.0)  # with a tie
SWITCHES = (  # on-policy share, passes, share of the negative gradient
    (0.0, 1, 1.0),
    (1.0, 1, 1.0),
    (1.0, 1, 0.0),
    (1.0, 4, 1.0),
    (0.5, 3, 0.4),
)
AGAIN = (0.0, 4, 1.0)  # several passes over data that stay the same
CASES = [*product(METHODS, (*SWITCHES, AGAIN))]
BETA, RATE, WILD = 0.2, 0.7, 400.0
WITHOUT_PAGE = [part for part in PARTS if part not in ("stage", "controls", "figures", "main")]
SETUP = f"""
const reference = Float64Array.from({[*SMALL["reference"]]});
const problem = {{ reference, logRef: reference.map(Math.log), reward: Float64Array.from({[*REWARD]}),
  centre: 4, width: 1, beta: {BETA}, rate: {RATE},
  data: dataLaw(reference, {SMALL["coverage"]}, {SMALL["centre"]}, {SMALL["data_width"]}) }};
const run = ([method, [on_policy, reuse, negative]]) => ({{ method, on_policy, reuse, negative }});
"""


@cache
def in_javascript() -> dict[str, Any]:
    """What the page's code computes for the small problem: one call for all tests."""
    code = script(RULES) + SETUP + f"const cases = {json.dumps(CASES)}; const rates = {{}};"
    code += f"for (const m of {json.dumps([*METHODS])}) rates[m] = problem.rate * scale(m, problem.beta);"
    code += f"const paths = cases.map((c) => train(run(c), problem, {STEPS}));"
    code += "const list = (x) => Array.from(x);"
    return evaluate(  # type: ignore[no-any-return]
        code,
        f"{{ wild: train(run(['rloo', {[*AGAIN]}]), {{ ...problem, rate: {WILD} }}, 8).map(list),"
        " rates, data: list(problem.data), paths: paths.map((path) => path.map(list)),"
        " seen: measures(paths[0], problem), inert: cases.map((c) => inert(run(c))),"
        " optimum: list(optimum(problem.logRef, problem.reward, 0.2)),"
        " stretch: stretch(problem.reference, problem.reward, 0.5) }",
    )


def small() -> tuple[Tensor, Tensor, Tensor]:
    """Reference, data and reward of the small problem."""
    reference = torch.tensor(SMALL["reference"], dtype=F64)
    weight = bump(SMALL["centre"], SMALL["data_width"], len(reference))
    data = SMALL["coverage"] * reference + (1 - SMALL["coverage"]) * weight / weight.sum()
    return reference, data, torch.tensor(REWARD, dtype=F64)


@pytest.mark.parametrize(("name", "switches"), [*product(METHODS, SWITCHES)])
def test_every_rule_with_every_switch_is_that_of_the_core(name: str, switches: tuple[float, int, float]) -> None:
    found = in_javascript()
    on_policy, reuse, negative = switches
    method = explorer_rules.method_of(name, BETA, on_policy=on_policy, reuse=reuse, negative=negative)
    reference, data, reward = small()
    with unchecked():
        path = explorer_rules.train(method, reference, data, reward, found["rates"][name], STEPS)
    theirs = torch.tensor(found["paths"][CASES.index((name, switches))], dtype=F64)
    assert theirs.shape == path.shape and (path[-1] - path[0]).abs().max() > 0.05
    torch.testing.assert_close(theirs, path, rtol=0, atol=1e-6)


def test_a_ratio_beyond_its_limit_neither_pulls_nor_pushes() -> None:
    """Steps so large that π/π_old leaves e^±20, where the core's clamp has no gradient."""
    method = explorer_rules.method_of("rloo", BETA, on_policy=0.0, reuse=4, negative=1.0)
    with unchecked():
        path = explorer_rules.train(method, *small(), WILD, 8)
    assert (path - path[0]).abs().max() > MAX_LOG_RATIO
    torch.testing.assert_close(torch.tensor(in_javascript()["wild"], dtype=F64), path, rtol=1e-6, atol=1e-6)


def test_switches_without_effect_are_those_that_change_no_step() -> None:
    found = in_javascript()
    path = {case: torch.tensor(path) for case, path in zip(CASES, found["paths"], strict=True)}
    still = dict(zip(CASES, found["inert"], strict=True))
    for name in METHODS:
        full, cut = (name, (1.0, 1, 1.0)), (name, (1.0, 1, 0.0))
        assert still[full]["negative"] is torch.equal(path[full], path[cut]), name
        once, again = (name, (0.0, 1, 1.0)), (name, AGAIN)
        if name != "rloo":  # whose ratio corrects exactly for the age of the samples, up to rounding
            assert still[once]["reuse"] is torch.equal(path[once], path[again]), name


@pytest.mark.parametrize(
    ("name", "switches"), [("dpo", (1.0, 1, 1.0)), ("ppo", (0.5, 3, 0.4)), ("best_of_n", (1.0, 1, 1.0))]
)
def test_the_loop_with_many_samples_goes_where_the_expected_steps_go(
    name: str, switches: tuple[float, int, float]
) -> None:
    """`Loop` itself, with its own samples, collections and minibatches, instead of expectations."""
    groups, steps = 2000, 9
    on_policy, reuse, negative = switches
    method = explorer_rules.method_of(name, BETA, on_policy=on_policy, reuse=reuse, negative=negative)
    found = in_javascript()
    reference, data, reward = small()
    policy, size = Categorical(reference.log().view(1, 1, -1)), groups * method.responses
    plan = Plan(steps=steps, batch=size, minibatch=size, lr=found["rates"][name], max_grad_norm=1e9)
    optimizer = torch.optim.SGD([policy.logits], lr=found["rates"][name])
    with unchecked():
        for _ in Loop(method, policy, Pool(data, reward), plan, reference=policy.reference(), optimizer=optimizer):
            pass
    expected = torch.tensor(found["paths"][CASES.index((name, switches))][steps], dtype=F64)
    moved = (expected - reference.log()).abs().max()
    sampled = policy.distribution(torch.tensor([0]))[0].detach()
    assert (sampled - expected).abs().max() < 0.1 * moved  # of order 1/√groups


class Pool:
    """A problem whose data are drawn from a law."""

    def __init__(self, data: Tensor, reward: Tensor) -> None:
        self.data, self.reward = data, reward

    def prompts(self, start: int, count: int, rng: Stream) -> Tensor:
        return torch.zeros(count, dtype=torch.long)

    def dataset(self, start: int, count: int, responses: int, rng: Stream) -> Batch:
        edges = self.data.cumsum(0)[:-1]
        drawn = torch.bucketize(rng.rand(count, responses, 1, dtype=F64), edges)
        return self.score(Batch(self.prompts(start, count, rng), drawn, torch.ones_like(drawn, dtype=torch.bool)))

    def score(self, batch: Batch) -> Batch:
        return replace(batch, scores=self.reward[batch.responses[..., 0]])


def test_the_law_of_the_data_is_that_of_the_world() -> None:
    reference, data, _ = small()
    assert in_javascript()["data"] == pytest.approx(data.tolist(), abs=1e-12)
    n = 200_000
    own = torch.multinomial(reference, n, replacement=True, generator=torch.Generator().manual_seed(0)).view(1, n, 1, 1)
    batch = Batch(torch.zeros(1, n, dtype=torch.long), own, torch.ones_like(own, dtype=torch.bool))
    law = Law(torch.tensor([SMALL["coverage"]]), torch.tensor([1.0]), torch.tensor([1.5]))
    drawn = replaced(batch, law.coverage, bump(law.centre, law.width, len(reference)), Stream("data", [0], True))
    seen = torch.bincount(drawn.responses.flatten(), minlength=len(data)) / n
    error = (data * (1 - data) / n).sqrt()
    assert ((seen - data).abs() < 4 * error).all()


def test_measures_and_optimum_are_exact() -> None:
    found = in_javascript()
    reference, data, reward = small()
    path = torch.tensor(found["paths"][0], dtype=F64)
    assert found["seen"]["gold"] == pytest.approx((path.exp() @ reward).tolist())
    assert found["seen"]["kl"] == pytest.approx(exact(path, reference.log().expand_as(path)).tolist(), abs=1e-12)
    assert found["seen"]["peak"] == pytest.approx(path.exp()[:, 3:].sum(-1).tolist())
    better = (reward[:, None] > reward) * data[:, None] * data
    for name, law in {"chosen": better.sum(1), "rejected": better.sum(0)}.items():
        assert found["seen"][name] == pytest.approx((path @ (law / law.sum())).tolist())
    star, _ = theory.optimum(reference.log(), reward, 0.2)
    assert found["optimum"] == pytest.approx(star.tolist())
    assert found["stretch"] == pytest.approx({"first": 2, "last": 3, "mass": 0.55, "gold": 0.4})


# ---- the page -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("explorer") / "explore.html", reference_law().tolist(), 5.0)


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """The default state in a browser: its document and its console."""
    return loaded(page, tmp_path_factory.mktemp("browser"))


def test_page_loads_nothing_from_outside(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 200_000
    reader = Reader(text)
    for tag, attrs in reader.tags:
        assert not {"src", "srcset", "action", "background"} & attrs.keys(), tag
        assert not any(name.startswith("on") for name in attrs)
        assert tag == "a" or "href" not in attrs
    assert not {"link", "img", "iframe", "object", "embed", "base"} & {tag for tag, _ in reader.tags}
    outside = set(re.findall(r"https?://[^\"'\s<)]+", text))
    assert outside == {
        "https://arxiv.org/abs/2404.14367",
        "http://www.w3.org/2000/svg",
    }  # a link; a name, not an address
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(|eval\(", text)
    (policy,) = [a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and re.fullmatch(
        r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]{44}'", policy
    )


def test_same_law_same_bytes() -> None:
    constants = problem(reference_law().tolist(), 5.0)
    assert render(constants) == render(constants)
    assert json.loads(json.dumps(constants))["presets"][0]["state"]["peak"] == 70


def read(text: str, name: str) -> Any:
    (found,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text, flags=re.DOTALL)
    return json.loads(found)


def tables(text: str) -> list[list[list[str]]]:
    """The rows of every table of numbers, the head first."""
    found = re.findall(r'<table class="numbers"[^>]*>(.*?)</table>', text, flags=re.DOTALL)
    return [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)]
        for table in found
    ]


def close(cell: str, value: float) -> bool:
    """Whether a cell shows the value, as a number or as a percentage."""
    plain = cell.replace("−", "-")
    number, step = (plain.removesuffix(" %"), 0.01) if cell.endswith(" %") else (plain, 1.0)
    places = len(number.partition(".")[2])
    return abs(float(number) * step - value) <= 0.501 * step * 10**-places


def test_page_runs_without_a_message_and_shows_its_numbers(opened: tuple[str, list[str]]) -> None:
    text, console = opened
    assert console == []
    record = read(text, "numbers")
    runs, steps = record["runs"], len(record["runs"][0]["gold"]) - 1
    assert [run["letter"] for run in runs] == ["A", "B", "C", "D"] and steps == record["state"]["step"] == 200
    mass, gold, tradeoff, kl, peak, chosen, rejected = tables(text)
    shown = {"gold": gold, "kl": kl, "peak": peak, "chosen": chosen, "rejected": rejected}
    for name, (head, *rows) in shown.items():
        assert head == ["step", *(f"{run['letter']} {run['name']}" for run in runs)]
        assert [int(row[0]) for row in rows] == [*range(0, 201, 20)]
        for at, *cells in rows:
            assert all(close(cell, run[name][int(at)]) for cell, run in zip(cells, runs, strict=True)), (name, at)
    for at, *cells in tradeoff[1:]:
        pairs = [value for run in runs for value in (run["kl"][int(at)], run["gold"][int(at)])]
        assert all(map(close, cells, pairs))
    law = reference_law()
    for i, row in enumerate(mass[1:]):
        assert row[0] == f"{10 * i}–{10 * i + 9}" and close(row[1], float(law[10 * i : 10 * i + 10].sum()))
        assert close(row[2], sum(record["data"][10 * i : 10 * i + 10]))
    said = re.findall(r"<p>(.*?)</p>", text[text.index('id="said"') :].partition("</section>")[0])
    assert [said[0].startswith("At step 200 the highest gold is 1.000"), len(said)] == [True, 5]
    for run, sentence in zip(runs, said[1:], strict=True):
        assert (
            f"{run['gold'][0]:.3f} to {run['gold'][200]:.3f}" in sentence and f"KL of {run['kl'][200]:.2f}" in sentence
        )


def test_the_page_computes_from_the_law_and_the_state_that_it_shows(opened: tuple[str, list[str]]) -> None:
    record, constants = read(opened[0], "numbers"), json.dumps(problem(reference_law().tolist(), 5.0))
    code = script(WITHOUT_PAGE) + f"const c = {constants}; const state = {json.dumps(record['state'])};"
    code += "const p = problemOf(state, c); const runs = outcomes(state, p, c);"
    found = evaluate(code, "{ reward: Array.from(p.reward), data: Array.from(p.data), seen: runs.map((x) => x.seen) }")
    state = record["state"]
    assert found["reward"] == pytest.approx(bump(float(state["peak"]), float(state["width"])).tolist(), abs=1e-12)
    for key in ("reward", "data"):  # two engines round e^x differently
        assert record[key] == pytest.approx(found[key], rel=1e-12)
    for run, seen in zip(record["runs"], found["seen"], strict=True):
        for name, values in seen.items():
            assert run[name] == (pytest.approx(values, rel=1e-9) if isinstance(values, list | float) else values)


def test_the_address_holds_the_state_and_says_what_it_cannot_read(page: Path, tmp_path: Path) -> None:
    address = "#peak=20&rate=0&step=40&unknown=1&runs=ipo,0.5,2,0.3;rwr,1,1,1"
    text, console = loaded(page, tmp_path, address, size=(390, 844))
    record = read(text, "numbers")
    assert console == [] and (record["state"]["peak"], record["state"]["rate"], record["state"]["step"]) == (20, 3, 40)
    assert [(run["method"], run["on_policy"]) for run in record["runs"]] == [("ipo", 0.5), ("rwr", 1)]
    assert "left at the default: rate, unknown." in text


def test_every_preset_survives_the_address() -> None:
    constants = json.dumps(problem([0.5, 0.5], 5.0))
    code = script(WITHOUT_PAGE) + f"const c = {constants};"
    back = "c.presets.map((p) => fromHash(toHash(p.state), c.presets[1].state, c.methods, c.steps))"
    found = evaluate(code, back)
    assert [one["refused"] for one in found] == [[]] * len(PRESETS)
    assert [one["state"] for one in found] == [one["state"] for one in json.loads(constants)["presets"]]


DRIVE = """
(async () => {
  const by = (id) => document.getElementById(id);
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const seen = {};
  const note = async (name, act) => {
    by('numbers').textContent = 'null';
    act();
    while (by('numbers').textContent === 'null') await wait(100);
    const { state } = JSON.parse(by('numbers').textContent);
    seen[name] = { ...state, runs: state.runs.map((run) => run.method), address: location.hash };
  };
  const press = (name, key, shiftKey = false) =>
    document.querySelector(`.knob.${name}`).dispatchEvent(new KeyboardEvent('keydown', { key, shiftKey }));
  const drag = (name, arm, share) => {
    const grip = document.querySelector(`.knob.${name}`);
    const box = document.querySelector('#stage svg').getBoundingClientRect();
    const { p } = stagePlane(box.width, 100);
    const place = { clientX: box.left + p.x(arm), clientY: box.top + p.bottom - share * (p.bottom - p.top) };
    const at = { pointerId: 1, bubbles: true, ...place };
    for (const type of ['pointerdown', 'pointermove', 'pointerup']) grip.dispatchEvent(new PointerEvent(type, at));
  };
  const set = (element, value, type) => {
    element.value = value;
    element.dispatchEvent(new Event(type));
  };
  await note('start', () => {});
  await note('key', () => press('peak', 'ArrowLeft', true));
  await note('up', () => press('other', 'ArrowUp', true));
  await note('drag', () => drag('other', 60, 0.75));
  await note('beta', () => set(by('slider-beta'), -10, 'input'));
  await note('remove', () => document.querySelectorAll('.drop')[1].click());
  await note('add', () => by('add').click());
  await note('method', () => set(document.querySelector('#runs select'), 'rwr', 'change'));
  await note('step', () => set(by('step'), 190, 'input'));
  await note('play', () => by('play').click());
  await note('preset', () => document.querySelectorAll('.preset')[2].click());
  seen.pressed = [...document.querySelectorAll('.preset')].map((button) => button.getAttribute('aria-pressed'));
  await note('reset', () => by('reset').click());
  document.body.append(make('script', { type: 'application/json', id: 'driven', textContent: JSON.stringify(seen) }));
})();
"""


def test_knobs_sliders_cards_and_player_change_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "script", lambda parts: script(parts) + DRIVE)
    driven = write(tmp_path / "driven.html", reference_law().tolist(), 5.0)
    text, console = loaded(driven, tmp_path, milliseconds=2_000_000)
    assert console == []
    seen = read(text, "driven")
    assert (seen["start"]["peak"], seen["key"]["peak"]) == (70, 60)
    assert seen["up"]["coverage"] == 0.5
    assert (seen["drag"]["centre"], seen["drag"]["coverage"]) == (60, 0.25)
    assert seen["beta"]["beta"] == 0.32
    assert seen["remove"]["runs"] == ["dpo", "rloo", "pref_ft"]
    assert seen["add"]["runs"] == ["dpo", "rloo", "pref_ft", "ipo"]
    assert seen["method"]["runs"][0] == "rwr" and "runs=rwr,1,1,1;" in seen["method"]["address"]
    assert (seen["step"]["step"], seen["play"]["step"]) == (190, 200)
    assert (
        seen["pressed"] == ["false", "false", "true", "false", "false", "false"] and seen["preset"]["coverage"] == 0.2
    )
    assert {**seen["reset"], "address": ""} == {**seen["start"], "address": ""}


# ---- the verb -------------------------------------------------------------------------------------------------------


def test_the_verb_writes_the_page_and_opens_it_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) is None)
    monkeypatch.setattr(explore, "has_display", lambda: True)
    monkeypatch.chdir(tmp_path)
    assert execute(["explore"]) == 0 and capsys.readouterr().out == "explore.html\n"
    assert opened == [(tmp_path / "explore.html").as_uri()]
    assert execute(["explore", "--output", "a.html", "--no-open", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"page": "a.html", "opened": False} and len(opened) == 1
    monkeypatch.setattr(explore, "has_display", lambda: False)
    assert execute(["explore"]) == 0 and "open the file" in capsys.readouterr().out and len(opened) == 1


def test_a_page_cannot_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder") as error:
        execute(["explore", "--output", str(tmp_path)])
    assert "--output" in str(error.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        execute(["explore", "--output", str(tmp_path / "file" / "a.html")])
