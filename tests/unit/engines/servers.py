"""Servers on this machine that speak the dialects, each with a model that is a table: what it answers is known exactly.

A server is given faults by name; what they do stands where they are looked up.
"""

import json
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

import numpy as np

VOCABULARY = 259  # of the byte-level tokenizer in tests/conftest.py


class Table:
    """log p of the next token by the last one. Two seeds are two models."""

    def __init__(self, seed=0):
        logits = 2.0 * np.random.default_rng(seed).standard_normal((VOCABULARY, VOCABULARY))
        self.rows = logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def scores(self, tokens):
        """log p of all tokens but the first."""
        return [float(self.rows[one, two]) for one, two in pairwise(tokens)]

    def of(self, context, continuation):
        return sum(self.scores([*context, *continuation])[len(context) - 1 :])

    def top(self, tokens, count):
        row = self.rows[tokens[-1]]
        return [(int(at), float(row[at])) for at in np.argsort(-row)[:count]]

    def greedy(self, tokens, count, ends=()):
        found = []
        while len(found) < count and not (found and found[-1] in ends):
            found.append(self.top([*tokens, *found], 1)[0][0])
        return found


class Refusal(Exception):
    def __init__(self, status, words):
        super().__init__(words)
        self.status, self.words = status, words


class Server:
    """``faults``: of this server. ``calls``: paths that were asked, in order."""

    def __init__(self, dialect, tokenizer, faults=()):
        self.dialect, self.tokenizer, self.faults = dialect, tokenizer, set(faults)
        self.table, self.calls, self.headers, self.lock = Table(), [], [], threading.Lock()
        self.name = "tiny"
        self.scored = 0
        self.most = self.flying = 0

    def has(self, fault):
        return fault in self.faults

    # --- what every dialect is made of ------------------------------------------------------------------------------

    def read(self, prompt):
        """Token ids of a prompt as this server takes them."""
        if isinstance(prompt, list):
            if self.has("text only"):
                raise Refusal(400, "prompt must be a string")
            return prompt
        ids = self.tokenizer.encode(prompt, add_special_tokens=False)
        if self.has("another tokenizer"):
            ids = ids[::2]
        return [*ids[:1], *ids] if self.has("BOS twice") else ids

    def value(self, value):
        """A log-probability as it is written into the reply."""
        if self.has("all zero"):
            return 0.0
        if self.has("positive"):
            return -value
        if self.has("jitter"):
            return value - abs(float(np.random.default_rng().normal(0, 1.0)))
        if self.has("nan"):
            return float("nan")
        if self.has("strings"):
            return str(value)
        if self.has("shifted"):
            return value - 0.5
        return -9999.0 if self.has("minus infinity") else value

    def said(self, tokens, count, ends=()):
        if self.has("temperature ignored"):
            return [int(each) for each in np.random.default_rng().integers(0, 200, count)]
        return self.table.greedy(tokens, count, ends)

    def text(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def swap(self):
        """Exchange the model: its name too, unless it is done in silence."""
        self.table = Table(1)
        if not self.has("silent"):
            self.name = "other"

    # --- one request -------------------------------------------------------------------------------------------------

    def answer(self, path, body):
        if body is not None:
            with self.lock:
                self.scored += path not in ("/tokenize", "/detokenize")
                if self.has("swap") and self.scored == 30:
                    self.swap()
        if self.has("wants a key"):
            raise Refusal(401, "a key, please")
        found = ROUTES[self.dialect].get(path)
        if found is None:
            raise Refusal(404, "not found")
        return found(self, body)

    # --- faults of the line -------------------------------------------------------------------------------------------

    def spoilt(self, path):
        """What the line does to this reply: None, a status, or the name of what happens."""
        with self.lock:
            self.calls.append(path)
            turn = len(self.calls)
        if path not in SCORING:
            return None
        for fault, status in (("429 now and then", 429), ("500 now and then", 500), ("503 now and then", 503)):
            if self.has(fault) and turn % 5 == 0:
                return status
        for fault, status in (("429 for ever", 429), ("500 for ever", 500), ("401", 401)):
            if self.has(fault):
                return status
        for fault in ("cut off", "no JSON"):
            if self.has(f"{fault} now and then") and turn % 5 == 0:
                return fault
            if self.has(f"{fault} for ever"):
                return fault
        if self.has("slow now and then") and turn % 40 == 0:
            time.sleep(0.6)
        return None


SCORING = {"/completion", "/v1/completions", "/generate", "/api/generate"}


def llama_props(server, body):
    return {
        "default_generation_settings": {"n_ctx": 512},
        "model_path": f"/models/{server.name}.gguf",
        "build_info": "b1",
    }


def llama_completion(server, body):
    tokens = server.read(body["prompt"])
    bias = dict(map(tuple, body.get("logit_bias", [])))
    ids = server.said(tokens, body["n_predict"])
    if bias and not server.has("bias ignored"):
        ids = [*bias]
    reply = {"model": server.name, "tokens": ids, "content": server.text(ids), "stop_type": "limit", "truncated": False}
    if count := body.get("n_probs"):
        shown = [{"id": at, "token": server.text([at]), "logprob": server.value(value)}
                 for at, value in server.table.top(tokens, count)]  # fmt: skip
        mine = float(server.table.rows[tokens[-1], ids[0]])
        if bias and server.has("bias counted"):
            mine = 0.0
        chosen = {"id": ids[0], "logprob": server.value(mine), "top_logprobs": shown}
        reply["completion_probabilities"] = [chosen]
    told = {"warm": 1.5, "no temperature": math.nan}
    warm = next((told[fault] for fault in told if server.has(fault)), body.get("temperature", 0.8))
    reply["generation_settings"] = {"temperature": warm}
    reply["tokens_evaluated"] = len(tokens)
    if server.has("truncates"):
        reply["truncated"] = len(tokens) > 40
    return reply


def detokenize(server, body):
    ids = body["tokens"]
    return {"content": server.text(ids[::-1] if server.has("other numbers") else ids)}


def tokenize(server, body):
    return {"tokens": server.tokenizer.encode(body.get("content", body.get("prompt")), add_special_tokens=False)}


def openai_models(server, body):
    owner = "vllm" if server.dialect == "vllm" else "somebody"
    names = [server.name, "second"] if server.has("two models") else [server.name]
    return {"data": [{"id": name, "owned_by": owner, "max_model_len": 512} for name in names]}


def openai_completions(server, body):
    tokens = server.read(body["prompt"])
    ends = body.get("stop_token_ids", ())
    ids = server.said(tokens, max(1, body["max_tokens"]), ends)
    done = bool(ids) and ids[-1] in ends
    choice = {"text": server.text(ids[:-1] if done else ids), "finish_reason": "stop" if done else "length"}
    if "return_token_ids" in body:
        choice["token_ids"] = ids
    if "prompt_logprobs" in body and server.dialect == "vllm":
        rows = [None]
        for one, two, value in zip(tokens, tokens[1:], server.table.scores(tokens), strict=False):
            best, top = server.table.top([one], 1)[0]
            rows.append({str(best): {"logprob": server.value(top)}, str(two): {"logprob": server.value(value)}})
        choice["prompt_logprobs"] = rows[:-1] if server.has("one too few") else rows
    if "logprobs" in body and not server.has("no logprobs"):
        choice["logprobs"] = openai_logprobs(server, body, tokens, ids)
    print_as = "tiny-2" if server.has("swap") and server.name == "other" else body["model"]
    reply = {"model": print_as, "choices": [choice]}
    if not server.has("no usage"):
        reply["usage"] = {"prompt_tokens": len(tokens), "completion_tokens": len(ids)}
    return reply


def openai_logprobs(server, body, tokens, ids):
    count = min(body["logprobs"], 2 if server.has("top-k too short") else 20)
    named = (lambda at: f"token_id:{at}") if body.get("return_tokens_as_token_ids") else (lambda at: server.text([at]))
    tops = [{named(at): server.value(value) for at, value in server.table.top(tokens, count)}]
    values = [server.value(float(server.table.rows[tokens[-1], ids[0]]))]
    if server.has("new shape"):
        shown = [{"token": name, "logprob": value} for name, value in tops[0].items()]
        return {"content": [{"token": server.text(ids[:1]), "logprob": values[0], "top_logprobs": shown}]}
    if body.get("echo") and not server.has("echo ignored"):
        mine = [server.value(value) for value in server.table.scores(tokens)]
        best = [{"best": server.value(server.table.top([at], 1)[0][1])} for at in tokens[:-1]]
        values, tops = [None, *mine, *values], [None, *best, *tops]
    return {"token_logprobs": values, "top_logprobs": tops}


def sglang_info(server, body):
    return {"model_path": f"org/{server.name}", "is_generation": True, "tokenizer_path": "org/tiny"}


def sglang_generate(server, body):
    tokens = server.read(body["input_ids"])
    sampling = body["sampling_params"]
    ids = server.said(tokens, sampling["max_new_tokens"], sampling.get("stop_token_ids", ()))
    start = body["logprob_start_len"]
    reason = "stop" if ids[-1:] and ids[-1] in sampling.get("stop_token_ids", ()) else "length"
    meta = {"prompt_tokens": len(tokens), "completion_tokens": len(ids), "finish_reason": {"type": reason}}
    if start >= 0:
        values = [None, *[server.value(value) for value in server.table.scores(tokens)]]
        rows = [[value, at, server.text([at])] for value, at in zip(values, tokens, strict=True)][start:]
        rows[0][0] = None
        meta["input_token_logprobs"] = [[row[0], (row[1] + 1) % 200, row[2]] for row in rows] if server.has(
            "other ids") else rows  # fmt: skip
        best = [[[server.value(value), at, None]] for at, value in (server.table.top([each], 1)[0] for each in tokens)]
        meta["input_top_logprobs"] = [None, *best[:-1]][start:]
    if "top_logprobs_num" in body:
        tops = server.table.top(tokens, max(1, body["top_logprobs_num"]))
        meta["output_top_logprobs"] = [[[server.value(value), at, None] for at, value in tops]]
    meta["output_token_logprobs"] = [[-1.0, at, None] for at in ids]
    return {"text": server.text(ids), "meta_info": meta}


def tgi_info(server, body):
    return {"model_id": server.name, "max_total_tokens": 512, "version": "3.3"}


def tgi_generate(server, body):
    tokens, parameters = server.read(body["inputs"]), body["parameters"]
    ids = server.said(tokens, parameters["max_new_tokens"])
    values = [None, *[server.value(value) for value in server.table.scores(tokens)]]
    rows = [{"id": at, "text": server.text([at]), "logprob": value} for at, value in zip(tokens, values, strict=True)]
    wanted = parameters.get("decoder_input_details") and not server.has("details ignored")
    made = [{"id": at, "text": server.text([at]), "logprob": -1.0, "special": False} for at in ids]
    details = {"prefill": rows if wanted else [], "tokens": made, "finish_reason": "length"}
    if count := parameters.get("top_n_tokens"):
        tops = server.table.top(tokens, count)
        details["top_tokens"] = [[{"id": at, "text": "", "logprob": server.value(value)} for at, value in tops]]
    return {"generated_text": server.text(ids), "details": details}


def ollama_tags(server, body):
    return {"models": [{"name": server.name, "digest": "d" * 64, "details": {"quantization_level": "Q4_K_M"}}]}


def ollama_generate(server, body):
    tokens = server.read(body["prompt"])
    tokens = tokens[-40:] if server.has("truncates") else tokens
    ids = server.said(tokens, body["options"]["num_predict"])
    reply = {"model": server.name, "response": server.text(ids), "done": True, "done_reason": "length",
             "prompt_eval_count": len(tokens), "eval_count": len(ids)}  # fmt: skip
    if body.get("logprobs") and not server.has("no logprobs"):
        tops = server.table.top(tokens, body["top_logprobs"])
        shown = [{"token": server.text([at]), "logprob": server.value(value)} for at, value in tops]
        reply["logprobs"] = [{"token": server.text(ids[:1]), "logprob": shown[0]["logprob"], "top_logprobs": shown}]
    return reply


OPENAI = {"/v1/models": openai_models, "/v1/completions": openai_completions}
ROUTES = {
    "llama.cpp": {
        "/props": llama_props, "/completion": llama_completion, "/tokenize": tokenize, "/detokenize": detokenize,
    },
    "vllm": OPENAI | {"/version": lambda server, body: {"version": "0.32.0"}, "/tokenize": tokenize,
                      "/detokenize": lambda server, body: {"prompt": detokenize(server, body)["content"]}},
    "openai": OPENAI,
    "lmstudio": OPENAI | {"/api/v0/models": lambda server, body: {"data": [{"id": server.name, "quantization": "4b"}]}},
    "sglang": {"/get_model_info": sglang_info, "/generate": sglang_generate},
    "tgi": {"/info": tgi_info, "/generate": tgi_generate},
    "ollama": {"/api/version": lambda server, body: {"version": "0.12.11"}, "/api/tags": ollama_tags,
               "/api/generate": ollama_generate},
    "nothing": {},
}  # fmt: skip


@contextmanager
def serving(dialect, tokenizer, *faults, port=0):
    """A running server with its ``address``."""
    server = Server(dialect, tokenizer, faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = -1, True  # a reply is one write: in two it would wait for the client

        def do_GET(self):
            self.reply(None)

        def do_POST(self):
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body):
            server.headers.append(dict(self.headers))
            spoilt = server.spoilt(self.path)
            try:
                status, content = 200, server.answer(self.path, body)
            except Refusal as refusal:
                status, content = refusal.status, {"error": {"message": refusal.words}}
            if isinstance(spoilt, int):
                told = self.headers.get("Authorization", "no key")
                status, content = spoilt, {"error": {"message": f"not now, {told}"}}
            data = b"<html>" if spoilt == "no JSON" else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:-5] if spoilt == "cut off" else data)
            if spoilt == "cut off":
                self.close_connection = True

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
