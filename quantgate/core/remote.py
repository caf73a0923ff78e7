"""Ask another machine over HTTP: bounded replies, retries with back-off, a budget, and keys that no record sees.

Model servers and judges are asked through the one client here. What comes back is JSON or an error with one sentence;
nothing of a reply is believed beyond that. A key comes from the environment alone, goes into a header alone, and is cut
out of whatever a server says about it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

from quantgate.core import reading
from quantgate.core.errors import EngineError, UsageError
from quantgate.core.reading import Unreadable, visible

if TYPE_CHECKING:
    import httpx

    from quantgate.core.punctual import Clock

ATTEMPTS: Final = 9  # over a minute and a half: a server that is started again has to load its model
PAUSE_S: Final = 0.5  # before the second attempt; twice as long before every further one
LONGEST_PAUSE_S: Final = 30.0
TIMEOUT_S: Final = 300.0
CONNECT_S: Final = 10.0
FACTS_S: Final = 30.0  # for what a server says of itself, while it is not known whether there is one
CONNECTIONS: Final = 64
AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which the same question may be answered all the same."""
_SHORTEST_SECRET: Final = 8  # letters
_SHOWN: Final = 200  # letters of what a server says
_SECRET: Final = "<key>"


class RemoteError(EngineError):
    """The machine did not give a usable answer. ``status``: what it said, 0 where it said nothing."""

    status: int = 0

    def at(self, status: int) -> RemoteError:
        """This error, of an answer with ``status``."""
        self.status = status
        return self


class SpentError(EngineError):
    """The budget of the run is used up: what was not asked yet is not asked."""


@dataclass
class Budget:
    """What a run may ask of servers, all of them together; None: as much as it needs. Used from several threads."""

    requests: int | None = None
    tokens: int | None = None
    asked: int = 0
    read: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def limit(self, requests: int | None, tokens: int | None) -> None:
        """Begin anew with these limits."""
        with self._lock:
            self.requests, self.tokens, self.asked, self.read = requests, tokens, 0, 0

    def take(self, who: str) -> None:
        """Count one request. Raises SpentError when none is left."""
        with self._lock:
            for option, most, used in (
                ("--max-requests", self.requests, self.asked),
                ("--max-tokens", self.tokens, self.read),
            ):
                if most is not None and used >= most:
                    raise SpentError(who, f"the budget of {option} {most} is used up", hint=f"give a larger {option}")
            self.asked += 1

    def spend(self, tokens: int) -> None:
        """Count tokens that were read or written."""
        with self._lock:
            self.read += tokens


BUDGET: Final = Budget()
"""That of this process's run."""


def parse_address(text: str, who: str) -> str:
    """An ``http(s)://host[:port][/path]`` without its last slash.

    Raises:
        UsageError: it is no such address, or holds a user, a key or a query, which would end in records.
    """
    wanted = "an address like http://localhost:8000/v1"
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or re.search(r"\s", text):
        raise UsageError(who, "no address", expected=wanted)
    if parts.username or parts.password or parts.query:
        raise UsageError(who, "an address with a user, a key or a query in it", expected=wanted,
                         hint="keys come from the environment (docs/servers.md)")  # fmt: skip
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


@dataclass(frozen=True)
class Manners:
    """How often and how patiently a machine is asked; seconds."""

    attempts: int = ATTEMPTS
    pause_s: float = PAUSE_S
    timeout_s: float = TIMEOUT_S
    most_reply: int = reading.MOST_REPLY * 8


class Remote:
    """One machine. Used from several threads.

    Args:
        base: its address, without a last slash.
        who: for messages.
        keys: environment variables that may hold its key; the first one that is set counts.
        manners: attempts, pauses, bounds.

    ``stop()`` ends what is in flight, for good.
    ``patient``: it answered before, so what it says of itself is asked for as often as anything else.
    """

    def __init__(self, base: str, who: str, keys: tuple[str, ...] = (), manners: Manners | None = None) -> None:
        self.base, self.who, self.keys = base, who, keys
        self.manners = manners or Manners()
        self.patient = False
        self.complaints = 0
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None
        self._clock: Clock | None = None

    def get(self, path: str) -> Any:
        """The JSON at ``path``, asked for once unless the machine is known to be there. Raises RemoteError."""
        return self._asked("GET", path, None, self.manners.attempts if self.patient else 1, self._parsed)

    def stop(self) -> None:
        """Nobody waits for answers any more: what is in flight ends within a second, and nothing is asked again."""
        self._client()
        assert self._clock is not None
        self._clock.stop()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that ``path`` answers to ``body``; asked again where that may help.

        Raises:
            RemoteError: no answer, a refusal, or one that is no JSON.
        """
        return self._asked("POST", path, body, self.manners.attempts, self._parsed)

    def read(self, path: str, body: Mapping[str, Any]) -> bytes:
        """What ``path`` answers to ``body``, whatever it is; as `post`."""
        found: bytes = self._asked("POST", path, body, self.manners.attempts, lambda content, _: content)
        return found

    def _asked(
        self, method: str, path: str, body: Mapping[str, Any] | None, attempts: int, read: Callable[[bytes, str], Any]
    ) -> Any:
        for attempt in range(1, attempts + 1):
            try:
                return read(self._once(method, path, body), path)
            except _PassingError as error:
                with self._lock:
                    self.complaints += 1
                if attempt == attempts or self._stopped():
                    often = f", asked {attempt} times" if attempt > 1 else ""
                    raise RemoteError(
                        self.who, f"{error.words}{often}", expected="an answer",
                        hint="look whether the server runs; answers so far are kept, so run again",
                    ).at(error.status) from error  # fmt: skip
                self._wait(self._pause(attempt, error.wait))
        raise AssertionError("at least one attempt")

    def _pause(self, attempt: int, wait: float) -> float:
        """Twice as long every time, with room for chance, so that many clients do not come back together."""
        usual: float = self.manners.pause_s * 2 ** (attempt - 1)
        return min(LONGEST_PAUSE_S, max(wait if self.manners.pause_s else 0.0, usual * random.uniform(0.75, 1.25)))

    def _once(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        import httpx

        content = bytearray()
        seconds = self.manners.timeout_s if body is not None or self.patient else min(FACTS_S, self.manners.timeout_s)
        try:
            client, headers = self._client(), self._headers()
            assert self._clock is not None
            self._clock.begin(seconds)
            with client.stream(
                method, f"{self.base}{path}", headers=headers, content=None if body is None else _bytes(body)
            ) as response:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise self._refused(response.status_code, "a reply that is compressed, which was not asked for")
                for piece in response.iter_raw():
                    content += piece
                    if len(content) > self.manners.most_reply:
                        raise self._refused(
                            response.status_code, f"a reply of more than {self.manners.most_reply} bytes"
                        )
        except httpx.ReadTimeout as error:
            raise _PassingError(f"no whole reply within {seconds:g} s") from error
        except (httpx.TransportError, httpx.InvalidURL, httpx.DecodingError) as error:
            raise _PassingError(self.shown(f"{type(error).__name__}: {error}".rstrip(": "))) from error
        self._check(response, bytes(content), path)
        return bytes(content)

    def _stopped(self) -> bool:
        return self._clock is not None and self._clock.stopped

    def _wait(self, seconds: float) -> None:
        assert self._clock is not None
        self._clock.sleep(seconds)

    def _check(self, response: httpx.Response, content: bytes, path: str) -> None:
        status = response.status_code
        if status in AGAIN:
            raise _PassingError(f"status {status} of {path}{self._said(content)}", status, _wait(response))
        if not 200 <= status < 300:
            raise self._refused(status, f"status {status} of {path}{self._said(content)}")
        self._check_silent(content, path)

    def _check_silent(self, content: bytes, path: str) -> None:
        """Refuse a reply with the key in it: it would end in records. Short keys are no secrets, and may be words."""
        key = self._key()
        if len(key) < _SHORTEST_SECRET:
            return
        told = content
        if b"\\" in content:  # escapes may hide it
            with contextlib.suppress(Unreadable):
                told = json.dumps(reading.parse_json(content, self.manners.most_reply), ensure_ascii=False).encode(
                    "utf-8", "replace"
                )
        if key.encode() in content or json.dumps(key, ensure_ascii=False)[1:-1].encode() in told:
            raise self._refused(0, f"{path} sends the key back, which would end in records")

    def _parsed(self, content: bytes, path: str) -> Any:
        try:
            return reading.parse_json(content, self.manners.most_reply)
        except Unreadable as error:
            raise _PassingError(f"no JSON from {path} ({self.shown(str(error))})") from error

    def _said(self, content: bytes) -> str:
        """What a server says about its refusal, in brackets."""
        try:
            found = reading.parse_json(content)
        except Unreadable:
            found = content.decode("utf-8", "replace").strip()
        for _ in range(2):
            if isinstance(found, dict):
                found = next((found[name] for name in ("error", "message", "detail") if name in found), "")
        return f" ({self.shown(found)})" if isinstance(found, str) and found else ""

    def _refused(self, status: int, words: str) -> RemoteError:
        return RemoteError(self.who, words, expected="an answer", hint="look into the server's own log").at(status)

    def shown(self, text: str) -> str:
        """What a server said, fit for a record: short, harmless, and without the key."""
        if key := self._key():
            text = text.replace(key, _SECRET)
        text = visible(" ".join(text.split()))
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

    def _key(self) -> str:
        return next((found for name in self.keys if (found := os.environ.get(name, ""))), "")

    def _headers(self) -> dict[str, str]:
        plain = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        key = self._key()
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise UsageError(
                self.who, "its key holds a space, a line end or a letter that no header can carry",
                expected="a key of plain letters", hint=f"look at {' and '.join(self.keys)} in the environment",
            )  # fmt: skip
        return plain | ({"Authorization": f"Bearer {key}"} if key else {})

    def _client(self) -> httpx.Client:
        import httpx

        from quantgate.core.punctual import Clock, make_punctual

        with self._lock:
            if self._opened is None:
                limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
                timeout = httpx.Timeout(self.manners.timeout_s, connect=min(CONNECT_S, self.manners.timeout_s))
                certificates = self.base.startswith("https")  # reading them takes as long as 20 questions
                self._opened = httpx.Client(timeout=timeout, limits=limits, verify=certificates)
                self._clock = self._clock or Clock()
                make_punctual(self._opened, self._clock)
                weakref.finalize(self, self._opened.close)
            return self._opened

    def close(self) -> None:
        """Let go of the connections; the next question opens new ones."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


class _PassingError(Exception):
    """Something that may be over when the same is asked again."""

    def __init__(self, words: str, status: int = 0, wait: float = 0.0) -> None:
        super().__init__(words)
        self.words, self.status, self.wait = words, status, wait


def _bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def _wait(response: httpx.Response) -> float:
    """Seconds that the server asks for; 0 where it names none."""
    found = response.headers.get("Retry-After", "")
    return min(LONGEST_PAUSE_S, float(found)) if re.fullmatch(r"\d{1,4}(\.\d{1,3})?", found) else 0.0
