"""Candidates: quantized checkpoints that somebody else made, judged like our own subjects (``--candidate NAME=DIR``).

What was quantized is found out, not believed: every weight matrix of the reference's blocks is looked up in the
candidate's files. It is quantized if it is stored in another form or with other values, and unchanged otherwise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from quantgate.audit import audited, check_complete
from quantgate.errors import ModelError, UsageError
from quantgate.models.digest import digest_model
from quantgate.models.files import weight_files
from quantgate.models.loading import load_reference, load_tokenizer
from quantgate.models.source import ModelFiles, check_model_directory, read_json
from quantgate.quantize.base import Method, QuantizationRecord
from quantgate.store.store import Store
from quantgate.subjects import Subject

ALGORITHM: Final = "candidate"
_BLOCK_WEIGHT: Final = re.compile(r".*\.\d+\..*\.weight")  # a numbered block: neither embeddings nor the output head
_ALIKE: Final = ("hidden_size", "num_hidden_layers", "vocab_size")
_PROBES: Final = ("The 3 ships sailed at 07:45.", "  naïve café — 东京\n\tdef f(x): return x**2", "<|im_start|>user")

_WORDS: Final = 64  # tokens of the vocabulary in one probe


@dataclass(frozen=True)
class CandidateSettings:
    """``directory``: where the checkpoint lies."""

    directory: str


def parse_candidate(text: str) -> Method:
    """``NAME=DIR`` as a row of the method table.

    Raises:
        UsageError: no name, no directory, or an address, which this engine cannot ask.
    """
    name, equals, place = text.partition("=")
    who = f"--candidate {text}"
    if not equals or not name or not place:
        raise UsageError(who, "no NAME=DIR", expected="a short name, '=', and a checkpoint directory")
    if "://" in place:
        raise UsageError(who, "an address", expected="a directory", hint="download the checkpoint first")
    if not re.fullmatch(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*", name):
        raise UsageError(who, f"the name {name!r}", expected="lower-case letters, digits, '-' and '_'")
    if not Path(place).is_dir():
        raise UsageError(who, f"{place!r} is no directory", expected="a checkpoint in safetensors")
    return Method(
        id=name,
        algorithm=ALGORITHM,
        settings=CandidateSettings(str(Path(place).resolve())),
        bits=16,
        needs_calibration=False,
        storage="packed",
        code_version=1,
        summary="a checkpoint made elsewhere",
        source=Path(place).name,
    )


def open_candidate(model: ModelFiles, method: Method, store: Store) -> Subject:
    """The candidate as a subject of ``model``.

    Raises:
        ModelError: it is incomplete, or of another architecture than the reference.
    """
    assert isinstance(method.settings, CandidateSettings)
    path = Path(method.settings.directory)
    who = f"candidate {method.id!r}"
    check_model_directory(path, method.id)
    _check_alike(model.path, path, who)
    check_complete(model.path, path, who)
    record, unchanged = _inspect(model.path, path, method)
    weights = weight_files(path, who)
    if weights.leftovers:
        store.progress.note(f"{who}: {weights.note()}")
    loaded = digest_model(path, who).loaded
    problems = [
        *_claimed(record),
        *_tokenizer_problems(model.path, path),
        *audited(model, path, loaded, store, who),
    ]
    return Subject(method, path, record, loaded, True, unchanged, tuple(problems), weights.leftovers)


def load_candidate(path: Path, name: str, dtype: str, device: str) -> Any:
    """The model in evaluation mode: our own reader for the layouts it knows, transformers for all others."""
    from quantgate.models.loading import torch_dtype
    from quantgate.quantize.checkpoint import is_known_layout, load_quantized

    if is_known_layout(read_json(path / "config.json", name)):
        return load_quantized(path, torch_dtype(dtype), device)
    return load_reference(path, name, dtype, device)


def _check_alike(reference: Path, candidate: Path, who: str) -> None:
    ours, theirs = (read_json(path / "config.json", who) for path in (reference, candidate))
    for name in _ALIKE:
        if ours.get(name) != theirs.get(name):
            raise ModelError(
                who, f"{name} {theirs.get(name)}", expected=f"{ours.get(name)}, as in the reference",
                hint="give the 16-bit model it was made from with --model",
            )  # fmt: skip


def _claimed(record: QuantizationRecord) -> list[str]:
    """Says so when the configuration claims fewer bits than plain weights hold: a claim is no fact of the files."""
    if record.storage == "packed" or record.bits_nominal >= round(record.bits_effective):
        return []
    return [
        f"config.json says {record.bits_nominal} bits, and every weight matrix is stored plainly: "
        f"the files hold {record.bits_effective:.1f} bits a weight"
    ]


def _tokenizer_problems(reference: Path, candidate: Path) -> list[str]:
    """How the candidate's tokenizer, if it brings one, differs in what it does."""
    if not any((candidate / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return []
    ours, theirs = (load_tokenizer(path, path.name) for path in (reference, candidate))
    numbers = theirs.get_vocab()
    if any(numbers.get(token) != number for token, number in ours.get_vocab().items()):
        return ["the candidate's tokenizer numbers tokens otherwise than the reference's"]
    if any(ours.encode(probe) != theirs.encode(probe) for probe in _probes(ours)):
        return ["the candidate's tokenizer splits text otherwise than the reference's"]
    if theirs.chat_template and ours.chat_template != theirs.chat_template:
        return ["the candidate's chat template is not the reference's"]
    return []


def _probes(tokenizer: Any) -> list[str]:
    """Texts that show how a tokenizer splits: a few odd ones, and every token of its vocabulary as a word.

    A merge that is missing or comes too late shows in no text but those that need it.
    """
    words = [tokenizer.convert_tokens_to_string([token]) for token in sorted(tokenizer.get_vocab())]
    lines = [" ".join(words[start : start + _WORDS]) for start in range(0, len(words), _WORDS)]
    return [*_PROBES, *lines]


def _inspect(reference: Path, candidate: Path, method: Method) -> tuple[QuantizationRecord, tuple[str, ...]]:
    """What the files say: modules, unchanged ones, bits. All tensors of a module count, whatever they are called."""
    import torch

    from quantgate.quantize.checkpoint import bytes_on_disk, stored_tensors

    theirs = dict(stored_tensors(candidate))
    modules: dict[str, int] = {}
    unchanged, stored, packed = [], 0, False
    for name, weight in stored_tensors(reference):
        if weight.ndim != 2 or not _BLOCK_WEIGHT.fullmatch(name):
            continue
        module = name.removesuffix(".weight")
        own = {key: value for key, value in theirs.items() if key.startswith(f"{module}.") and key != f"{module}.bias"}
        modules[module] = weight.numel()
        stored += sum(value.nbytes for value in own.values())
        same = own.get(name)
        if same is None or not same.is_floating_point() or same.shape != weight.shape:
            packed = True
        elif torch.equal(same.to(torch.bfloat16), weight.to(torch.bfloat16)):
            unchanged.append(module)
    weights = sum(modules.values())
    config = read_json(candidate / "config.json", method.id).get("quantization_config") or {}
    bits = 8 * stored / max(weights, 1)
    record = QuantizationRecord(
        method=method.as_record() | {"quantization_config": config},
        calibration=None,
        bits_nominal=int(config.get("bits", round(bits))),
        bits_effective=bits,
        bytes_on_disk=bytes_on_disk(candidate),
        storage="packed" if packed else "fake",
        seconds=0.0,
        quantized_modules=tuple(modules),
    )
    return record, tuple(unchanged)
