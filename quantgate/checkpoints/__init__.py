"""Stored weight forms: what a checkpoint declares, how it is read, written and audited."""
