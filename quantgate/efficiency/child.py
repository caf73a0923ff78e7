"""The process in which memory and speed are measured: fresh, so that nothing else is counted.

Run as ``python -m quantgate.efficiency.child``: a job as JSON on standard input, its result as JSON in the last line of
standard output. `run_job` starts it and reads it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from quantgate.core import reading
from quantgate.core.errors import ModelError
from quantgate.core.reading import Unreadable
from quantgate.efficiency.meters import Stages, gauge_for
from quantgate.efficiency.workload import Generator, Workload, cache_size, prompt_of, run_in_turns

SEED: Final = 1234
_WARM_UP: Final = 8  # tokens


@dataclass(frozen=True)
class Job:
    """``kind``: ``memory`` of one model, or ``speed`` of two in turns. ``models``: (name, directory, packed) each.

    ``workloads``: (batch, in, out) each; memory takes the first. ``threads``: of torch; 0 leaves its default.
    """

    kind: Literal["memory", "speed"]
    models: tuple[tuple[str, str, bool], ...]
    workloads: tuple[tuple[int, int, int], ...]
    dtype: str
    device: str
    repetitions: int = 1
    threads: int = 0


def run_job(job: Job) -> dict[str, Any]:
    """Do ``job`` in a fresh process.

    Raises:
        ModelError: the process failed; the message holds its last words.
    """
    command = [sys.executable, "-m", "quantgate.efficiency.child"]
    root = Path(__file__).resolve().parents[2]  # the package may be run from its checkout, without being installed
    done = subprocess.run(command, input=json.dumps(asdict(job)), capture_output=True, text=True, check=False, cwd=root)
    if done.returncode == 0:
        try:
            return reading.parse_object(done.stdout.strip().rpartition("\n")[2])
        except Unreadable as error:
            raise ModelError(f"measuring {job.kind}", f"its process answered with {error}") from error
    names = " and ".join(name for name, _, _ in job.models)
    killed = -done.returncode == signal.SIGKILL
    words = "it was killed" if killed else (done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    raise ModelError(
        f"measuring {job.kind} of {names}",
        words,
        hint="there may be too little memory: speed needs both models at once" if killed else "",
    )


def main() -> None:
    """Read a job, do it, print the result."""
    content = reading.parse_object(sys.stdin.read(reading.MOST_SETTINGS))
    content["models"] = tuple(tuple(each) for each in content["models"])
    content["workloads"] = tuple(tuple(each) for each in content["workloads"])
    job = Job(**content)
    import torch

    if job.threads:
        torch.set_num_threads(job.threads)
    with torch.inference_mode():
        result = measure_memory(job) if job.kind == "memory" else measure_speed(job)
    print(json.dumps(result))


def _load(model: tuple[str, str, bool], job: Job) -> Any:
    from quantgate.efficiency.execution import load_packed, load_plain

    name, path, packed = model
    if packed:
        return load_packed(Path(path), job.dtype, job.device)
    return load_plain(Path(path), name, job.dtype, job.device)


def measure_memory(job: Job) -> dict[str, Any]:
    """Peaks of loading, of a prefill and of a decode of one model, and what its parts hold (bytes)."""
    import torch

    from quantgate.core.memory import kept_heap
    from quantgate.efficiency.architecture import read_architecture
    from quantgate.efficiency.execution import resident_bytes
    from quantgate.efficiency.hardware import synchronize

    [model] = job.models
    workload = Workload(*job.workloads[0])
    shape = read_architecture(Path(model[1]), model[0])  # brings in the architecture's code before anything counts
    tokens = prompt_of(workload, shape.vocabulary, SEED).to(job.device)
    stages = Stages(gauge_for(job.device))
    with kept_heap():
        pass  # from here on, large blocks that are freed go back to the system at once
    stages.start()
    with stages.stage("load"):
        loaded = _load(model, job)
    generator = Generator(loaded.model, synchronize(torch, job.device))
    from transformers import DynamicCache

    cache = DynamicCache()
    with stages.stage("prefill"):
        token = generator.step(tokens, cache)
        generator.finish()
    with stages.stage("decode"):
        for _ in range(workload.new - 1):
            token = generator.step(token[:, None], cache)
        generator.finish()
    return {
        **stages.as_record(),
        "execution": asdict(loaded.execution),
        "resident": resident_bytes(loaded.model),
        "cache": cache_size(cache),
    }


def measure_speed(job: Job) -> dict[str, Any]:
    """Times of all models in turns, token by token, after a warm-up; the order turns around every repetition.

    Also this machine's rates, measured around it in the same process: the better of before and after.
    """
    import torch

    from quantgate.core.memory import kept_heap
    from quantgate.efficiency.execution import resident_bytes
    from quantgate.efficiency.hardware import measure_machine, synchronize

    with kept_heap():
        loaded = [_load(model, job) for model in job.models]
        generators = [Generator(each.model, synchronize(torch, job.device)) for each in loaded]
        weights = resident_bytes(loaded[0].model)
        before = measure_machine(job.dtype, job.device, weights)
        runs = [_timed(generators, Workload(*each), job, loaded[0].model.config) for each in job.workloads]
        after = measure_machine(job.dtype, job.device, weights)
    machine = {
        name: max(value, after.as_record()[name]) if isinstance(value, float) else value
        for name, value in before.as_record().items()
    }
    return {"machine": machine, "executions": [asdict(each.execution) for each in loaded], "runs": runs}


def _timed(generators: list[Generator], workload: Workload, job: Job, config: Any) -> dict[str, Any]:
    """``times[model][repetition]`` = (seconds to the first token, seconds for the rest)."""
    tokens = prompt_of(workload, config.get_text_config(decoder=True).vocab_size, SEED).to(job.device)
    everyone = list(range(len(generators)))
    run_in_turns(generators, tokens, min(workload.new, _WARM_UP), everyone)
    times: list[list[Mapping[str, float]]] = [[] for _ in generators]
    for repetition in range(job.repetitions):
        order = everyone if repetition % 2 == 0 else everyone[::-1]
        timings, _ = run_in_turns(generators, tokens, workload.new, order)
        for index, timing in enumerate(timings):
            times[index].append(asdict(timing))
    return {"workload": asdict(workload), "times": times}


if __name__ == "__main__":
    main()
