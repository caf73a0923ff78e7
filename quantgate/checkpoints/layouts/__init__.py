"""Layouts of checkpoints that other tools write: one file a reader, one table."""
