"""A judge on this machine: answers chat requests as a function says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]  # status, body


class Server(ThreadingHTTPServer):
    """What was asked, by headers and body."""

    daemon_threads = True
    asked: list[tuple[dict[str, str], dict[str, Any]]]
    reply: Callable[[dict[str, Any], int], Reply]


def says(text: str | None) -> Reply:
    """An answer in the OpenAI protocol."""
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((dict(self.headers), body))
        status, reply = self.server.reply(body, len(self.server.asked))
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client has stopped waiting

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def judge(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[tuple[str, Server]]:
    """A server, its address, and what it was asked."""
    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.reply = [], reply
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", server
    finally:
        server.shutdown()
        server.server_close()


def better(word: str) -> Callable[[dict[str, Any], int], Reply]:
    """A judge that prefers the answer with a word, and ties otherwise."""

    def reply(body: dict[str, Any], number: int) -> Reply:
        text = next(m["content"] for m in body["messages"] if m["role"] == "user")
        a, b = text.split("[Answer B]")
        has = (word in a.split("[Answer A]")[1], word in b)
        mark = "C" if has[0] == has[1] else "A" if has[0] else "B"
        return says(f"One is better.\n[[{mark}]]")

    return reply
