"""A pytest plugin (``-p tests.suite.loads``) that writes down who loads what, and can kill a worker at a case.

``QUANTGATE_LOADS``: file that gets a line ``worker name`` for every model that is loaded. ``QUANTGATE_DIES_AT``: part
of the node id of the case at which the worker is gone, as when the kernel takes it for its memory.
"""

import os
from pathlib import Path

import pytest


def pytest_configure(config):
    from quantgate.engines.torch.row import TorchRow

    opened = TorchRow.open

    def counted(self, weights, *how):
        with Path(os.environ["QUANTGATE_LOADS"]).open("a") as file:
            worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
            file.write(f"{worker} {weights.name}\n")
        return opened(self, weights, *how)

    TorchRow.open = counted


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    place = os.environ.get("QUANTGATE_DIES_AT")
    if place and place in item.nodeid and "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)
