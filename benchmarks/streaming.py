"""A model that does not fit into memory: peak memory and time of quantizing and scoring it, beside the same with room.

    python benchmarks/streaming.py --out DIR [--gib 8] [--limit-gib 3] [--methods rtn4,gptq4,awq4] [--both]

Makes a Llama checkpoint with random weights in DIR, then runs `quantgate run` on it (``--tasks``; 50 items of each
unless ``--limit`` is given), a fresh process for each method. The process is put into a control group that holds it to
LIMIT (Linux, as root; without one the memory is measured and nothing is enforced). What a group holds includes the
files that it reads; *anonymous* is what could not be dropped. ``--both``: the same without a limit first, another store
each.

Random weights know nothing, so verdicts say so; what is shown is that and how fast every step ends.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[1]
WIDTH, INNER, HEADS, KEYS, VOCABULARY = 3072, 8192, 24, 8, 49152
GROUPS = Path("/sys/fs/cgroup")
_BLOCK = (2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH * KEYS // HEADS + 3 * WIDTH * INNER) * 2


def make(target: Path, gib: float) -> None:
    """A checkpoint of about so many GiB: one shard for each block, one for the rest."""
    if (target / "model.safetensors.index.json").is_file():
        return
    from quantgate.core.progress import Silent
    from quantgate.models.source import resolve_model
    from quantgate.store.store import Store

    target.mkdir(parents=True, exist_ok=True)
    bundled = resolve_model("bundled", None, Store(target / "bundled", Silent())).path
    for path in bundled.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, target)
    blocks = max(1, round((gib * 2**30 - 2 * VOCABULARY * WIDTH) / _BLOCK))
    config = json.loads((target / "config.json").read_text()) | {
        "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": blocks, "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS, "head_dim": WIDTH // HEADS, "vocab_size": VOCABULARY, "tie_word_embeddings": True,
    }  # fmt: skip
    (target / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(0)
    places: dict[str, str] = {}
    for number in range(blocks + 1):
        name = f"model-{number + 1:05d}-of-{blocks + 1:05d}.safetensors"
        tensors = {key: _tensor(shape, generator) for key, shape in _shapes(number, blocks)}
        save_file(tensors, target / name, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.rmtree(target / "bundled")


def _shapes(number: int, blocks: int) -> list[tuple[str, tuple[int, ...]]]:
    if number == blocks:
        return [("model.embed_tokens.weight", (VOCABULARY, WIDTH)), ("model.norm.weight", (WIDTH,))]
    narrow, at = WIDTH * KEYS // HEADS, f"model.layers.{number}."
    sizes = {
        "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (narrow, WIDTH), "self_attn.v_proj": (narrow, WIDTH),
        "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
    }  # fmt: skip
    return [(f"{at}{name}.weight", size) for name, size in sizes.items()]


def _tensor(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(torch.bfloat16)


class Group:
    """A control group that holds a process to so many bytes; nothing where none can be made."""

    def __init__(self, limit: int | None) -> None:
        old = (GROUPS / "memory").is_dir()
        self.place = (GROUPS / "memory" if old else GROUPS) / f"quantgate-{os.getpid()}"
        self.limit = "memory.limit_in_bytes" if old else "memory.max"
        self.there = False
        if limit:
            with suppress(OSError):
                self.place.mkdir()
                (self.place / self.limit).write_text(str(limit))
                self.there = True

    def join(self) -> None:
        """To be called by the process."""
        if self.there:
            (self.place / "cgroup.procs").write_text(str(os.getpid()))

    def leave(self) -> None:
        """After it has ended."""
        if self.there:
            with suppress(OSError):
                self.place.rmdir()


def anonymous(pid: int) -> int:
    """Bytes that a process holds outside files."""
    with suppress(OSError):
        if found := re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) << 10
    return 0


def run(model: Path, method: str, store: Path, limit: int | None, tasks: str, options: list[str]) -> None:
    """One method in a fresh process; prints a row."""
    group = Group(limit)
    command = [
        sys.executable, "-m", "quantgate", "run", "--model", str(model), "--methods", method, "--store", str(store),
        "--tasks", tasks, "--calibration-samples", "16", "--calibration-length", "512",
        "--report-dir", str(store / "report"), *options,
    ]  # fmt: skip
    start, peak = time.perf_counter(), 0
    with (store.parent / f"{store.name}-{method}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, preexec_fn=group.join)
        used = None
        while used is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(0.05)
            pid, status, found = os.wait4(process.pid, os.WNOHANG)
            used = found if pid else None
    seconds, code = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
    group.leave()
    report = json.loads(place.read_text()) if (place := store / "report" / "report.json").is_file() else {"phases": {}}
    parts = {name: round(took) for name, took in report["phases"].items() if took >= 1}
    held = f"{limit / 2**30:.1f} GiB" if group.there and limit else "none"
    work = f"{seconds:6.0f} s, {used.ru_utime + used.ru_stime:6.0f} s of processor"
    print(f"{method:12} limit {held:8} exit {code}  {work}  anonymous {peak / 2**30:5.2f} GiB")
    print(f"             {parts}", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=8.0)
    parser.add_argument("--limit-gib", type=float, default=3.0)
    parser.add_argument("--methods", default="rtn4,gptq4,awq4")
    parser.add_argument("--tasks", default="perplexity_prose,mmlu_cloze")
    parser.add_argument("--both", action="store_true")
    args, options = parser.parse_known_args()
    model = args.out.resolve() / f"random-{args.gib:g}-gib"
    make(model, args.gib)
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    print(f"{size / 2**30:.2f} GiB of weights, {torch.get_num_threads()} threads", flush=True)
    for limit in [None, args.limit_gib] if args.both else [args.limit_gib]:
        store = args.out.resolve() / f"store-{args.gib:g}-{limit or 'free'}"
        store.mkdir(exist_ok=True)
        for method in args.methods.split(","):
            run(model, method, store, round(limit * 2**30) if limit else None, args.tasks, options or ["--limit", "50"])


if __name__ == "__main__":
    main()
