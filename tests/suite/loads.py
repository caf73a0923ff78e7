"""A pytest plugin (``-p tests.suite.loads``) that writes down who loads what, and can kill a worker at a case.

``QUANTGATE_LOADS``: file that gets a line ``worker name`` for every model that is loaded. ``QUANTGATE_DIES_AT``: part
of the node id of the case at which the worker is gone, as when the kernel takes it for its memory.
"""

import os
from pathlib import Path
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    from quantgate.engines.torch.row import TorchRow

    opened = TorchRow.open

    def counted(self: TorchRow, weights: Any, *how: Any) -> Any:
        with Path(os.environ["QUANTGATE_LOADS"]).open("a") as file:
            worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
            file.write(f"{worker} {weights.name}\n")
        return opened(self, weights, *how)

    TorchRow.open = counted  # type: ignore[method-assign, assignment]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    place = os.environ.get("QUANTGATE_DIES_AT")
    if place and place in item.nodeid and "PYTEST_XDIST_WORKER" in os.environ:
        os._exit(1)
