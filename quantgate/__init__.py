"""quantgate: may this quantized language model replace its 16-bit original? The answer, with evidence."""

from quantgate import quantize as quantize  # callable: quantgate.quantize(model, method, calibration, store)
