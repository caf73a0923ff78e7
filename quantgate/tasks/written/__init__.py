"""Benchmarks written down instead of programmed: a TOML file of this project's, or a task file of lm-eval's."""
