"""Quantization methods, the layer-by-layer driver, checkpoints."""
