"""The judge's endpoint is another machine: its replies and the cache of them are read within bounds, and checked."""

import json
import resource
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from quantgate.core.errors import UsageError
from quantgate.tasks.llm_judge import Judge

GOOD = json.dumps({"choices": [{"message": {"content": "['YES']"}}]}).encode()


@pytest.fixture
def endpoint():
    """A server on this machine whose next reply is ``reply``: pieces of a body, sent one after the other."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked += 1
            self.send_response(200)
            self.end_headers()
            try:
                for piece in server.reply:
                    self.wfile.write(piece)
            except (BrokenPipeError, ConnectionResetError):
                pass

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply = 0, [GOOD]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def judge(endpoint, tmp_path, monkeypatch):
    """A judge that is given up at its first reply without a text."""
    monkeypatch.setattr("quantgate.tasks.llm_judge._NO_JUDGE_AFTER", 1)
    return Judge(f"http://127.0.0.1:{endpoint.server_address[1]}/v1", "m", tmp_path / "judge", pause_s=0.0)


def test_a_reply_is_asked_for_once(judge, endpoint):
    assert [judge.reply("p"), judge.reply("p"), judge.reply("q")] == ["['YES']"] * 3
    assert endpoint.asked == 2


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ([b"[" * 100_000], "nested too deeply"),
        ([b'{"choices": ' + b"[" * 100_000], "nested too deeply"),
        ([b"no JSON"], "no JSON"),
        ([b"\xff\xfe\xfa"], "no JSON"),
        ([b"1" * 5000], "no JSON"),
        ([b'{"choices": []}'], "no choices"),
        ([b'{"choices": {"0": 1}}'], "no choices"),
    ],
)
def test_a_reply_that_is_none(judge, endpoint, reply, words):
    endpoint.reply = reply
    with pytest.raises(UsageError, match=f"gave no reply .*{words}"):
        judge.reply("p")
    assert not list(judge.cache.glob("*"))


def test_an_endless_reply_costs_no_memory(judge, endpoint):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    endpoint.reply = (b"[" * (1 << 20) for _ in range(300))
    with pytest.raises(UsageError, match="a reply of more than 4194304 bytes"):
        judge.reply("p")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


@pytest.mark.parametrize("content", [b"{", b"[]", b"[" * 100_000, b'{"reply": 3}', b'{"reply": "x"}', b"\xff"])
def test_a_cache_that_does_not_hold_the_reply_is_asked_anew(judge, endpoint, content):
    judge.reply("p")
    [path] = judge.cache.glob("*.json")
    path.write_bytes(content)
    assert judge.reply("p") == "['YES']"
    assert endpoint.asked == 2
    assert json.loads(path.read_text())["prompt"] == "p"


def test_an_address_that_is_none(tmp_path):
    with pytest.raises(UsageError, match="gave no reply"):
        Judge("http://[::1", "m", tmp_path, pause_s=0.0).reply("p")
