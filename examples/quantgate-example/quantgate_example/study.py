"""A study: which calibration sets meet which tests. The matrix of both, and what it shows, follow by themselves."""

from collections.abc import Sequence

from quantgate.studies.protocol import Part, Study
from quantgate.tasks.data import DataSource


def parts(data: DataSource) -> Sequence[Part]:
    """One part: every set meets every test. What ``data`` lacks would be named in ``missing``."""
    return [Part(sets=("sums", "dialogues"), tests=("parity", "sureness"))]


STUDY = Study("arithmetic", "does a model that is calibrated on sums keep more of what it knows of numbers?", parts)
