"""The page of one run while it is trained, served to this machine only: read-only, and nothing but that run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

from prefloop.core.errors import UserError
from prefloop.core.files import to_json
from prefloop.report.cells import columns
from prefloop.report.data import Run
from prefloop.report.findings import findings, finished, progress
from prefloop.report.page import render
from prefloop.runs.folder import CONFIG, LOGS, MANIFEST

HERE = "127.0.0.1"
NAMES = (HERE, "localhost")  # by which a browser of this machine may ask: another name is another site's
HTML, JSON, TEXT = "text/html; charset=utf-8", "application/json; charset=utf-8", "text/plain; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
Answer = tuple[HTTPStatus, str, str]  # status, type and text


def page(run: Run, reload: float) -> str:
    """The report's page; it reloads itself until the run is finished."""
    return render(
        [run],
        title=f"{run.method}: {progress(run)}",
        verdict=findings([run]),
        reload=None if finished(run) else reload,
    )


def record(run: Run) -> str:
    """The run as JSON: how far it is, what was found, and its metrics."""
    return to_json(
        {
            "run": run.path.name,
            "method": run.method,
            "progress": progress(run),
            "finished": finished(run),
            "findings": findings([run]),
            "evaluations": run.evaluations,
            "steps": run.steps,
        }
    )


@dataclass
class Live:
    """The answers to a browser; each is made once per state of the records.

    Args:
        folder: the run.
        reload: seconds between two loads of the page.
    """

    folder: Path
    reload: float

    def __post_init__(self) -> None:
        self._lock, self._made = Lock(), dict[str, tuple[Any, Answer]]()

    def answer(self, path: str) -> Answer:
        """The answer to a path; an error is one that says what is wrong."""
        makers: dict[str, tuple[str, Callable[[Run], str]]] = {
            "/": (HTML, partial(page, reload=self.reload)),
            "/run.json": (JSON, record),
        }
        if path not in makers:
            return HTTPStatus.NOT_FOUND, TEXT, "not found: there is / and /run.json\n"
        with self._lock:  # one at a time: a page takes a moment, and more of them take the run's processor
            state = self._state()
            if path not in self._made or self._made[path][0] != state:
                self._made[path] = state, self._answer(*makers[path])
            return self._made[path][1]

    def _answer(self, kind: str, make: Callable[[Run], str]) -> Answer:
        try:
            return HTTPStatus.OK, kind, make(columns([self.folder])[0])
        except UserError as error:
            return HTTPStatus.INTERNAL_SERVER_ERROR, TEXT, f"{error}\n"

    def _state(self) -> list[tuple[int, int] | None]:
        """Sizes and times of what is read."""
        files = [self.folder / name for name in (CONFIG, MANIFEST, *(f"{log}.jsonl" for log in LOGS))]
        files.append(self.folder / "final")
        found = [file.stat() if file.exists() else None for file in files]
        return [None if one is None else (one.st_size, one.st_mtime_ns) for one in found]


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD, and nothing that another site could have sent through the user's browser."""

    server_version, sys_version = "prefloop", ""
    timeout = 30  # seconds; a connection that says nothing is closed

    def __init__(self, live: Live, *args: Any) -> None:
        self._live = live
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.headers.get("Host", "").partition(":")[0]
        wrong = HTTPStatus.FORBIDDEN, TEXT, "only this machine may ask, by its own name\n"
        status, kind, text = self._live.answer(self.path.partition("?")[0]) if name in NAMES else wrong
        data = text.encode("utf-8")
        self.send_response(status)
        for header, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no error; anything else is answered above."""


def server(live: Live, port: int) -> ThreadingHTTPServer:
    """A server of the loopback interface; its `serve_forever` serves.

    Args:
        port: 0 takes any free one.

    Raises:
        UserError: the port is taken.
    """
    try:
        return _Server((HERE, port), partial(_Handler, live))
    except OSError as error:
        what = f"cannot listen on port {port}: {error.strerror}"
        raise UserError(what, where="--port", fix="take another one, or 0 for any that is free") from error
