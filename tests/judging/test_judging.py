"""A judge behind the OpenAI protocol: verdicts in both orders, and every way in which a server can fail."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from judge_server import better, judge, says
from prefloop.core.errors import DataError, UserError
from prefloop.judging.chat import Chat
from prefloop.judging.evaluate import Comparison, Result, by_score, detectable_rate, evaluate
from prefloop.judging.pairwise import AGAIN, Verdict, judged, verdict_of

ONE = [{"role": "user", "content": "hello"}]


def chat(url: str, **more: Any) -> Chat:
    return Chat(url, "j", **{"timeout": 5.0, "retries": 2, "sleep": lambda seconds: None, **more})


# ---- the question ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "worth"),
    [("[[A]]", 1.0), ("Because…\n[[B]]", 0.0), ("[[C]]", 0.5), ("First I thought [[A]], but [[B]]", 0.0), ("A", 1.0),
     ("B.", 0.0), ("**C**", 0.5), ("Answer A is better", None), ("", None), ("[[D]]", None), ("I cannot", None)],
)  # fmt: skip
def test_a_verdict_is_a_mark_and_prose_is_none(said: str, worth: float | None) -> None:
    assert verdict_of(said) == worth


@pytest.mark.parametrize(
    ("replies", "verdict"),
    [
        (["[[A]]", "[[B]]"], Verdict(1.0, (1.0, 1.0))),
        (["[[B]]", "[[A]]"], Verdict(0.0, (0.0, 0.0))),
        (["[[A]]", "[[A]]"], Verdict(0.5, (1.0, 0.0))),  # prefers the place, not the answer
        (["[[C]]", "[[B]]"], Verdict(0.75, (0.5, 1.0))),
        (["hm", "[[A]]", "[[B]]"], Verdict(1.0, (1.0, 1.0))),  # reminded once
        (["hm", "well", "[[B]]"], Verdict(None, (None, 1.0))),
        ([None, "[[B]]"], Verdict(None, (None, 1.0))),
    ],
)
def test_both_orders_decide(replies: list[str | None], verdict: Verdict) -> None:
    left = iter(replies)
    asked: list[Any] = []

    def ask(messages: Any) -> str | None:
        asked.append(messages)
        return next(left)

    assert judged(ask, "p", "one", "two") == verdict
    assert next(left, "end") == "end"
    first, last = asked[0][1]["content"], asked[-1][1]["content"]
    assert first.index("one") < first.index("two") and last.index("two") < last.index("one")
    assert sum(m["content"] == AGAIN for messages in asked for m in messages) == replies.count("hm")


# ---- the server -----------------------------------------------------------------------------------------------------


def test_an_answer_is_cached_by_the_whole_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with judge(lambda body, n: says(f"answer {n}")) as (url, server):
        one = chat(url, cache=tmp_path / "c", key="MY_KEY")
        assert [one.answer(ONE), one.answer(ONE)] == ["answer 1", "answer 1"]
        assert one.answer([{"role": "user", "content": "other"}]) == "answer 2"
        again = chat(url, cache=tmp_path / "c")
        assert again.answer(ONE) == "answer 1" and replace(again, model="k").answer(ONE) == "answer 3"
        headers, body = server.asked[0]
        assert headers["Authorization"] == "Bearer secret" and body["temperature"] == 0 and body["model"] == "j"
        assert "Authorization" not in server.asked[-1][0]
    spent = one.spent
    assert (spent.requests, spent.cached, spent.tokens_in, spent.tokens_out) == (2, 1, 20, 4)
    assert all("secret" not in file.read_text() for file in (tmp_path / "c").iterdir())
    for file in (tmp_path / "c").iterdir():
        file.write_text("{")
    with pytest.raises(DataError, match="not an answer of a judge"):
        chat(url, cache=tmp_path / "c").answer(ONE)


@pytest.mark.parametrize("bad", [(500, "oh"), (429, "{}"), (200, "no json"), (200, {"choices": []}), says(None)])
def test_what_may_pass_is_tried_again_and_then_given_up(bad: Any) -> None:
    pauses: list[float] = []
    with judge(lambda body, n: bad if n < 3 else says("[[A]]")) as (url, server):
        assert chat(url, sleep=pauses.append).answer(ONE) == "[[A]]"
        assert len(server.asked) == 3 and pauses == [1.0, 2.0]
    with judge(lambda body, n: bad) as (url, server):
        one = chat(url)
        assert one.answer(ONE) is None and len(server.asked) == 3 and one.spent.failed == 1


@pytest.mark.parametrize("sent", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"])
def test_a_connection_that_breaks_gives_no_answer(sent: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(2):
                connection, _address = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(sent)

        thread = threading.Thread(target=serve)
        thread.start()
        one = chat(f"http://127.0.0.1:{server.getsockname()[1]}/v1", retries=1)
        assert one.answer(ONE) is None and one.spent.failed == 1
        thread.join(5)
        assert not thread.is_alive()  # both tries were made


@pytest.mark.parametrize("usage", [None, [1], {"prompt_tokens": None}, {}])
def test_a_server_need_not_count_tokens(usage: Any) -> None:
    reply = {"choices": [{"message": {"content": "[[A]]"}}], "usage": usage}
    with judge(lambda body, n: (200, reply)) as (url, _):
        one = chat(url)
        assert one.answer(ONE) == "[[A]]" and (one.spent.requests, one.spent.tokens_in) == (1, 0)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_among_others_has_no_answer(status: int) -> None:
    """Too long, or filtered: the answers that were paid for are not lost."""
    with judge(lambda body, n: (status, "filtered") if n == 2 else says("[[A]]")) as (url, server):
        one = chat(url)
        said = [one.answer([{"role": "user", "content": str(i)}]) for i in range(3)]
        assert said == ["[[A]]", None, "[[A]]"] and (one.spent.failed, len(server.asked)) == (1, 3)


def test_a_judge_that_takes_too_long_gives_no_answer() -> None:
    def slow(body: Any, n: int) -> Any:
        time.sleep(0.5)
        return says("[[A]]")

    with judge(slow) as (url, _):
        assert chat(url, timeout=0.05, retries=1).answer(ONE) is None


@pytest.mark.parametrize(("status", "what"), [(401, "wants an API key"), (404, "no such model"), (400, "understand")])
def test_what_will_not_pass_ends_it(status: int, what: str) -> None:
    with judge(lambda body, n: (status, "some reason")) as (url, server), pytest.raises(UserError) as error:
        chat(url).answer(ONE)
    assert what in error.value.what and "some reason" in error.value.what and len(server.asked) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="no server answers at http"):
        chat("http://127.0.0.1:9/v1", retries=0).answer(ONE)
    with pytest.raises(UserError, match="is not the address of a server"):
        chat("file:///etc/passwd")


# ---- the numbers ----------------------------------------------------------------------------------------------------


def test_a_comparison_counts_wins_ties_losses_and_what_has_no_verdict() -> None:
    prompts = [f"p{i}" for i in range(40)]
    first = {p: "good" if i < 25 else "plain" for i, p in enumerate(prompts)}
    second = {p: "good" if 20 <= i < 30 else "plain, but long" for i, p in enumerate(prompts)}

    def reply(body: Any, n: int) -> Any:
        return says("I refuse") if "\np39\n" in body["messages"][1]["content"] else better("good")(body, n)

    with judge(reply) as (url, _):
        result = evaluate(prompts, first, second, partial(judged, chat(url).answer), workers=3)
    found = result.record()
    assert [one.prompt for one in result.comparisons] == prompts
    assert (found["prompts"], found["decided"], found["no_verdict"]) == (40, 39, 1)
    assert (found["wins"], found["ties"], found["losses"]) == (20, 14, 5)
    assert found["win_rate"] == pytest.approx(27 / 39) and found["low"] < 27 / 39 < found["high"]
    assert found["if_undecided"] == {"lost": pytest.approx(27 / 40), "won": pytest.approx(28 / 40)}
    assert found["consistent"] == 1.0 and found["shown_first"] == 0.5
    assert found["characters"]["first"] < found["characters"]["second"] and found["length_controlled"] is not None


def test_a_judge_that_likes_the_first_place_shows() -> None:
    with judge(lambda body, n: says("[[A]]")) as (url, _):
        found = evaluate(["p", "q"], {"p": "a", "q": "b"}, {"p": "c", "q": "d"}, partial(judged, chat(url).answer))
    record = found.record()
    assert (record["win_rate"], record["consistent"], record["shown_first"]) == (0.5, 0.0, 1.0)


def test_no_verdict_at_all_is_no_rate() -> None:
    record = Result([Comparison("p", "a", "b", Verdict(None, (None, None)))]).record()
    assert record["win_rate"] is None and record["no_verdict"] == 1


def test_scores_decide_and_equal_ones_tie() -> None:
    score = {("p", "a"): 1.0, ("p", "b"): 0.5, ("q", "a"): 2.0}
    assert by_score(score)("p", "a", "b").win == 1.0 and by_score(score)("p", "b", "a").win == 0.0
    assert by_score(score)("q", "a", "a").win == 0.5


def test_more_prompts_see_smaller_differences() -> None:
    assert detectable_rate(100) == pytest.approx(0.14, abs=0.005)  # 2.8 standard errors of ½/√100
    assert detectable_rate(805) < detectable_rate(100) and detectable_rate(1) != detectable_rate(1)
