"""Content-addressed store of quantized models and answers; baselines on disk."""
