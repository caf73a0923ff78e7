"""Servers that mean harm, or are broken in ways nobody thought of: a sentence, in bounded time, and no key in it."""

import json
import random
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from quantgate.core.errors import EngineError, QuantgateError, UsageError
from quantgate.core.progress import Silent
from quantgate.core.remote import Manners, Remote, RemoteError
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.http.flight import Flight
from quantgate.engines.http.lines import NotOfferedError, number
from quantgate.engines.http.probe import probe
from quantgate.engines.http.row import HttpRow
from quantgate.engines.protocol import Job, Setting
from tests.unit.engines.servers import Refusal, Server

DIALECTS = ["llama.cpp", "vllm", "openai", "lmstudio", "sglang", "tgi", "ollama"]
HOSTILE = [None, True, 0, -1, 1.5, 10**400, float("nan"), float("inf"), "", "text", "\x1b[31m", [], [[]], {}, {"": {}},
           [None], -7, 2**70]  # fmt: skip
KEY = "sk-0123456789abcdef"


class Direct(Remote):
    """Asks a `Server` without a line between; ``spoil`` may change every reply."""

    def __init__(self, server, spoil=lambda path, reply: reply):
        super().__init__("http://here", "candidate 'mine'", ("QG_TEST_KEY",), Manners(attempts=2, pause_s=0.0))
        self.server, self.spoil = server, spoil

    def _once(self, method, path, body):
        try:
            reply = self.server.answer(path, None if body is None else json.loads(json.dumps(body)))
        except Refusal as refusal:
            raise self._refused(refusal.status, refusal.words) from refusal
        return json.dumps(self.spoil(path, reply)).encode()

    def _wait(self, seconds):
        """A reply that is no JSON (a number that no float holds) is asked for again at once."""


def mutated(reply, draw):
    """``reply`` with one value at any depth exchanged for a hostile one, or left out."""
    holder = [reply]
    at, within = 0, holder
    while True:
        inner = within[at]
        keys = list(inner) if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        if not keys or draw.random() < 0.25:
            break
        within, at = inner, draw.choice(list(keys))
    if within is not holder and draw.random() < 0.2:
        del within[at]
    else:
        within[at] = draw.choice(HOSTILE)
    return holder[0]


def asked(found, tokenizer):
    def ids(text):
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    requests = [Likelihood(ids("Is it?"), ids(" yes")), Likelihood(ids("Is it?"), ids(" y"))]
    requests += [Rolling(ids("A text.")), Generate(ids("Say it:"), 6, ("\n",), (3,))]
    row = HttpRow(found)
    for request in requests:
        if not row.capabilities.lacking([request], compared=False):
            row.open(None, None, Setting()).run([request], lambda at, response: None, Job("mine", Silent()))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_whatever_a_reply_holds_it_is_answered_or_refused(dialect, tokenizer):
    for seed in range(24):
        draw = random.Random(seed)
        server, first = Server(dialect, tokenizer), draw.randrange(40)
        count = [0]

        def spoil(path, reply, draw=draw, first=first, count=count):
            count[0] += 1
            return mutated(reply, draw) if count[0] == first or (count[0] > first and draw.random() < 0.1) else reply

        with suppress(QuantgateError):
            asked(probe(Direct(server, spoil), "", tokenizer), tokenizer)


def test_the_facts_of_a_server_are_fit_for_a_record(tokenizer):
    def spoil(path, reply):
        if path == "/version":
            return {"version": "1\x1b[2J" + "9" * 1000}
        if path == "/v1/models":
            reply["data"][0] |= {"root": "a\u202eb", "max_model_len": 10**300}
        return reply

    found = probe(Direct(Server("vllm", tokenizer), spoil), "", tokenizer)
    record = found.as_record()
    assert record["version"].startswith("1\\x1b[2J9")
    assert len(record["version"]) <= 200
    assert record["root"] == r"a\u202eb"
    assert "context" not in record
    server = Server("vllm", tokenizer)
    server.name = "x\x1b[31m"
    with pytest.raises(EngineError, match=r"its model calls itself 'x\\\\x1b\[31m'"):
        probe(Direct(server), "", tokenizer)


@pytest.mark.parametrize("value", [0.5, float("inf"), float("nan"), 10**400, True, "-1", None])
def test_what_is_no_log_probability(value):
    with pytest.raises(NotOfferedError, match="log-probability"):
        number(value)


def test_what_rounding_makes_of_a_certain_token_is_certain():
    assert (number(1e-6), number(0), number(-(10**400)), number(-9999.0)) == (0.0, 0.0, -float("inf"), -float("inf"))


def test_one_value_above_0_in_an_answer_is_no_answer_although_the_sum_is_below(tokenizer):
    on = []

    def spoil(path, reply):
        if on and path == "/v1/completions" and "prompt_logprobs" in reply["choices"][0]:
            rows = reply["choices"][0]["prompt_logprobs"]
            for each in rows[-1].values():
                each["logprob"] = 1.5
        return reply

    found = probe(Direct(Server("vllm", tokenizer), spoil), "", tokenizer)
    on.append(True)
    with pytest.raises(RemoteError, match=r"a log-probability of 1\.5, above 0"):
        asked(found, tokenizer)


CAPPED = {
    "llama.cpp": lambda reply: reply | {"tokens": reply["tokens"][:3]},
    "vllm": lambda reply: {**reply, "choices": [{**reply["choices"][0], "token_ids": [1, 2, 3]}]},
    "openai": lambda reply: reply | {"usage": reply["usage"] | {"completion_tokens": 3}},
    "sglang": lambda reply: reply["meta_info"].update(output_token_logprobs=[[-1.0, 5, None]] * 3) or reply,
    "tgi": lambda reply: reply["details"].update(tokens=reply["details"]["tokens"][:3]) or reply,
    "ollama": lambda reply: reply | {"eval_count": 3},
}


@pytest.mark.parametrize("dialect", CAPPED)
def test_an_answer_that_a_cap_of_the_server_cut_is_none(dialect, tokenizer):
    on = []
    scoring = ("/completion", "/v1/completions", "/generate", "/api/generate")
    spoil = lambda path, reply: CAPPED[dialect](reply) if on and path in scoring else reply  # noqa: E731
    found = probe(Direct(Server(dialect, tokenizer), spoil), "", tokenizer)
    on.append(True)
    request = Generate(tuple(tokenizer.encode("Say it:", add_special_tokens=False)), 6, (), ())
    with pytest.raises(NotOfferedError, match="it cut an answer short: 3 tokens where 6 were asked for"):
        found.dialect.generate(found.line, request)


def test_another_prompt_than_the_one_that_was_sent_has_no_score(tokenizer):
    spoil = lambda path, reply: reply | {"tokens_evaluated": 7} if path == "/completion" else reply  # noqa: E731
    with pytest.raises(EngineError, match="it read 7 tokens where"):
        probe(Direct(Server("llama.cpp", tokenizer), spoil), "", tokenizer)


def test_as_many_are_in_flight_as_the_server_says_it_works_on(tokenizer):
    spoil = lambda path, reply: reply | {"total_slots": 3} if path == "/props" else reply  # noqa: E731
    found = probe(Direct(Server("llama.cpp", tokenizer), spoil), "", tokenizer)
    flight = HttpRow(found).open(None, None, Setting()).flight
    assert (flight.limit, flight.most, flight.settled) == (3, 3, True)


# --- the line --------------------------------------------------------------------------------------------------------


@contextmanager
def raw(reply):
    """A server that answers every connection with what ``reply(socket)`` does."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def one(line):
        with suppress(OSError), line:
            line.recv(65536)
            reply(line, ended)

    def serve():
        with suppress(OSError):
            while True:
                threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def dripping(start, piece):
    def reply(line, ended):
        line.sendall(start)
        while not ended.wait(0.05):
            line.sendall(piece)

    return reply


DRIPS = {
    "a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" "),
    "a header": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a body in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


@pytest.mark.parametrize("what", DRIPS)
def test_what_comes_drop_by_drop_ends(what):
    with raw(dripping(*DRIPS[what])) as address:
        remote = Remote(address, "the server", (), Manners(attempts=1, pause_s=0.0, timeout_s=0.6))
        with pytest.raises(RemoteError, match=r"no whole reply within 0\.6 s"):
            remote.post("/x", {})


def told(body, *headers):
    def reply(line, ended):
        lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), b"Connection: close", *headers]
        line.sendall(b"\r\n".join([*lines, b"", body]))

    return reply


def test_a_compressed_reply_is_not_unpacked():
    with (
        raw(told(b"\x1f\x8b\x08", b"Content-Encoding: gzip")) as address,
        pytest.raises(RemoteError, match="compressed"),
    ):
        Remote(address, "the server", (), Manners(attempts=1)).post("/x", {})


def test_another_host_is_not_followed():
    def reply(line, ended):
        line.sendall(b"HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    with raw(reply) as address, pytest.raises(RemoteError, match="status 307 of /x"):
        Remote(address, "the server", (), Manners(attempts=1)).post("/x", {})


@pytest.mark.parametrize("body", [KEY, "".join(f"\\u{ord(letter):04x}" for letter in KEY)], ids=["plain", "escaped"])
def test_a_reply_with_the_key_in_it_is_refused(body, monkeypatch):
    monkeypatch.setenv("QG_TEST_KEY", KEY)
    with raw(told(b'{"text": "%s"}' % body.encode())) as address:
        remote = Remote(address, "the server", ("QG_TEST_KEY",), Manners(attempts=1))
        with pytest.raises(RemoteError, match="sends the key back") as caught:
            remote.post("/x", {})
        assert KEY not in str(caught.value)
        monkeypatch.setenv("QG_TEST_KEY", "text")  # no secret, and a word of many answers
        remote.post("/x", {})


@pytest.mark.parametrize("end", ["\n", " two", "\u00e9", "\r\nX-Other: 1"], ids=ascii)
def test_a_key_that_no_header_can_carry_is_named_and_not_shown(end, monkeypatch):
    monkeypatch.setenv("QG_TEST_KEY", KEY + end)
    with raw(told(b"{}")) as address, pytest.raises(UsageError, match="look at QG_TEST_KEY") as caught:
        Remote(address, "the server", ("QG_TEST_KEY",), Manners(attempts=1)).get("/x")
    assert "0123" not in str(caught.value)


def test_what_is_interrupted_does_not_wait_for_answers():
    with raw(lambda line, ended: ended.wait(60)) as address:
        remote = Remote(address, "the server", (), Manners(attempts=9, pause_s=9.0))
        flight = Flight(lambda: 0, 2, limit=2, stop=remote.stop)

        def interrupt():
            raise KeyboardInterrupt

        def ask():
            with suppress(RemoteError):
                remote.post("/x", {})

        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            flight.run([ask, lambda: None, ask], lambda number, found: interrupt())
        assert time.monotonic() - started < 30
