"""Whether a model's files are still those that were digested: what is loaded later must be what the digest stands for.

Answers are kept by a digest that is taken before the model is loaded. Files that are replaced in between would be asked
under the name of the earlier ones, and their answers served for them ever after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from quantgate.core.errors import ModelError
from quantgate.models.digest import ModelDigest, digest_model
from quantgate.models.files import config_files, model_files, tokenizer_files

_WEIGHTS: Final = (".safetensors", ".safetensors.index.json")
Stamps = tuple[tuple[str, int, int, int, int, int], ...]
"""Name, device, inode, bytes, and times of the last change of content and of status (ns) of every file."""


def small_files(directory: Path) -> list[Path]:
    """Those that make up a model without its weights: configuration, tokenizer, chat templates."""
    return [*config_files(directory), *tokenizer_files(directory)]


def stamps(directory: Path, files: Callable[[Path], list[Path]] = model_files) -> Stamps:
    """What the file system says of the files that make up the model in ``directory``; reads no weight.

    Links are followed. The time of the last change of status cannot be set by a program, so no replaced or rewritten
    file keeps its stamp.

    Raises:
        ModelError: there are no weights, or a file is gone while it is looked at.
    """
    found = []
    for file in files(directory):
        try:
            facts = file.stat()
        except OSError as error:
            raise _changed(str(directory), file.name) from error
        place = file.relative_to(directory).as_posix()
        found.append((place, facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))
    return tuple(found)


def check_unchanged(directory: Path, before: Stamps, same: Callable[[ModelDigest], bool], who: str) -> None:
    """Refuse a model whose files changed since the stamps ``before`` were taken, which was before they were digested.

    Files that were touched and say the same (another time, another right) are digested once more and let through.

    Args:
        directory: the model's directory.
        before: its stamps when the run first looked at it.
        same: whether a digest is that of the files as of then.
        who: what is asked, for the message.

    Raises:
        ModelError: names the files that are not what they were.
    """
    now = stamps(directory)
    if now != before and not same(digest_model(directory, who)):
        raise _changed(who, ", ".join(sorted({entry[0] for entry in set(now) ^ set(before)})[:3]))


def check_small_unchanged(directory: Path, before: Stamps, who: str) -> None:
    """As `check_unchanged`, of the small files alone."""
    if (now := stamps(directory, small_files)) != before:
        raise _changed(who, ", ".join(sorted({entry[0] for entry in set(now) ^ set(before)})[:3]))


def has_small_changed(directory: Path, before: Stamps) -> bool:
    """Whether a file beside the weights is not as it was when the stamps ``before`` were taken; reads none of them.

    ``before``: of the small files, or of all. A file that was touched and says the same counts as changed.
    """
    try:
        now = stamps(directory, small_files)
    except (ModelError, OSError):
        return True
    return set(now) != {each for each in before if not each[0].endswith(_WEIGHTS)}


def _changed(who: str, names: str) -> ModelError:
    return ModelError(
        who,
        f"its files changed during the run ({names})",
        expected="the same files from the first look to the last answer",
        hint="leave the directory alone while a run reads it, and run again",
    )
