"""Whether everything that runs on a GPU gives what the CPU gives, and at which share of the card it does so.

Command:
    PYTHONPATH=. python benchmarks/cuda_check.py --out DIR [--only agreement,quantizers] [--seconds 280]
    PYTHONPATH=. python benchmarks/cuda_check.py --out DIR --device cpu --tiny    # no GPU: does the script itself run?

Nothing is downloaded: all models have random weights. A section that fails is recorded with its traceback, and the next
one runs; ``DIR/cuda_check.json`` is written anew after each. What would begin after ``--seconds`` is left out and says
so. Exit code 1 when a section failed or a comparison is outside its tolerance.

- agreement: every path of the engine (likelihoods over shared prefixes, losses with kept and compared distributions,
  generation) in float32 on the device, without TF32, against the CPU, for several architectures.
- quantizers: a row of each family on the device against the CPU: share of equal weights, relative difference, what
  either loses, and both checkpoints' answers on the device; seconds and peak memory.
- speed: a random 7B: scoring, losses, generation, quantization; as a share of the card's own matmul and copy rates,
  measured in the same run, beside transformers doing the same in plain batches; a table of kernels for each in
  ``DIR/*.txt``. vLLM's own benchmark is not run.
- head: the log-sum-exp, argmax and asked tokens of a large vocabulary, whole rows against what the engine does.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as hf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from cuda_head import head
from prefill_rate import operations

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.fidelity import TopKReader, TopKWriter
from quantgate.engines.torch.states import StatesReader, StatesWriter
from quantgate.quantize.calibration.samples import Calibration

NATS = 5e-4  # the largest difference of a log-likelihood between two devices in float32


class NoWords:
    """Stands in for a tokenizer: a token is its number."""

    eos_token_id = None

    def decode(self, tokens: Sequence[int], **_: Any) -> str:
        return "".join(f" {token}" for token in tokens)


class Run:
    """The device, the sizes, the clock, and what was found so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.tiny, self.out = torch.device(args.device), args.tiny, args.out
        self.started, self.limit = time.perf_counter(), args.seconds
        self.found: dict[str, Any] = {"device": self.name(), "torch": torch.__version__}
        self.found["transformers"] = hf.__version__
        self.failures: list[str] = []

    def name(self) -> str:
        cuda = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if cuda else str(self.device)

    def left(self) -> float:
        return self.limit - (time.perf_counter() - self.started)

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timed(self, call: Callable[[], Any]) -> tuple[float, float, Any]:
        """Seconds, peak GiB of the device above what was held before (0 on a CPU), and the result."""
        cuda = self.device.type == "cuda"
        held = torch.cuda.memory_allocated(self.device) if cuda else 0
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        self.sync()
        started = time.perf_counter()
        result = call()
        self.sync()
        seconds = time.perf_counter() - started
        peak = (torch.cuda.max_memory_allocated(self.device) - held) / 2**30 if cuda else 0.0
        return seconds, peak, result

    def check(self, name: str, good: bool) -> bool:
        """Note a comparison outside its tolerance."""
        if not good:
            self.failures.append(name)
        return good

    def say(self, section: str, row: dict[str, Any]) -> None:
        """Print one line and keep it."""
        self.found.setdefault(section, []).append(row)
        shown = (f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items())
        print(f"[{time.perf_counter() - self.started:5.0f} s] {section}: {', '.join(shown)}", flush=True)

    def save(self) -> None:
        self.found["failures"] = self.failures
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "cuda_check.json").write_text(json.dumps(self.found, indent=1), encoding="utf-8")

    def part(self, section: str, name: str, call: Callable[[], None]) -> None:
        """One guarded piece of a section: what goes wrong is kept, and the rest goes on."""
        if self.left() < 0:
            self.say(section, {"left out": name, "why": "out of time"})
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001  # a run on a lent machine must bring home all it can
            self.failures.append(f"{section}: {name}")
            last = traceback.format_exc().splitlines()[-12:]
            self.say(section, {"failed": name, "error": f"{type(error).__name__}: {str(error)[:300]}"})
            print("\n".join(last), flush=True)
            self.found[section][-1]["traceback"] = last
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.save()


# -- agreement ---------------------------------------------------------------------------------------------------------

VOCABULARY = 1000
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.12,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
KINDS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**_SHAPE),
    "qwen3": lambda: hf.Qwen3Config(**_SHAPE, head_dim=16),
    "mistral, window 48": lambda: hf.MistralConfig(**_SHAPE, sliding_window=48),
    "gemma2, soft-caps": lambda: hf.Gemma2Config(
        **_SHAPE, head_dim=16, sliding_window=48, final_logit_softcapping=5.0, attn_logit_softcapping=9.0
    ),
    "bloom": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=128, n_layer=3, n_head=8, eos_token_id=1, initializer_range=0.12
    ),
}


def agreement(run: Run) -> None:
    for kind, config in KINDS.items():
        run.part("agreement", kind, lambda kind=kind, config=config: agree(run, kind, config()))


def agree(run: Run, kind: str, config: Any) -> None:
    torch.manual_seed(0)
    here = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    there, subject = moved(here, run.device), noisy(here)
    draw = random.Random(1)
    questions = few_shot(draw, subjects=3, questions=10, shots=90, lengths=(5, 40))
    segments = [Rolling(tokens(draw, n)) for n in (2, 60, 200, 200, 350)]
    prompts = [Generate(tokens(draw, 20)[:8] + tokens(draw, draw.randrange(3, 60)), 24) for _ in range(12)]
    asked = [*questions, *segments, *prompts]
    cpu, gpu = answers(here, "cpu", asked), answers(there, run.device, asked)
    likely = [(a.logprob, b.logprob, a.greedy == b.greedy) for a, b in zip(cpu, gpu, strict=True) if has(a, "logprob")]
    losses = [(x, y) for a, b in zip(cpu, gpu, strict=True) if has(a, "nll") for x, y in zip(a.nll, b.nll, strict=True)]
    texts = [a.text == b.text for a, b in zip(cpu, gpu, strict=True) if has(a, "text")]
    row = {
        "model": kind,
        "likelihood nats": max(abs(a - b) for a, b, _ in likely),
        "same best option": same_best(likely),
        "same greedy": all(same for _, _, same in likely),
        "loss nats": max(abs(a - b) for a, b in losses),
        "same texts": f"{sum(texts)}/{len(texts)}",
        **compared(run, (here, subject), (there, moved(subject, run.device)), segments),
    }
    good = max(row["likelihood nats"], row["loss nats"]) < NATS and row["divergence nats"] < NATS
    row["good"] = run.check(f"agreement: {kind}", good and row["same best option"] and all(texts))
    run.say("agreement", row)


def compared(run: Run, cpu: tuple[Any, Any], gpu: tuple[Any, Any], segments: list[Rolling]) -> dict[str, float]:
    """Largest differences of the divergence: exact from kept hidden states, and estimated from the likeliest tokens."""
    worst: dict[str, float] = {}
    for name in ("divergence nats", "estimated divergence nats"):
        found = []
        for (reference, subject), device in ((cpu, "cpu"), (gpu, run.device)):
            with tempfile.TemporaryDirectory() as folder:
                engine = TorchEngine(reference, NoWords(), device=device, progress=Silent())
                head, estimated = engine.model.output.head(), name.startswith("estimated")
                keep = TopKWriter(Path(folder)) if estimated else StatesWriter(Path(folder), head)
                answers(reference, device, segments, keep=keep)
                kind = TopKReader if estimated else StatesReader
                found.append(answers(subject, device, segments, against=kind(Path(folder))))
        pairs = [(x, y) for a, b in zip(*found, strict=True) for x, y in zip(a.kld, b.kld, strict=True)]
        worst[name] = max(abs(x - y) for x, y in pairs)
        worst[f"mean {name}"] = abs(sum(x - y for x, y in pairs)) / len(pairs)
    return worst


def moved(model: Any, device: torch.device) -> Any:
    """A copy of the model on the device."""
    return copy.deepcopy(model).to(device)


def noisy(model: Any) -> Any:
    """A copy with weights 5% off, as a quantized one."""
    found = copy.deepcopy(model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05 * parameter.abs().mean())
    return found


def has(answer: Any, name: str) -> bool:
    return hasattr(answer, name)


def answers(model: Any, device: Any, asked: Sequence[Any], **kwargs: Any) -> list[Any]:
    found: dict[int, Any] = {}
    TorchEngine(model, NoWords(), device=device, progress=Silent()).run(asked, found.__setitem__, **kwargs)
    return [found[index] for index in range(len(asked))]


def same_best(likely: list[tuple[float, float, bool]]) -> bool:
    """Whether each four options have their best at the same place, unless the best two are closer than rounding."""
    for at in range(0, len(likely), 4):
        cpu, gpu = ([pair[side] for pair in likely[at : at + 4]] for side in (0, 1))
        ordered = sorted(cpu)
        if cpu.index(max(cpu)) != gpu.index(max(gpu)) and ordered[-1] - ordered[-2] > NATS:
            return False
    return True


def tokens(draw: random.Random, count: int, vocabulary: int = VOCABULARY) -> tuple[int, ...]:
    return tuple(draw.randrange(10, vocabulary) for _ in range(count))


def few_shot(
    draw: random.Random,
    subjects: int,
    questions: int,
    shots: int,
    lengths: tuple[int, int],
    vocabulary: int = VOCABULARY,
    option: int = 3,
) -> list[Likelihood]:
    """Four options a question (up to ``option`` tokens), questions of a subject behind one preamble of ``shots``."""
    found = []
    for _ in range(subjects):
        preamble = tokens(draw, shots, vocabulary)
        for _ in range(questions):
            context = preamble + tokens(draw, draw.randrange(*lengths), vocabulary)
            found += [Likelihood(context, tokens(draw, draw.randrange(1, option + 1), vocabulary)) for _ in range(4)]
    return found


# -- quantizers --------------------------------------------------------------------------------------------------------

ROWS = (
    "rtn4",
    "gptq4",
    "awq4",
    "smoothquant8",
    "smoothquant-gptq-w4",
    "spqr4",
    "slim4",
    "quip4",
    "easyquant4",
    "float8-e4m3",
    "nvfloat4",
    "int8",
    "nf4",
    "fp4",
    "hqq4",
)


def quantizers(run: Run) -> None:
    """Each row twice, and both checkpoints loaded on the device."""
    torch.manual_seed(0)
    size = 1 if run.tiny else 2
    shape = _SHAPE | {"hidden_size": 192 * size, "intermediate_size": 320 * size, "num_hidden_layers": 2}
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**shape)).to(torch.bfloat16).eval()
    draw = random.Random(0)
    samples = tuple(tokens(draw, draw.randrange(40, 129)) for _ in range(24))
    calibration = Calibration("random", "noise", samples, (), 0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        model.save_pretrained(source)
        for name in ROWS:
            run.part("quantizers", name, lambda name=name: twice(run, name, source, calibration, model))


def twice(run: Run, name: str, source: Path, calibration: Calibration, model: Any) -> None:
    from quantgate.checkpoints.checkpoint import load_quantized
    from quantgate.quantize.catalogue.methods import METHODS
    from quantgate.subjects.make import quantize_checkpoint

    method = METHODS[name]
    if (method.algorithm == "hqq" and missing("hqq")) or (name in ("int8", "nf4", "fp4") and missing("bitsandbytes")):
        run.say("quantizers", {"method": name, "left out": "its library is not installed"})
        return
    ids = torch.tensor([tokens(random.Random(9), 256)])
    logits, weights, spent = [], [], []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for place, device in (("cpu", "cpu"), ("device", str(run.device))):
            target = Path(folder) / place
            target.mkdir()
            seconds, peak, record = run.timed(
                lambda target=target, device=device: quantize_checkpoint(
                    source, method, calibration, target, device=device, progress=Silent()
                )
            )
            loaded = load_quantized(target, torch.float32, run.device)
            logits.append(loaded(input_ids=ids.to(run.device)).logits[0].float().cpu())
            weights.append({key: value.float().cpu() for key, value in loaded.state_dict().items()})
            spent.append((seconds, peak, sum(record.losses.values()) / max(len(record.losses), 1)))
        whole = copy.deepcopy(model).float()(input_ids=ids).logits[0]
    pairs = [(weights[0][key], weights[1][key]) for key in weights[0] if "layers" in key and weights[0][key].dim() == 2]
    equal = sum(int((a == b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    apart = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
    losses = [divergence(whole, each) for each in logits]
    row = {
        "method": name,
        "equal weights": equal,
        "relative difference": apart / math.sqrt(sum(float(a.square().sum()) for a, _ in pairs)),
        "between their answers, nats": divergence(*logits),
        "lost on CPU, nats": losses[0],
        "lost on device, nats": losses[1],
        "mean loss": [each[2] for each in spent],
        "seconds on CPU and device": [round(each[0], 2) for each in spent],
        "peak GiB": spent[1][1],
    }
    row["good"] = run.check(f"quantizers: {name}", abs(losses[1] - losses[0]) <= 0.1 * losses[0] + 1e-4)
    run.say("quantizers", row)


def missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def divergence(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean KL of two sets of logits, nats."""
    p, q = (each.double().log_softmax(-1) for each in (first, second))
    return float((p.exp() * (p - q)).sum(-1).mean())


# -- speed -------------------------------------------------------------------------------------------------------------


class Card:
    """Rates of the device, measured now."""

    def __init__(self, run: Run) -> None:
        cuda = run.device.type == "cuda"
        size = 8192 if cuda else 512
        a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=run.device) for _ in range(2))
        self.matmul = 2 * size**3 / min(run.timed(lambda: a @ b)[0] for _ in range(12))
        block = torch.zeros(2**30 if cuda else 2**22, dtype=torch.uint8, device=run.device)
        other = torch.empty_like(block)
        self.copy = 2 * block.numel() / min(run.timed(lambda: other.copy_(block))[0] for _ in range(12))


def random_7b(run: Run, layers: int) -> Any:
    """Llama 2 7B's shape (tiny: something that takes a second) in bf16, made where it is needed."""
    shape = (64, 160, 4, 2) if run.tiny else (4096, 11008, 32, 32)
    config = hf.LlamaConfig(
        hidden_size=shape[0],
        intermediate_size=shape[1],
        num_attention_heads=shape[2],
        num_key_value_heads=shape[3],
        num_hidden_layers=layers,
        vocab_size=500 if run.tiny else 32000,
        max_position_embeddings=4096,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with torch.device(run.device):
        return hf.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


def speed(run: Run) -> None:
    card = Card(run)
    run.say("speed", {"matmul T/s": card.matmul / 1e12, "copy GB/s": card.copy / 1e9})
    answering_speed(run, card)
    for name in ("rtn4", "awq4", "gptq4"):
        run.part("speed", name, lambda name=name: quantizing_speed(run, card, name))


def answering_speed(run: Run, card: Card) -> None:
    seconds, _, model = run.timed(lambda: random_7b(run, 2 if run.tiny else 32))
    count = sum(parameter.numel() for parameter in model.parameters())
    run.say("speed", {"model": "random 7B", "parameters": count, "made in": seconds})
    run.part("speed", "warming up", lambda: answers(model, run.device, [Rolling(tokens(random.Random(0), 100, 400))]))
    run.part("speed", "5-shot", lambda: shots_speed(run, card, model))
    run.part("speed", "losses", lambda: losses_speed(run, card, model))
    for batch in (1, 32):
        run.part("speed", f"generation {batch}", lambda batch=batch: generation_speed(run, card, model, batch))


def engine_rate(run: Run, card: Card, model: Any, asked: list[Any]) -> dict[str, Any]:
    """Timed the second time: in the first pass kernels are loaded and chosen for these shapes."""
    answers(model, run.device, asked)
    engine = TorchEngine(model, NoWords(), device=run.device, progress=Silent())
    seconds, peak, stats = run.timed(lambda: engine.run(asked, lambda index, response: None))
    done = operations(model, stats.tokens_unique, stats.attended, stats.positions_scored)
    return {
        "seconds": seconds,
        "unique tokens/s": stats.tokens_unique / seconds,
        "tokens": stats.tokens_unique,
        "share of matmul": done / seconds / card.matmul,
        "peak GiB": peak,
    }


def kernels(run: Run, name: str, call: Callable[[], Any], rows: int = 30) -> None:
    """Where the device's time goes: ``DIR/NAME.txt``, kernels and operators by their own time."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        run.timed(call)
    key = "self_cuda_time_total" if run.device.type == "cuda" else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=key, row_limit=rows, max_name_column_width=90)
    (run.out / f"{name}.txt").write_text(table, encoding="utf-8")


def shots_speed(run: Run, card: Card, model: Any) -> None:
    """Questions behind five examples; transformers reads each question's whole prompt once, in batches by length."""
    size = (2, 4, 60) if run.tiny else (6, 60, 600)
    draw, vocabulary = random.Random(0), model.config.vocab_size
    asked = few_shot(draw, size[0], size[1], size[2], (60, 140), vocabulary, option=1)
    row = engine_rate(run, card, model, asked)
    kernels(run, "shots", lambda: answers(model, run.device, asked[: len(asked) // 3]))
    contexts = sorted({request.context for request in asked}, key=len)

    @torch.no_grad()
    def plain() -> None:
        for at in range(0, len(contexts), 16):
            part = contexts[at : at + 16]
            width = len(part[-1])
            ids = torch.tensor([[*each, *(0,) * (width - len(each))] for each in part], device=run.device)
            hidden = model.model(input_ids=ids, use_cache=False)[0]
            last = torch.tensor([len(each) - 1 for each in part], device=run.device)
            logits = model.lm_head(hidden[torch.arange(len(part), device=run.device), last]).float()
            logits.log_softmax(-1)[:, 10:14].tolist()

    plain()
    seconds, peak, _ = run.timed(plain)
    row |= {"plain seconds": seconds, "times plain": seconds / row["seconds"], "plain peak GiB": peak}
    run.say("speed", {"what": f"5-shot, {len(contexts)} questions", **row})


def losses_speed(run: Run, card: Card, model: Any) -> None:
    """Every position of segments scored; transformers with whole logits, four segments at a time."""
    count, length = (2, 64) if run.tiny else (16, 2048)
    draw = random.Random(1)
    asked = [Rolling(tokens(draw, length + 1, model.config.vocab_size)) for _ in range(count)]
    row = engine_rate(run, card, model, asked)
    kernels(run, "losses", lambda: answers(model, run.device, asked[:4]))

    @torch.no_grad()
    def plain() -> None:
        for at in range(0, count, 4):
            ids = torch.tensor([request.tokens for request in asked[at : at + 4]], device=run.device)
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            logits.log_softmax(-1).gather(2, ids[:, 1:, None]).tolist()

    plain()
    seconds, peak, _ = run.timed(plain)
    row |= {"plain seconds": seconds, "times plain": seconds / row["seconds"], "plain peak GiB": peak}
    run.say("speed", {"what": f"losses of {count} x {length}", **row})


def generation_speed(run: Run, card: Card, model: Any, batch: int) -> None:
    """New tokens; the copy rate's share counts the weights once a step, and nothing else."""
    draw, new = random.Random(2), 8 if run.tiny else 48
    prompts = [tokens(draw, 128, model.config.vocab_size) for _ in range(batch)]
    engine = TorchEngine(model, NoWords(), device=run.device, progress=Silent())
    asked = [Generate(prompt, new) for prompt in prompts]
    answers(model, run.device, asked)
    seconds, peak, stats = run.timed(lambda: engine.run(asked, lambda index, response: None))
    kernels(run, f"generation{batch}", lambda: answers(model, run.device, asked))
    weights = sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes
    row = {"what": f"generation, batch {batch}", "seconds": seconds, "tokens/s": stats.tokens_generated / seconds}
    row |= {"share of copy": new * weights / seconds / card.copy, "peak GiB": peak}
    ids = torch.tensor(prompts, device=run.device)
    given = {"attention_mask": torch.ones_like(ids), "do_sample": False, "min_new_tokens": new, "max_new_tokens": new}
    with torch.no_grad():
        model.generate(ids, **given)
        plain, _, _ = run.timed(lambda: model.generate(ids, **given))
    run.say("speed", row | {"plain seconds": plain, "times plain": plain / seconds})


def quantizing_speed(run: Run, card: Card, name: str) -> None:
    """Some blocks of the 7B; the floor is one forward of the calibration tokens through them at the matmul rate."""
    from quantgate.quantize.catalogue.methods import METHODS, algorithm_of, transformation_of
    from quantgate.quantize.sweep.driver import Sweep

    blocks, whole = (2, 2) if run.tiny else (3, 32)
    count, length = (8, 32) if run.tiny else (128, 512)
    model, method, draw = random_7b(run, blocks), METHODS[name], random.Random(4)
    samples = tuple(tokens(draw, length, model.config.vocab_size) for _ in range(count))
    calibration = Calibration("random", "noise", samples, (), 0)
    sweep = Sweep(model, algorithm_of(method), name, Silent(), transformation_of(method))
    seconds, peak, _ = run.timed(lambda: sweep.run(calibration if method.needs_calibration else None))
    floor = operations(model, count * length, count * length * (length + 1) // 2, 0) / card.matmul
    row = {
        "what": f"quantizing, {name}",
        "seconds a block": seconds / blocks,
        "of all blocks": seconds / blocks * whole,
    }
    row |= {"times the floor": seconds / floor} if method.needs_calibration else {}
    run.say("speed", row | {"peak GiB": peak, "calibration tokens": count * length})


SECTIONS = {"agreement": agreement, "quantizers": quantizers, "speed": speed, "head": head}


def exact_float32() -> None:
    """No TF32, by whichever of torch's two switches this version has."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    else:
        torch.backends.cuda.matmul.allow_tf32 = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for cuda_check.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes for trying the script itself")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma")
    parser.add_argument("--seconds", type=float, default=280, help="nothing begins after that")
    args = parser.parse_args()
    run = Run(args)
    print(f"{run.name()}, torch {torch.__version__}, transformers {hf.__version__}", flush=True)
    exact_float32()
    for name in args.only.split(","):
        if name not in SECTIONS:
            parser.error(f"--only {name}: one of {', '.join(SECTIONS)}")
        run.part(name, "the section", lambda name=name: SECTIONS[name](run))
    run.save()
    print(f"{len(run.failures)} failures: {'; '.join(run.failures) or 'none'}", flush=True)
    sys.exit(1 if run.failures else 0)


if __name__ == "__main__":
    main()
