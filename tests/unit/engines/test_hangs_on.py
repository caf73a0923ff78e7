"""What an engine's identity hangs on is known of our own engine alone, not of what somebody made of it."""

from pathlib import Path

import pytest

from quantgate.engines.guarded import Guarded
from quantgate.engines.protocol import Setting
from quantgate.engines.torch.row import TorchRow


class Around:
    """An engine that stands around another one, and says more of itself."""

    def __init__(self):
        self.inner = TorchRow()

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def identity(self, model, who, setting):
        return {**self.inner.identity(model, who, setting), "kernel": "ours"}


class Under(TorchRow):
    """An engine that is made of ours."""


def changed():
    row = TorchRow()
    row.identity = lambda model, who, setting: {"kernel": "ours"}
    return row


@pytest.mark.parametrize("make", [Around, Under, changed])
def test_of_an_engine_made_of_ours_nothing_is_remembered(make):
    assert Guarded(make()).hangs_on(Setting()) is None


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux says what processor it runs on")
def test_ours_hangs_on_what_is_chosen():
    told = [Guarded(TorchRow()).hangs_on(setting) for setting in (Setting(), Setting("float32"), Setting("float16"))]
    assert None not in told
    assert len({tuple(sorted(each.items())) for each in told}) == 3
    assert Guarded(TorchRow()).hangs_on(Setting(device="cuda:0")) is None
