"""Connections that end when their time is over, whatever the other side sends meanwhile.

httpx bounds the wait for the next bytes alone: a server that sends one byte now and then, a header without end or
interim answers would keep a question in flight for hours. Here every read looks at the clock of the whole question, and
whether anybody still waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any, Final

import httpcore
import httpx

_SLICE_S: Final = 0.5  # how long a read waits before it looks again


class Clock:
    """Until when the question of this thread may take, and whether all of them have to stop."""

    def __init__(self) -> None:
        self._of = threading.local()
        self._stopped = threading.Event()

    def begin(self, seconds: float) -> None:
        """A question begins in this thread."""
        self._of.until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left to the question; 0 at the least."""
        if self._stopped.is_set():
            return 0.0
        until: float = getattr(self._of, "until", float("inf"))
        return max(0.0, until - time.monotonic())

    def stop(self) -> None:
        """No question of any thread is waited for any longer."""
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but not longer than anybody waits for it."""
        self._stopped.wait(seconds)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()


def make_punctual(client: httpx.Client, clock: Clock) -> None:
    """Have all connections of ``client``, those through proxies too, look at ``clock``."""
    for transport in [client._transport, *client._mounts.values()]:
        pool = getattr(transport, "_pool", None)
        if isinstance(pool, httpcore.ConnectionPool):
            pool._network_backend = _Backend(pool._network_backend, clock)


class _Backend(httpcore.NetworkBackend):
    """Opens connections as ``inner`` does."""

    def __init__(self, inner: httpcore.NetworkBackend, clock: Clock) -> None:
        self._inner, self._clock = inner, clock

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """See httpcore."""
        opened = self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(opened, self._clock)

    def sleep(self, seconds: float) -> None:
        """See httpcore."""
        self._clock.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, inner: httpcore.NetworkStream, clock: Clock) -> None:
        self._inner, self._clock = inner, clock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore. Raises ReadTimeout after ``timeout``, or when the question's time is over."""
        until = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (left := min(self._clock.left(), until - time.monotonic())) > 0:
            try:
                return self._inner.read(max_bytes, min(left, _SLICE_S))
            except httpcore.ReadTimeout:
                continue
        raise httpcore.ReadTimeout("the time of the question is over")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """See httpcore."""
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        """See httpcore."""
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        """See httpcore."""
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._clock)

    def get_extra_info(self, info: str) -> Any:
        """See httpcore."""
        return self._inner.get_extra_info(info)
