"""The page of a run that is being written, as a browser gets it."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import run_folders
from prefloop.core.errors import UserError
from prefloop.report.live import HERE, Live, server

Got = tuple[int, dict[str, str], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = run_folders.make(tmp_path, "2026-01-05-dpo-abc123", steps=40, every=10)
    (path / "config.yaml").write_text("method: dpo\ntraining: {steps: 40}\n")
    return path


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    with server(Live(folder, 5.0), 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield int(serving.server_address[1])
        serving.shutdown()


def ask(port: int, path: str = "/", method: str = "GET", host: str | None = None) -> Got:
    connection = http.client.HTTPConnection(HERE, port, timeout=20)
    connection.request(method, path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_a_finished_run_is_shown_and_no_longer_reloaded(port: int) -> None:
    status, headers, page = ask(port)
    assert status == 200 and headers["Content-Type"].startswith("text/html") and "step 40 of 40" in page
    assert 'http-equiv="refresh"' not in page and "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_a_run_that_is_being_written_is_shown_as_far_as_it_is(folder: Path, port: int) -> None:
    """Also in the middle of a line, and before there is any."""
    records = folder / "metrics.jsonl"
    whole = records.read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b'{"step": 0, "pro')
    for lines, step in ((0, 0), (1, 0), (9, 8), (30, 27)):
        records.write_bytes(b"".join(whole[:lines]) + whole[lines][:17])
        status, _, page = ask(port)
        assert status == 200 and f"step {step} of 40" in page and '<meta http-equiv="refresh" content="5.0">' in page
        told = json.loads(ask(port, "/run.json")[2])
        assert (told["finished"], told["progress"]) == (False, f"step {step} of 40")
        assert [line["step"] for line in told["steps"]] == list(range(1, step + 1))
    records.write_bytes(b"".join(whole))
    assert json.loads(ask(port, "/run.json?now")[2])["finished"] is True


def test_a_broken_record_is_said_and_the_server_goes_on(folder: Path, port: int) -> None:
    records = folder / "metrics.jsonl"
    whole = records.read_bytes()
    records.write_bytes(b"{]\n" + whole)
    status, headers, text = ask(port)
    assert status == 500 and "not a JSON record" in text and headers["Content-Type"].startswith("text/plain")
    records.write_bytes(whole)
    assert ask(port)[0] == 200


def test_nothing_else_is_served_and_nothing_is_written(folder: Path, port: int) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for path in ("/config.yaml", "/../config.yaml", "/metrics.jsonl", "/%2e%2e/", "/final/"):
        assert ask(port, path)[0] == 404
    assert [ask(port, method=method)[0] for method in ("POST", "PUT", "DELETE")] == [501] * 3
    status, headers, body = ask(port, method="HEAD")
    assert status == 200 and int(headers["Content-Length"]) > 10_000 and body == ""
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(("host", "status"), [("evil.example", 403), ("127.0.0.1.evil.example:80", 403), ("", 403),
                                              ("localhost:1", 200), ("127.0.0.1", 200)])  # fmt: skip
def test_another_site_cannot_ask_through_the_browser(port: int, host: str, status: int) -> None:
    assert ask(port, "/run.json", host=host)[0] == status


def test_a_port_that_is_taken(folder: Path, port: int) -> None:
    with pytest.raises(UserError, match="cannot listen on port"):
        server(Live(folder, 5.0), port)


def test_the_verb_prints_its_address_and_ends_with_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "prefloop", "watch", str(folder), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = json.loads(process.stdout.readline())["address"]
        assert address.startswith(f"http://{HERE}:") and ask(int(address.split(":")[2].strip("/")))[0] == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0 and process.stdout.read() == ""
