"""The problem of lengths: its data, dials, rewards, reference and reward models."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from prefloop.cli import lab_result
from prefloop.core.batch import Batch
from prefloop.core.errors import DataError, UserError
from prefloop.core.metric_table import metric
from prefloop.core.streams import Stream
from prefloop.data.instructions import builtin
from prefloop.lab.setting import changed, make, seeds
from prefloop.lab.stack import build, run_stack, stack_of
from prefloop.lab.summary import Cell
from prefloop.policies.gpt import GPT
from prefloop.rewards.rules import RULES, keyword, repetition, sentiment
from prefloop.worlds.lengths import build as lab
from prefloop.worlds.lengths import learned as stacked
from prefloop.worlds.lengths import problem as lengths
from prefloop.worlds.lengths.answers import END, answers, encode, vocabulary
from prefloop.worlds.lengths.problem import NAMED, corpus, evened, overlap, target, toward, truncated, truncation
from prefloop.worlds.measures import responses_of
from prefloop.worlds.optimum import optimum

F64 = torch.float64
SIZE = {"responses": 4, "batch": 16, "minibatch": 16, "evaluation": 8}
ONE = make("online_dpo", "lengths", network="smoke", data=32, **SIZE)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty place for fitted networks, so that nothing of an earlier run is tested."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("PREFLOOP_CACHE", str(folder))
        lab.reference.cache_clear()
        yield folder
        lab.reference.cache_clear()


@pytest.fixture(scope="module")
def written() -> Tensor:
    """Lengths of the answers, which the reference is fitted to."""
    return corpus(32).mask.sum(-1).flatten()


def responses(lengths: list[int], limit: int = 8) -> Batch:
    """One run, one prompt, responses of these lengths: words numbered from 1, then END."""
    ids = torch.zeros(1, 1, len(lengths), limit, dtype=torch.long)
    for g, n in enumerate(lengths):
        ids[0, 0, g, : n - 1] = torch.arange(1, n)
    mask = torch.arange(limit) < torch.tensor(lengths)[:, None]
    return Batch(torch.tensor([[768]]), ids, mask[None, None])


# --------------------------------------------------------------------------------------------------------------- data


def test_every_instruction_was_answered_thirty_times_or_more() -> None:
    found = answers()
    assert len(found) == len(builtin().read_text(encoding="utf-8").splitlines())
    assert len({len(a.texts) for a in found}) == 1 and len(found[0].texts) >= 30
    assert [a.seed for a in found] == list(range(len(found)))


def test_the_data_are_large_and_the_files_small() -> None:
    assert int(corpus(64).mask.sum()) >= 500_000
    files = [Path(lengths.__file__).with_name(name) for name in ("answers.jsonl", "answers_vocabulary.json")]
    assert sum(f.stat().st_size for f in files) <= 3_000_000


def test_answers_come_back_from_their_tokens() -> None:
    tokenizer = vocabulary()
    texts = [text for a in answers()[:40] for text in a.texts]
    assert all(tokenizer.decode(e.ids) == t for e, t in zip(tokenizer.encode_batch(texts), texts, strict=True))
    assert tokenizer.id_to_token(END) == "<end>"


def test_a_short_limit_is_refused() -> None:
    assert float(corpus(32).cut.float().mean()) <= lengths.MOST_CUT
    with pytest.raises(DataError, match="of the answers are longer than 12 tokens"):
        corpus(12)


def test_what_is_cut_is_marked() -> None:
    found = encode([["Yes.", "Yes."]], 2)
    n = len(vocabulary().encode("Yes.").ids) + 1
    assert n > 2 and found.cut.all()
    assert not encode([["Yes.", "Yes."]], n).cut.any()


def test_what_the_model_did_not_end_has_no_end() -> None:
    """Answers that stopped in mid-sentence where they were made: their tokens count, an END is not made up."""
    found = encode([["Yes.", "Yes."]], 32, [{1}])
    assert found.cut.tolist() == [[False, True]] and int(found.mask[0, 0].sum() - found.mask[0, 1].sum()) == 1
    unended = sum(len(a.unended) for a in answers())
    assert unended > 0 and int(corpus(64).cut.sum()) >= unended


# -------------------------------------------------------------------------------------------------------------- dials


def test_gold_is_the_distance_from_the_target() -> None:
    score = toward(torch.tensor([3, 1]), torch.tensor([10.0, 2.0]))
    batch = responses([1, 3, 7])
    twice = Batch(*(torch.cat([x, x]) for x in (batch.prompts, batch.responses, batch.mask)))
    torch.testing.assert_close(score(twice), torch.tensor([[[-0.2, 0.0, -0.4]], [[0.0, -1.0, -3.0]]]))


def test_targets_are_percentiles() -> None:
    found = torch.tensor([4, 2, 8, 6])
    assert [target(p, found) for p in (0.0, 1.0, 30.0, 50.0, 99.0, 100.0)] == [1, 2, 4, 6, 8, 8]


@pytest.mark.parametrize("coverage", [0.9, 0.4, 0.1])
def test_that_share_of_the_data_stays_whole(written: Tensor, coverage: float) -> None:
    data = corpus(32)
    batch = Batch(torch.zeros(1, len(data.ids), dtype=torch.long), data.ids[None], data.mask[None])
    mean = torch.tensor([truncation(coverage, written)])
    cut = truncated(batch, mean, Stream("cut", [0], stacked=True))
    whole = (cut.lengths == batch.lengths) & (cut.responses == batch.responses).all(-1)
    assert float(whole.float().mean()) == pytest.approx(coverage, abs=0.015)
    assert (cut.lengths <= batch.lengths).all() and (cut.lengths >= 1).all()
    last = cut.responses.gather(-1, cut.lengths[..., None] - 1).squeeze(-1)
    assert (last[~whole] == END).all() and not cut.responses[~cut.mask].any()


def test_full_coverage_changes_nothing(written: Tensor) -> None:
    batch = responses([1, 3, 8])
    same = truncated(batch, torch.tensor([truncation(1.0, written)]), Stream("cut", [0], stacked=True))
    assert torch.equal(same.responses, batch.responses) and torch.equal(same.mask, batch.mask)


def test_truncation_by_hand() -> None:
    """Two responses of lengths 1 and 3: ½ + ½ exp(−2/μ) = ¾ at μ = 2/log 2."""
    assert truncation(0.75, torch.tensor([1, 3])) == pytest.approx(2 / torch.tensor(2.0).log().item(), rel=1e-6)


def test_overlap_by_hand() -> None:
    a, b = torch.tensor([1, 1, 2, 4]), torch.tensor([1, 2, 2, 3])
    assert overlap(a, b) == pytest.approx(0.5) and overlap(a, a) == 1 and overlap(a, a + 10) == 0


@pytest.mark.parametrize(("network", "near"), [("smoke", 0.18), pytest.param("small", 0.2, marks=pytest.mark.slow)])
def test_the_named_problems_are_the_grid_of_the_study(network: str, near: float, written: Tensor) -> None:
    """C1: how much of the reference lies within two tokens of the reward's peak. C2: overlap of data and reference."""
    own, c1, c2 = lab.reference(network).lengths, {}, {}
    for name, (peak, coverage) in NAMED.items():
        one = stack_of([changed(ONE, network=network, peak=peak, coverage=coverage, data=1000)])
        data = lab.preferences(one, lab.gold_reward(one))
        rewards = lab.gold_reward(one)(responses(own.tolist(), limit=32)).flatten()
        c1[name] = float((rewards >= -2 / vars(ONE.world)["width"]).float().mean())
        c2[name] = overlap(data.lengths.flatten(), own)
    assert c1["min"] == c1["skew"] < 0.06 and c1["mode"] > near
    assert min(c2["min"], c2["mode"]) > 0.9 and c2["skew"] < 0.5
    peaks = {name: target(peak, written) for name, (peak, _) in NAMED.items()}  # and so it is on the answers themselves
    about = {name: float(((written - at).abs() <= 2).float().mean()) for name, at in peaks.items()}
    assert about["min"] == about["skew"] < 0.06 and about["mode"] > 0.2


def test_mode_length_peaks_at_the_mode(written: Tensor) -> None:
    """Of the answers that the limit does not cut, neighbours averaged: a histogram of lengths is ragged at its top."""
    counts = torch.bincount(written[written < 32], minlength=34).double()
    smooth = torch.stack([counts[n - 1 : n + 2].mean() for n in range(1, 33)])
    assert abs(target(NAMED["mode"][0], written) - (1 + int(smooth.argmax()))) <= 1


def test_texts_of_any_length_by_hand() -> None:
    """Words of a response, then of the next ones of its group: 1 2 | 1 | (none)."""
    batch = responses([3, 2, 1], limit=4)
    made = lengths.of_lengths(batch, torch.tensor([[[2, 3, 5]]]), 6)
    assert made.lengths.tolist() == [[[2, 3, 4]]]  # three words are all that there are
    assert made.responses.tolist() == [[[[1, END, 0, 0, 0, 0], [1, 1, END, 0, 0, 0], [1, 2, 1, END, 0, 0]]]]


def test_a_cut_response_has_only_words() -> None:
    cut = Batch(torch.tensor([[768]]), torch.tensor([[[[5, 6, 7]]]]), torch.ones(1, 1, 1, 3, dtype=torch.bool))
    made = lengths.of_lengths(cut, torch.tensor([[[4]]]), 4)
    assert made.responses.tolist() == [[[[5, 6, 7, END]]]]


def test_a_share_of_the_groups_covers_every_length() -> None:
    data = corpus(32)
    whole = Batch(
        torch.zeros(2, len(data.ids), dtype=torch.long),
        *(x[:, :8].expand(2, -1, -1, -1) for x in (data.ids, data.mask)),
    )
    short = truncated(whole, torch.tensor([1.0, 1.0]), Stream("cut", [0, 1], stacked=True))
    share = torch.tensor([0.25, 1.0], dtype=F64)
    both = evened(short, whole, share, 32, Stream("even", [0, 1], stacked=True))
    n = round(0.25 * len(data.ids))
    assert torch.equal(both.responses[0, n:], short.responses[0, n:]) and torch.equal(
        both.mask[0, n:], short.mask[0, n:]
    )
    law = torch.bincount(both.lengths[1].flatten(), minlength=33)[1:] / both.lengths[1].numel()
    assert float((law - 1 / 32).abs().max()) < 0.015
    one = (Batch(*(x[1:] for x in (b.prompts, b.responses, b.mask))) for b in (short, whole))
    alone = evened(*one, share[1:], 32, Stream("even", [1], stacked=True))
    assert torch.equal(alone.responses[0], both.responses[1]) and torch.equal(alone.mask[0], both.mask[1])
    none = evened(short, whole, share * 0, 32, Stream("even", [0, 1], stacked=True))
    assert torch.equal(none.responses, short.responses) and torch.equal(none.mask, short.mask)


# -------------------------------------------------------------------------------------------------------- other rewards


def test_every_rule_is_a_gold_reward_or_says_what_it_lacks() -> None:
    for name, rule in RULES.items():
        world = changed(ONE, gold=name).world
        if name == "length_mode":
            with pytest.raises(UserError, match="needs the option `target`"):
                world.check(changed(ONE).resolved_method)
        elif name != "sentiment":
            world.check(changed(ONE).resolved_method)
            assert world.ceiling == rule.ceiling
    with pytest.raises(UserError, match="did you mean `keyword`"):
        changed(ONE, gold="keywrd").world.check(changed(ONE).resolved_method)


def test_a_function_of_the_user_is_a_gold_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lengths_reward.py").write_text("def asked(prompt, response): return len(prompt) + len(response) / 100")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    setting = changed(ONE, gold="lengths_reward:asked")
    found = encode([["No."]], 32)
    score = lab.gold_reward(stack_of([setting]))(Batch(torch.tensor([[769]]), found.ids[None], found.mask[None]))
    assert score.item() == pytest.approx(len(answers()[1].prompt) + 0.03)
    assert setting.world.ceiling == math.inf and setting.run != changed(ONE, gold="keyword").run


def test_words_by_hand() -> None:
    assert keyword("The BEST of all.", word="best") == 1 and keyword("Bestow it.", word="best") == 0
    assert repetition("a rose is a rose") == pytest.approx(-2 / 5) and repetition("…") == 0
    pytest.importorskip("vaderSentiment")
    assert sentiment("I love this wonderful day") > 0.5 > -0.5 > sentiment("I hate this terrible day")


@pytest.mark.parametrize("gold", ["keyword", "repetition", "sentiment", "one_sentence"])
def test_rules_see_the_text(gold: str) -> None:
    if gold == "sentiment":
        pytest.importorskip("vaderSentiment")
    text = "Wonderful, this is the best, the best of all!"
    found = encode([[text, "No."]], 32)
    batch = Batch(torch.tensor([[768]]), found.ids[None], found.mask[None])
    score = lab.gold_reward(stack_of([changed(ONE, gold=gold)]))(batch)
    rule = RULES[gold]
    asked = [answers()[0].prompt] if "prompt" in rule.reads else []
    judge = partial(rule.score, *asked)
    assert score.shape == (1, 1, 2)
    assert score[0, 0].tolist() == pytest.approx([judge(text), judge("No.")])


# ------------------------------------------------------------------------------------------------------ reward models


def tiny(runs: int = 1, dtype: torch.dtype = F64) -> GPT:
    sizes = {"vocabulary": 8, "prompts": 2, "tokens": 8, "layers": 1, "heads": 2, "width": 8}
    return GPT.create(range(runs), end=END, dtype=dtype, **sizes)  # type: ignore[arg-type]


def ranked(runs: int = 2, groups: int = 48) -> Batch:
    """Groups of four random responses whose score is minus their length."""
    rng = Stream("ranked", range(runs), stacked=True)
    n = 1 + (rng.rand(groups, 4) * 8).long()
    ids = 1 + (rng.rand(groups, 4, 8) * 7).long()
    place = torch.arange(8)
    mask = place < n[..., None]
    ids = torch.where(mask & (place < n[..., None] - 1), ids, END)
    return Batch(8 + (rng.rand(groups) * 2).long(), ids, mask, scores=-n.double())


def test_a_reward_model_learns_the_order() -> None:
    data = ranked()
    model = stacked.fit(tiny(2), data, [0, 1], steps=120, lr=1e-2)
    fresh = ranked(2, 100)
    fresh = fresh[torch.arange(48, 100).expand(2, -1)]
    assert (stacked.accuracy(model, fresh) > 0.9).all()
    score = model(data)
    torch.testing.assert_close(score.mean((1, 2)), torch.zeros(2, dtype=score.dtype), rtol=0, atol=1e-5)
    torch.testing.assert_close(score.flatten(1).std(1), torch.ones(2, dtype=score.dtype), rtol=0, atol=1e-5)


def test_swapping_a_pair_negates_its_margin() -> None:
    data = ranked(1)
    model = stacked.fit(tiny(), data, [0], steps=5, lr=1e-2)
    swapped = Batch(data.prompts, data.responses.flip(2), data.mask.flip(2))
    a, b = model(data), model(swapped)
    torch.testing.assert_close(a[..., 0] - a[..., 3], -(b[..., 0] - b[..., 3]), rtol=0, atol=1e-6)


def test_padding_does_not_reach_a_score() -> None:
    model, data = stacked.fit(tiny(), ranked(1), [0], steps=5), ranked(1)
    longer = Batch(data.prompts, pad(data.responses, (0, 3)), pad(data.mask, (0, 3)))
    torch.testing.assert_close(model(longer), model(data), rtol=0, atol=0)


def test_fitted_together_is_fitted_alone() -> None:
    data = ranked(2)
    together = stacked.fit(tiny(2), data, [0, 1], steps=10)
    alone = tiny(2).take(torch.tensor([1]))
    own = Batch(*(x[1:] for x in (data.prompts, data.responses, data.mask)), scores=data.scores[1:])  # type: ignore[index]
    single = stacked.fit(alone, own, [1], steps=10)
    for name, value in single.state().items():
        torch.testing.assert_close(together.state()[name][1:], value, rtol=0, atol=1e-9)


def test_a_saved_reward_model_scores_the_same() -> None:
    data = ranked(2)
    model = stacked.fit(tiny(2), data, [0, 1], steps=5)
    assert torch.equal(stacked.restored(tiny(2), model.state())(data), model(data))


# ------------------------------------------------------------------------------------------------------------ the world


def test_the_reference_is_fitted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = lab.reference("smoke")
    lab.reference.cache_clear()
    monkeypatch.setattr(lab, "fit", lambda size: pytest.fail("fitted again"))
    again = lab.reference("smoke")
    assert all(torch.equal(a, b) for a, b in zip(first.policy.parameters(), again.policy.parameters(), strict=True))
    assert again.perplexity == first.perplexity < 200 and again.prompts == 300
    assert float(again.lengths.float().mean()) == pytest.approx(float(corpus(32).mask.sum(-1).float().mean()), rel=0.25)


def test_construction_is_deterministic() -> None:
    both = stack_of(seeds(changed(ONE, coverage=0.3), [0, 1]))
    a, b = (lab.preferences(both, lab.gold_reward(both)) for _ in range(2))
    assert torch.equal(a.responses, b.responses) and torch.equal(a.scores, b.scores)  # type: ignore[arg-type]
    alone = lab.preferences(both.alone(1), lab.gold_reward(both.alone(1)))
    n = alone.responses.shape[-1]
    assert torch.equal(a.responses[1:, ..., :n], alone.responses) and torch.equal(a.mask[1:, ..., :n], alone.mask)


METHODS = {"online_dpo": {}, "dpo": {}, "ppo_critic_free": {"reuse": 2}, "best_of_n": {}, "pref_ft": {}, "kto": {}}


@pytest.mark.parametrize("method", METHODS)
def test_stacked_equals_alone(method: str) -> None:
    """Six updates in float64, with learned rewards, runs on different problems in one stack."""
    one = changed(
        ONE, method=method, override=METHODS[method], scorer="proxy", precision="float64", steps=6, evaluate=3
    )
    settings = [changed(one, seed=0, peak=0.0), changed(one, seed=1, peak=50.0, coverage=0.3)]
    together = run_stack(settings)
    for found, setting in zip(together, settings, strict=True):
        (alone,) = run_stack([setting])
        for name in [
            f"eval/{k}" for k in ("gold", "reward", "length", "kl_reverse_exact", "kl_forward_exact", "entropy", "cut")
        ]:
            torch.testing.assert_close(
                torch.tensor(found.curves[name]), torch.tensor(alone.curves[name]), rtol=1e-5, atol=1e-5, msg=name
            )


def test_a_learned_reward_is_the_same_whatever_stack_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = stack_of([changed(ONE, scorer="proxy", seed=s, data=8) for s in (0, 1)])
    together = lab.reward_model(both).state()
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path))
    lab.reference("smoke")  # stays in memory: what is not there any more are the reward models
    alone = lab.reward_model(both.alone(1)).state()
    assert all(torch.equal(together[k][1:], alone[k]) for k in alone)


@pytest.mark.parametrize(("problem", "prompts", "most"), [("lengths", 256, 0.25), ("arms", 4096, 0.04)])
def test_labels_compare_a_learned_reward_with_its_own_mean(problem: str, prompts: int, most: float) -> None:
    """Labels split what it says of fresh responses of the reference at its mean, whatever its units."""
    one = changed(ONE, method="kto", override={"on_policy": 1.0}, scorer="proxy")
    if problem == "arms":
        one = make("kto", "arms", {"on_policy": 1.0}, hidden=16, data=200, scorer="proxy", **SIZE)
    world = build([one])
    posed, rng = world.loop.problem, Stream("fresh", [0], stacked=True)
    with torch.no_grad():
        fresh = world.loop.policy.draw(posed.prompts(0, prompts, rng), 4, rng)
    found = posed.score(fresh)
    scores, good = found.scores.double(), found.labels > 0
    assert set(found.labels.flatten().tolist()) == {-1.0, 1.0}
    low, high = float(scores[~good].max()), float(scores[good].min())
    assert low < high  # the threshold lies between them
    slack = most * float(scores.std())
    assert low - slack < float(scores.mean()) < high + slack


def test_what_is_followed_at_the_start() -> None:
    """Before the first step policy and reference are one: no KL, and the reference's own length."""
    (run,) = run_stack([replace(ONE, method="pref_ft", steps=1, evaluate=1, evaluation=256)])
    base = lab.reference("smoke")
    assert all(metric(key) for key in run.curves) and "eval/mass/peak" not in run.curves
    assert (
        run.curves["eval/kl_reverse_exact"][0] == pytest.approx(0, abs=1e-5) == run.curves["eval/kl_forward_exact"][0]
    )
    mean, error = float(base.lengths.float().mean()), run.curves["eval/length_se"][0]
    assert abs(run.curves["eval/length"][0] - mean) < 4 * error
    law = [run.curves[f"eval/length/{n}"][0] for n in range(1, 33)]
    assert sum(law) == pytest.approx(1) and sum(n * p for n, p in enumerate(law, 1)) == run.curves["eval/length"][0]
    assert run.curves["eval/gold"][0] == pytest.approx(-(run.curves["eval/length"][0] - 1) / 10, rel=1e-5)


def test_what_can_be_reached_is_known() -> None:
    """From the reference's law of lengths; of rewards that depend on words only where training starts."""
    known = optimum(ONE.world, 0.1)
    assert known.reference < known.best < ONE.world.ceiling
    assert known.reference == pytest.approx(-float(lab.reference("smoke").lengths.double().mean() - 1) / 10, abs=0.06)
    words = changed(ONE, gold="keyword").world
    assert 0 < lab.start(words).value < 0.1 and lab.optimum(words, 0.1) is None
    with pytest.raises(UserError, match="highest J_β of `lengths` is not known with this gold reward"):
        optimum(words, 0.1)


def test_a_reward_model_may_have_seen_every_length() -> None:
    """What it is fitted to changes, the data of the methods do not."""
    settings = [changed(ONE, scorer="proxy", coverage=0.3, seen=seen) for seen in (0.0, 1.0)]
    both = stack_of(settings)
    gold = lab.gold_reward(both)
    offline, fitted = lab.preferences(both, gold), lab.preferences(both, gold, even=True)
    assert torch.equal(offline.responses[0], offline.responses[1])
    assert torch.equal(fitted.lengths[0], offline.lengths[0]) and not torch.equal(fitted.lengths[1], offline.lengths[1])
    assert torch.equal(fitted.scores, gold(fitted))  # type: ignore[arg-type]
    assert len({setting.run for setting in settings}) == 2


def test_the_evaluation_asks_every_prompt_before_any_twice() -> None:
    both = stack_of([changed(ONE, evaluation=320, seed=s) for s in (0, 1)])
    posed, theirs = lab.evaluation_set(both)
    for s in (0, 1):
        assert len(set(posed[s, :300].tolist())) == 300 and len(set(posed[s].tolist())) == 300
        alone, own = lab.evaluation_set(both.alone(s))
        assert torch.equal(alone[0], posed[s]) and torch.equal(own.prompts[0], theirs.prompts[s])
    assert torch.equal(theirs.prompts, posed[:, : lab.EARLY])


@pytest.mark.parametrize("prompts", [2, 70])
def test_answers_in_portions_are_those_drawn_at_once(prompts: int) -> None:
    """An evaluation draws some prompts at a time; its numbers are means over all their answers."""
    base = lab.reference("smoke")
    policy, reference = (base.policy.take(torch.zeros(1, dtype=torch.long)) for _ in range(2))
    posed = (768 + torch.arange(prompts))[None]
    drawn = policy.draw(posed, 4, Stream("evaluation", [0], stacked=True))
    one = stack_of([ONE])
    gold, theirs = lab.gold_reward(one), Batch(posed, drawn.responses[:, :, :1], drawn.mask[:, :, :1])
    found = responses_of(
        policy,
        reference,
        posed,
        {"gold": gold},
        {"first": gold},
        theirs,
        answers=4,
        tokens=32,
        rng=Stream("evaluation", [0], stacked=True),
    )
    assert found["gold"].item() == pytest.approx(gold(drawn).mean().item(), abs=1e-6)
    assert found["first"].item() == pytest.approx(gold(theirs).mean().item(), abs=1e-6)
    assert found["eval/length"].item() == pytest.approx(drawn.lengths.double().mean().item(), abs=1e-4)
    shares = torch.bincount(drawn.lengths.flatten(), minlength=33)[1:] / drawn.lengths.numel()
    assert [found[f"eval/length/{n}"].item() for n in range(1, 33)] == pytest.approx(shares.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"peak": 101.0}, "percentile"), ({"coverage": 0.0}, "a share above 0"), ({"seen": 0.5}, "only a learned reward")],
)
def test_dials_out_of_range_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(ONE, **change).check()


@pytest.mark.parametrize(
    ("problem", "field", "having"),
    [
        ("lengths", {"centre": 20.0}, "arms, sequences, categorical"),
        ("arms", {"peak": 25.0}, "lengths"),
        ("sequences", {"gold": "keyword"}, "lengths"),
    ],
)
def test_rewards_of_other_problems_are_refused(problem: str, field: dict[str, Any], having: str) -> None:
    with pytest.raises(UserError, match=f"(?s)unknown field `{next(iter(field))}` of `{problem}`.*field of {having}$"):
        make("online_dpo", problem, **field)


def test_no_gold_reward_is_above_its_ceiling() -> None:
    """And each is reached: by one token, by the keyword, by words that do not recur, by friendly ones almost."""
    best = {"length": "", "keyword": "The best.", "repetition": "No word twice.", "sentiment": "Wonderful, lovely joy!"}
    for gold, text in best.items():
        found, one = encode([[text, text]], 32), changed(ONE, gold=gold)
        score = lab.gold_reward(stack_of([one]))(Batch(torch.tensor([[768]]), found.ids[None], found.mask[None]))
        assert one.world.ceiling - 0.2 < float(score.max()) <= one.world.ceiling, gold
    assert make("rloo", "arms").world.ceiling == 1.0


def test_the_table_shows_what_only_lengths_have(tmp_path: Path) -> None:
    runs = run_stack([replace(ONE, method="pref_ft", steps=2, evaluate=1)])
    cells = [Cell(runs[0].setting, runs, {})]
    (row,) = lab_result.records(cells)
    assert row["eval/length"] == runs[0].last("eval/length") and row["eval/cut"] == runs[0].last("eval/cut")
    assert row["eval/reward"] == row["eval/gold"]  # nothing was learned
    lab_result.write(cells, [row], tmp_path)
    assert (tmp_path / "reward.svg").exists()


@pytest.mark.slow
def test_the_reference_of_size_small() -> None:
    """At most a fifth cut, of the size that was promised, and far better than a unigram model of the answers."""
    base = lab.reference("small")
    parameters = sum(p.numel() for name, p in base.policy.weights.items())
    assert 200_000 <= parameters <= 300_000 and base.cut <= 0.2
    data = corpus(32)
    law = torch.bincount(data.ids[data.mask], minlength=768).double()
    law = law[law > 0] / law.sum()
    assert base.perplexity < 0.2 * float(torch.exp(-(law * law.log()).sum()))
