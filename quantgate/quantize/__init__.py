"""Quantization methods, and what takes them layer by layer through a model."""
