"""A reader of checkpoints: how one matrix is stored, and how it is unpacked. Here 8-bit codes and a scale a row."""

import re

from torch import Tensor

from quantgate.checkpoints.fields import Declared, account
from quantgate.checkpoints.layouts.parts import Headers, PartsLayout, Settings, Tensors, need, total
from quantgate.checkpoints.layouts.protocol import CHANNEL, StoredModule


def declares(config: Settings, who: str) -> Declared:
    """What config.json's ``quantization_config`` may say: nothing but which modules stay in 16 bit."""
    account(config, who, honoured=("quant_method", "kept"))
    kept = frozenset(config.get("kept", ()))
    return Declared("unfolded", lambda module: module == "lm_head" or module in kept, bits=8)


def describe(headers: Headers, settings: Settings) -> StoredModule:
    """From headers alone."""
    need(headers, settings["module"], "codes", "scale")
    rows, columns = headers["codes"].shape
    return StoredModule("int", 8, CHANNEL, True, headers["scale"].dtype, total(headers), (rows, columns))


def unpack(tensors: Tensors, settings: Settings) -> Tensor:
    """Float32 ``[out, in]``."""
    return tensors["codes"].float() * tensors["scale"].float().reshape(-1, 1)


ROWS = PartsLayout(
    "example-rows",
    methods=("example-rows",),  # values of quant_method
    parts=re.compile(r"(?P<layer>.+)\.(?P<key>codes|scale)"),  # layer.codes, layer.scale
    describe=describe,
    unpack=unpack,
    declares=declares,
    version=1,  # counts up when the same file unpacks into other weights
)
