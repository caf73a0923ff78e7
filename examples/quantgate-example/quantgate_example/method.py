"""A method: a row, and the algorithm it names. Here an algorithm that quantgate has, with other settings."""

from quantgate.quantize.algorithms.rtn import Rtn
from quantgate.quantize.base import Method
from quantgate.quantize.catalogue.plugins import MethodPlugin
from quantgate.quantize.settings import RtnSettings

ROW = Method(
    id="coarse-w4",
    algorithm="coarse",
    settings=RtnSettings(bits=4, group_size=-1),
    bits=4,
    needs_calibration=False,
    storage="packed",
    code_version=1,
    summary="round to nearest, 4 bit, one scale a row",
    source="an example",
)
PLUGIN = MethodPlugin(rows=(ROW,), algorithms={"coarse": Rtn})
