"""Layer by layer through a model."""
