"""Gold rewards: hand values, ragged groups, and every way in which a user's function can be wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from prefloop.core import ranges
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.rewards import rules, scorers

MODULE = """
import torch
def words(prompt: str, response: str) -> float:
    from neighbour import FACTOR
    return FACTOR * len(response.split()) + len(prompt)
def together(prompts, responses):
    return [len(p) - len(r) for p, r in zip(prompts, responses)]
def truth(prompt, response): return response == "b c"
def scalar(prompt, response): return torch.tensor(2.0)
def angry(prompt, response): raise KeyError("no such word")
def angry_batch(prompts, responses): return prompts[99]
def nan(prompt, response): return float("nan")
def text(prompt, response): return "good"
def too_few(prompts, responses): return [1.0]
def one(prompt): return 0.0
def weighted(prompt, response, *, weight=1.0): return weight * len(response)
def together_weighted(prompts, responses, *, weight): return [weight * len(r) for r in responses]
_hidden = 3
"""


def batch(lengths: list[list[int]], valid: list[list[bool]] | None = None) -> Batch:
    mask = torch.arange(40) < torch.tensor(lengths)[..., None]
    prompts = [torch.tensor([1])] * len(lengths)
    return Batch(prompts, mask.long(), mask, valid=None if valid is None else torch.tensor(valid))


TWO = batch([[3, 5], [1, 2]], [[True, True], [True, False]])


SENTENCES = [["Soup needs salt.", "Soup needs salt"], ["Bread rises slowly.", "Bread rises slowly."]]
ASKED = ["Why salt soup?", "How?"]


def decode(_: Batch) -> list[list[str]]:
    return [["a", "b c"], ["", "never asked for"]]


def decode_prompts(_: Batch) -> list[str]:
    return ["why", "how so"]


def build(name: str, **options: object) -> scorers.Scorer:
    return scorers.build(name, options, decode=decode, decode_prompts=decode_prompts)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "my_rewards.py").write_text(MODULE)
    (tmp_path / "neighbour.py").write_text("FACTOR = 10\n")
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_rewards", "neighbour", "broken"):
        sys.modules.pop(name, None)


def test_length_min() -> None:
    torch.testing.assert_close(build("length_min")(TWO), torch.tensor([[-0.3, -0.5], [-0.1, 0.0]]))
    torch.testing.assert_close(build("length_min", scale=2)(batch([[4, 1]])), torch.tensor([[-2.0, -0.5]]))


def test_length_mode_peaks_at_its_target() -> None:
    scores = build("length_mode", target=12, scale=4)(batch([[10, 12, 13, 20]]))
    torch.testing.assert_close(scores, torch.tensor([[-0.5, 0.0, -0.25, -2.0]]))


def test_sentiment_orders_words_and_skips_empty_places() -> None:
    pytest.importorskip("vaderSentiment")
    texts = [["What a wonderful, lovely day!", "This is awful and I hate it."], ["", "great"]]
    scores = scorers.build("sentiment", {}, decode=lambda _: texts, decode_prompts=decode_prompts)(TWO)
    assert 0.5 < scores[0, 0] <= 1 and -1 <= scores[0, 1] < -0.5
    assert scores[1].tolist() == [0.0, 0.0]


def test_one_sentence_reads_prompts_and_skips_empty_places() -> None:
    scores = scorers.build("one_sentence", {"words": 3}, decode=lambda _: SENTENCES, decode_prompts=lambda _: ASKED)(
        TWO
    )
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("name", rules.RULES)
def test_no_reward_of_the_table_exceeds_its_ceiling(name: str) -> None:
    if name == "sentiment":
        pytest.importorskip("vaderSentiment")
    texts = [["The best day of all days. The best!", "a a a"], ["", "skipped"]]
    options = {"target": 3} if name == "length_mode" else {}
    scores = scorers.build(name, options, decode=lambda _: texts, decode_prompts=decode_prompts)(TWO)
    assert scores.shape == (2, 2) and scores[1, 1] == 0
    assert bool((scores <= rules.RULES[name].ceiling).all())


def test_the_documents_name_every_rule_with_its_unit_and_options() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/own-reward.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    assert [(row[0].strip("| `"), row[2]) for row in rows] == [(name, rule.unit) for name, rule in rules.RULES.items()]
    for row in rows:
        options = ranges.hyper_parameters(rules.RULES[row[0].strip("| `")].score)
        assert all(f"`{name}`" in row[3] for name in options) and row[3].count("`") == 2 * len(options)


def test_rules_that_read_the_response_alone() -> None:
    texts = [["The BEST of all.", "a rose is a rose"], ["Bestow it.", "never read"]]
    given = {"decode": lambda _: texts, "decode_prompts": decode_prompts}
    assert scorers.build("keyword", {}, **given)(TWO).tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert scorers.build("keyword", {"word": "rose"}, **given)(TWO).tolist() == [[0.0, 1.0], [0.0, 0.0]]
    torch.testing.assert_close(scorers.build("repetition", {}, **given)(TWO), torch.tensor([[0.0, -0.4], [0.0, 0.0]]))


def test_a_row_in_the_table_is_all_that_a_new_reward_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def vowels(response: str, *, weight: float = 1.0) -> float:
        return weight * sum(letter in "aeiou" for letter in response)

    monkeypatch.setitem(rules.RULES, "vowels", rules.Rule(vowels, "more vowels are better", "vowels", float("inf")))
    texts = [["aeb", "b"], ["i", "never read"]]
    scores = scorers.build("vowels", {"weight": 2}, decode=lambda _: texts, decode_prompts=decode_prompts)(TWO)
    assert scores.tolist() == [[4.0, 0.0], [2.0, 0.0]]


def test_stacked_runs_are_scored_in_their_order() -> None:
    """[S, P, G]: prompts and texts come as S·P."""
    stacked = Batch(torch.ones(2, 1), *(torch.stack([x[:1], x[1:]]) for x in (TWO.responses, TWO.mask)))
    stacked = Batch(stacked.prompts, stacked.responses, stacked.mask, valid=TWO.valid[:, None])
    scores = scorers.build("one_sentence", {"words": 3}, decode=lambda _: SENTENCES, decode_prompts=lambda _: ASKED)
    torch.testing.assert_close(scores(stacked), torch.tensor([[[1.0, 0.5]], [[1.0, 0.0]]]))


def test_sentiment_names_the_command_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    rules.vader.cache_clear()
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UserError, match="pip install vaderSentiment"):
        build("sentiment")


def test_a_function_of_the_current_directory(folder: Path) -> None:
    assert build("my_rewards:words")(TWO).tolist() == [[13.0, 23.0], [6.0, 0.0]]
    assert build("my_rewards:together")(TWO).tolist() == [[2.0, 0.0], [6.0, 0.0]]
    assert build("my_rewards:truth")(TWO).tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert build("my_rewards:scalar")(TWO).tolist() == [[2.0, 2.0], [2.0, 0.0]]


def test_functions_of_the_user_take_options(folder: Path) -> None:
    assert build("my_rewards:weighted")(TWO).tolist() == [[1.0, 3.0], [0.0, 0.0]]
    assert build("my_rewards:weighted", weight=2)(TWO).tolist() == [[2.0, 6.0], [0.0, 0.0]]
    assert build("my_rewards:together_weighted", weight=3)(TWO).tolist() == [[3.0, 9.0], [0.0, 0.0]]
    with pytest.raises(UserError, match="needs the option `weight`"):
        build("my_rewards:together_weighted")
    with pytest.raises(UserError, match=r"(?s)unknown option `wait`.*`weight`"):
        build("my_rewards:weighted", wait=1)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("my_rewads:words", "no module named `my_rewads`.*did you mean `my_rewards`"),
        ("my_rewards.deeper:words", "no module named `my_rewards.deeper`"),
        ("my_rewards:word", "no function `word`.*did you mean `words`"),
        ("my_rewards:_hidden", "no function `_hidden`"),
        ("my_rewards:one", "does not take a prompt and a response"),
        ("my_rewards:", "must have the form module:function"),
        ("broken:f", "importing `broken` raised ModuleNotFoundError: No module named 'no_such_package'"),
    ],
)
def test_wrong_paths(folder: Path, path: str, what: str) -> None:
    with pytest.raises(UserError, match=f"(?s){what}") as error:
        build(path)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("angry", "`my_rewards:angry` raised KeyError.*no such word.*prompt 'why', response 'a'"),
        ("angry_batch", "raised IndexError.*3 responses, the first: prompt 'why'"),
        ("nan", "returned nan, which is not a finite number.*prompt 'why', response 'a'"),
        ("text", "returned 'good', which is not a finite number"),
        ("too_few", "returned 1 numbers for 3 responses"),
    ],
)
def test_functions_that_fail(folder: Path, function: str, what: str) -> None:
    with pytest.raises(DataError, match=f"(?s){what}") as error:
        build(f"my_rewards:{function}")(TWO)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("lenght_min", {}, "unknown reward `lenght_min`.*did you mean `length_min`"),
        ("bradley_tery", {}, "did you mean `bradley_terry`"),
        ("length_min", {"scal": 3}, "unknown option `scal`.*did you mean `scale`"),
        ("length_min", {"scale": 0}, "`scale` must be above 0, not 0"),
        ("length_min", {"scale": float("nan")}, "`scale` must be"),
        ("length_mode", {}, "needs the option `target`"),
        ("length_mode", {"target": 0}, "`target` must be at least 1, not 0"),
        ("length_mode", {"target": "ten"}, "`target` must be a number, not 'ten'"),
        ("length_mode", {"target": 2.5}, "`target` must be a whole number, not 2.5"),
        ("one_sentence", {"words": 0}, "`words` must be at least 1, not 0"),
        ("keyword", {"word": 3}, "`word` must be text, not 3"),
        ("sentiment", {"scale": 1}, "`sentiment` takes no options"),
        ("sentiment", {"decode": 1}, "unknown option `decode`"),
    ],
)
def test_wrong_options(name: str, options: dict[str, object], what: str) -> None:
    with pytest.raises(UserError, match=f"(?s){what}"):
        build(name, **options)
