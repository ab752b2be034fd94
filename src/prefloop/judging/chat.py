"""A model behind the OpenAI protocol (`/chat/completions`): retries, timeouts, a cache on disk, and what it cost."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from prefloop.core.errors import DataError, UserError
from prefloop.core.files import digest, write

Message = dict[str, str]
RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)  # states of a server that may pass
OF_A_PROMPT = (400, 413, 422)  # too long, or filtered, if the server has answered other requests
REFUSED = {
    400: "the server does not understand the request",
    401: "the server wants an API key",
    403: "the server refuses the API key",
    404: "the server has no such model or address",
}


@dataclass
class Spent:
    """What the requests have taken so far."""

    requests: int = 0
    cached: int = 0
    failed: int = 0  # that no retry has mended
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True)
class Chat:
    """A chat model at an address.

    Args:
        url: base address, such as http://127.0.0.1:8000/v1.
        model: name by which the server knows it.
        key: environment variable that holds the API key; none is sent if it is not set.
        timeout: seconds for one answer.
        retries: further tries of a request that fails, with doubling pauses from `pause` seconds on.
        cache: folder of answers, by a hash of address and request; None keeps none.
        max_tokens: longest answer.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0
    cache: Path | None = None
    max_tokens: int = 512
    spent: Spent = field(default_factory=Spent, compare=False)
    lock: Lock = field(default_factory=Lock, compare=False, repr=False)
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            fix = "such as http://127.0.0.1:8000/v1"
            raise UserError(f"`{self.url}` is not the address of a server", where="--judge-url", fix=fix)

    def answer(self, messages: Sequence[Message]) -> str | None:
        """The text of an answer at temperature 0; None if the server gives none after all tries.

        Raises:
            UserError: the server is not there, or refuses the key, the model or the request.
        """
        request = {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.max_tokens}
        place = None if self.cache is None else self.cache / f"{digest([self.url, request])}.json"
        if place is not None and (known := _cached(place)) is not None:
            self._count(cached=1)
            return _text(known)
        reply = self._reply(request)
        if reply is None:
            self._count(failed=1)
            return None
        self._count(requests=1, tokens_in=_used(reply, "prompt_tokens"), tokens_out=_used(reply, "completion_tokens"))
        if place is not None:
            write(place, json.dumps({"request": request, "reply": reply}, ensure_ascii=False))
        return _text(reply)

    def _reply(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What the server sends, tried again while that may help."""
        for attempt in range(self.retries + 1):
            if attempt:
                self.sleep(self.pause * 2 ** (attempt - 1))
            try:
                with urllib.request.urlopen(self._posted(request), timeout=self.timeout) as answer:
                    reply = json.load(answer)
                if isinstance(reply, dict) and _text(reply) is not None:
                    return reply
            except urllib.error.HTTPError as error:
                if error.code in OF_A_PROMPT and self.spent.requests:
                    return None
                if error.code not in RETRIED:
                    raise self._refusal(error) from error
            except (OSError, http.client.HTTPException, ValueError) as error:
                if isinstance(getattr(error, "reason", error), ConnectionRefusedError) and not self.spent.requests:
                    what = f"no server answers at {self.url}"
                    raise UserError(what, where="--judge-url", fix="start it, or correct the address") from error
        return None

    def _posted(self, request: dict[str, Any]) -> urllib.request.Request:
        key = os.environ.get(self.key)
        body, address = json.dumps(request).encode(), f"{self.url.rstrip('/')}/chat/completions"
        posted = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        if key:
            posted.add_unredirected_header("Authorization", f"Bearer {key}")  # another host must not see it
        return posted

    def _refusal(self, error: urllib.error.HTTPError) -> UserError:
        said = " ".join(error.read().decode(errors="replace").split())[:300]
        what = REFUSED.get(error.code, f"the server answers with status {error.code}")
        fix = f"set ${self.key}" if error.code in (401, 403) else "correct --judge and --judge-url"
        return UserError(f"{what}: {said}" if said else what, where=self.url, fix=fix)

    def _count(self, **more: int) -> None:
        with self.lock:
            for name, n in more.items():
                setattr(self.spent, name, getattr(self.spent, name) + int(n))


def _text(reply: dict[str, Any]) -> str | None:
    """The text of a reply; None if it has none, or is a refusal."""
    try:
        said = reply["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return None
    return said if isinstance(said, str) else None


def _used(reply: dict[str, Any], key: str) -> int:
    """Tokens that a reply says it took; 0 if the server does not tell."""
    usage = reply.get("usage")
    tokens = usage.get(key) if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _cached(place: Path) -> dict[str, Any] | None:
    """The reply of an earlier request.

    Raises:
        DataError: a file that is not one.
    """
    if not place.is_file():
        return None
    try:
        reply: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))["reply"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not an answer of a judge", where=str(place), fix="remove the file") from error
    return reply
