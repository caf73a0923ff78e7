"""What must hold before anything is loaded: one check a function, all of them quick, each with one clear sentence.

The suite runs them when it makes its plan, before torch is imported; ``quantgate.quantize`` and ``quantgate export``
run those that are about models, devices and calibration. A check that has nothing to say returns; a new one is a
function and a row in `CHECKS` (what the options alone tell) or `CHECKS_OF_METHODS` (what the chosen methods need).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import QuantgateError, UsageError
from quantgate.core.naming import suggestion
from quantgate.core.reading import plain, visible
from quantgate.models import architectures
from quantgate.models.bundled import locate_gguf
from quantgate.models.files import read_json
from quantgate.models.source import BUNDLED, check_chat_template, is_directory, peek_model
from quantgate.quantize.calibration.sources import DIALOGUES, CalibrationChoice, count_dialogues, readable
from quantgate.quantize.calibration.table import source_called
from quantgate.quantize.catalogue.methods import NO_WEIGHTS
from quantgate.subjects.brought import kind_of
from quantgate.subjects.served_reference import check_served_reference, is_address
from quantgate.tasks.data import BUNDLED_DATA, open_data

if TYPE_CHECKING:
    from quantgate.quantize.base import Method
    from quantgate.tasks.data import DataSource

DEVICES: Final = ("cpu", "cuda", "xpu", "mps")
MOST_SEED: Final = 2**32 - 1  # numpy, random and torch all take it
MOST_SHOTS: Final = 64
_SETS_SHOWN: Final = 6
MOST_SAMPLES: Final = 10_000
MOST_REPETITIONS: Final = 1000
_LENGTHS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")


@dataclass(frozen=True)
class Wanted:
    """What a command asks for. ``numbers``: option -> (value, least, most). ``texts``: option -> what was typed.

    ``further``: calibration sets beside the first.
    ``tokenizer``: the small files of a model that is a server.
    ``directories``: option -> where something will be written. ``sizes``: option -> tokens that the context must hold.
    """

    model: str = BUNDLED
    revision: str | None = None
    offline: bool = False
    device: str = "cpu"
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)
    further: tuple[CalibrationChoice, ...] = ()
    numbers: Mapping[str, tuple[int | None, int, int]] = field(default_factory=dict)
    texts: Mapping[str, str | None] = field(default_factory=dict)
    directories: Mapping[str, Path | None] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    tokenizer: Path | None = None

    @property
    def place(self) -> Path | None:
        """The model's directory (of a hub model: one that holds its configuration); None for the bundled one.

        Of a server, that of its tokenizer.
        """
        if is_address(self.model):
            return self.tokenizer if self.tokenizer and (self.tokenizer / "config.json").is_file() else None
        return None if self.model == BUNDLED else peek_model(self.model, self.revision, offline=self.offline)


def check_texts(wanted: Wanted) -> None:
    """Names and paths end in reports: nothing in them may steer a terminal or be beyond UTF-8."""
    for option, text in wanted.texts.items():
        if text and not plain(text):
            raise UsageError(
                option,
                f"'{visible(text)}' holds a control character, or bytes that are not UTF-8",
                expected="a name that a report can show",
                hint="rename it, or reach it by a link with a plain name",
            )


def check_numbers(wanted: Wanted) -> None:
    """Numbers out of any reasonable range."""
    sets = wanted.calibration
    numbers = {
        "--calibration-seed": (sets.seed, 0, MOST_SEED),
        "--calibration-samples": (sets.n_samples, 1, MOST_SAMPLES),
        "--calibration-length": (sets.length, 2, 2**20),
        **wanted.numbers,
    }
    for option, (value, least, most) in numbers.items():
        if value is not None and not least <= value <= most:
            raise UsageError(option, str(value), expected=f"a whole number from {least} to {most}")


def check_directories(wanted: Wanted) -> None:
    """Directories that will be written to: a file in their place, or one that must not be written."""
    for option, path in wanted.directories.items():
        if path is not None:
            check_writable(path, option)


def check_writable(path: Path, option: str) -> None:
    """Raise UsageError unless ``path`` is, or can become, a directory that this user may write to."""
    hint = f"choose another directory with {option}"
    try:
        found = path.absolute()
        while not found.exists():
            found = found.parent
        is_directory = found.is_dir()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{option} {path}", f"cannot be used ({reason})", hint=hint) from error
    if not is_directory:
        raise UsageError(f"{option} {path}", f"{found} is a file", expected="a directory", hint=hint)
    if not os.access(found, os.W_OK | os.X_OK):
        raise UsageError(f"{option} {path}", f"{found} cannot be written", expected="a writable directory", hint=hint)


def check_device(wanted: Wanted) -> None:
    """A device that is none, or that this machine or this build of torch does not have."""
    match = re.fullmatch(r"([a-z]+)(?::(\d{1,4}))?", wanted.device)
    kind = match[1] if match else wanted.device
    if match is None or kind not in DEVICES:
        raise UsageError("--device", f"unknown device {wanted.device!r}", hint=suggestion(kind, DEVICES))
    index = int(match[2] or 0)
    if kind == "cpu" and index == 0:
        return  # nothing to ask torch for, which takes seconds to import
    count = count_devices(kind)
    if index >= count:
        raise UsageError(
            "--device",
            f"{wanted.device!r}, but torch sees {'no' if not count else f'only {count}'} {kind} device here",
            expected="a device of this machine",
            hint="leave --device out to run on the CPU, or install a torch build and driver for the device",
        )


def count_devices(kind: str) -> int:
    """How many devices of ``kind`` torch can use here."""
    import torch

    if kind == "cpu":
        return 1
    backend = getattr(torch, kind)
    if not backend.is_available():
        return 0
    return int(backend.device_count())


def check_calibration(wanted: Wanted) -> None:
    """A calibration set that does not exist."""
    for choice in (wanted.calibration, *wanted.further):
        source_called(choice.name)


def check_model(wanted: Wanted) -> None:
    """A model that is missing, incomplete, quantized already, or that this transformers cannot load."""
    if wanted.model == BUNDLED:
        locate_gguf()
    if (place := wanted.place) is not None:
        architectures.check_known(read_json(place / "config.json", f"model {wanted.model!r}"), wanted.model)


def check_sizes(wanted: Wanted) -> None:
    """Samples and workloads that are longer than the model's context."""
    if (place := wanted.place) is None:
        return
    config = read_json(place / "config.json", f"model {wanted.model!r}")
    limit = context_of(config)
    for option, tokens in wanted.sizes.items():
        if limit is not None and tokens > limit:
            raise UsageError(option, f"{tokens} tokens", expected=f"at most {limit}, the context of {wanted.model!r}")


def context_of(config: Mapping[str, Any]) -> int | None:
    """Most positions that a model's configuration names; None where it does not say."""
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            for name in _LENGTHS:
                if isinstance(part.get(name), int) and part[name] > 0:
                    return int(part[name])
    return None


CHECKS: Final[tuple[Callable[[Wanted], None], ...]] = (
    check_texts,
    check_numbers,
    check_directories,
    check_device,
    check_calibration,
    check_model,
    check_sizes,
)


def check_options(wanted: Wanted, checks: Sequence[Callable[[Wanted], None]] = CHECKS) -> None:
    """Run all checks that need no table of methods. Imports torch only for a device other than the CPU.

    Raises:
        UsageError: the first thing that is wrong.
    """
    for check in checks:
        try:
            check(wanted)
        except UsageError:
            raise
        except QuantgateError as error:
            raise UsageError(error.who, error.found, expected=error.expected, hint=error.hint) from error


def check_before(wanted: Wanted, method: Method, data: DataSource | None) -> None:
    """The checks of a call from Python, which raise what `quantgate.quantize` names; no ``data``: calibration is given.

    Raises:
        QuantgateError: the first thing that is wrong.
    """
    for check in (check_device, check_numbers, check_calibration, check_model):
        check(wanted)
    check_architecture(wanted, [method], data)
    if data is not None:
        check_calibration_data(wanted, [method], data)


# --- what the methods need ------------------------------------------------------------------------------------------


def check_architecture(wanted: Wanted, methods: Sequence[Method], data: DataSource | None) -> None:
    """A model whose blocks hold matrices that no method here can quantize (GPT-2's Conv1D, fused experts)."""
    del data
    made_here = [method.id for method in methods if not (kind_of(method) or method.algorithm == NO_WEIGHTS)]
    if made_here and (place := wanted.place) is not None:
        config = read_json(place / "config.json", f"model {wanted.model!r}")
        architectures.check_quantizable(config, wanted.model, made_here)


def check_calibration_data(wanted: Wanted, methods: Sequence[Method], data: DataSource) -> None:
    """A calibration set that the data does not hold, that is too small, or that the model's tokenizer cannot render."""
    users = [method.id for method in methods if method.needs_calibration]
    for choice in (wanted.calibration, *wanted.further) if users else ():
        _check_set(wanted, choice, users[0], data)


def _check_set(wanted: Wanted, choice: CalibrationChoice, user: str, data: DataSource) -> None:
    for name in choice.statistics:
        if not Path(name).is_file():
            raise UsageError(f"--statistics {name}", "no such file", expected="a file of `quantgate statistics`")
    if choice.statistics:
        return
    source = source_called(choice.name)
    if choice.name == DIALOGUES and not wanted.further:
        count = count_dialogues(open_data(BUNDLED, BUNDLED_DATA, offline=True))
        if choice.n_samples > count:
            expected = f"at most {count}, as many dialogues as there are"
            raise UsageError("--calibration-samples", str(choice.n_samples), expected=expected)
    if source.chat and (place := wanted.place) is not None and is_directory(wanted.model):
        check_chat_template(place, wanted.model, readable(data))
    if lacking := source.lacking(data):
        shown = [DIALOGUES, *readable(data)][:_SETS_SHOWN]
        raise UsageError(
            f"--calibration {choice.name}",
            f"{lacking}, on which {user} is calibrated",
            expected="--data DIR that holds it, or --data hub",
            hint=f"with this data: --calibration {' or '.join(shown)}",
        )


def check_served_model(wanted: Wanted, methods: Sequence[Method], data: DataSource | None) -> None:
    """A reference that is a server: its small files, what is compared with it, and whether it answers."""
    del data
    check_served_reference(wanted.model, wanted.tokenizer, methods)


def check_candidates(wanted: Wanted, methods: Sequence[Method], data: DataSource | None) -> None:
    """A candidate whose files are not whole, or declare what cannot be judged: seen from configurations and headers."""
    del data
    for method in methods:
        if brought := kind_of(method):
            brought.check(method, wanted.place, wanted.offline)


CHECKS_OF_METHODS: Final[tuple[Callable[[Wanted, Sequence[Method], DataSource], None], ...]] = (
    check_served_model,
    check_architecture,
    check_calibration_data,
    check_candidates,
)


def check_methods(wanted: Wanted, methods: Sequence[Method], data: DataSource) -> None:
    """Run all checks of what ``methods`` need from the model and the data. Raises UsageError."""
    for check in CHECKS_OF_METHODS:
        try:
            check(wanted, methods, data)
        except UsageError:
            raise
        except QuantgateError as error:
            raise UsageError(error.who, error.found, expected=error.expected, hint=error.hint) from error
