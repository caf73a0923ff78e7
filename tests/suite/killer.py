"""A pytest plugin that kills its own process with SIGKILL at a chosen moment (``-p tests.suite.killer``).

``QUANTGATE_KILL=<place>:<n>`` names the place and how many times it is passed unharmed: ``quantize``
(after a stage was quantized), ``score`` (in the middle of an answer's line) or ``report`` (a report file half written).
"""

import os
import signal
from pathlib import Path


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def pytest_configure(config):
    place, _, count = os.environ["QUANTGATE_KILL"].partition(":")
    left = int(count)

    def passed():
        nonlocal left
        left -= 1
        return left < 0

    {"quantize": kill_quantizing, "score": kill_scoring, "report": kill_reporting}[place](passed)


def kill_quantizing(passed):
    from quantgate.quantize.sweep import driver

    original = driver._quantize

    def quantize(*args):
        original(*args)
        if passed():
            die()

    driver._quantize = quantize


def kill_scoring(passed):
    from quantgate.store import journal

    def add(self, index, response):
        line = journal.dump_line(index, response, self.key)
        if passed():
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            die()
        self._file.write(line)
        self._file.flush()

    journal.Journal.add = add


def kill_reporting(passed):
    from quantgate.reports import directory

    original = directory.write_atomically

    def write(path: Path, text):
        if passed():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.{os.getpid()}.part").write_text(text[: len(text) // 2])
            die()
        original(path, text)

    directory.write_atomically = write
