"""quantgate: may this quantized language model replace its 16-bit original? The answer, with evidence."""
