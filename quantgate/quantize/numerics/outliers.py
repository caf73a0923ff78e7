"""Single weights kept in 16 bit beside a quantized matrix, as compressed sparse rows (SpQR, section 4).

A row of the matrix is an output feature. 32 bits an outlier: 16 for the value, 16 for its column, and one 32-bit row
pointer an output feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from quantgate.core.errors import ModelError

_NARROW: Final = 1 << 15  # columns that fit an int16
KEYS: Final = ("outlier_values", "outlier_columns", "outlier_rows")


@dataclass(frozen=True)
class Outliers:
    """``values``: bf16 or fp16 ``[n]``, row by row. ``columns``: int16 ``[n]`` (int32 from 32,768 input features on).

    ``rows``: int32 ``[out + 1]``; the outliers of row ``i`` are ``rows[i]`` up to ``rows[i + 1]``.
    """

    values: Tensor
    columns: Tensor
    rows: Tensor

    @property
    def count(self) -> int:
        """Number of outliers."""
        return self.values.numel()

    def put_into(self, weight: Tensor) -> Tensor:
        """Overwrite the outliers' places in ``weight`` (float32 ``[out, in]``); returns it."""
        counts = self.rows.diff().to(torch.int64)
        index = torch.repeat_interleave(torch.arange(len(counts), device=weight.device), counts)
        weight[index, self.columns.to(torch.int64)] = self.values.to(weight.dtype)
        return weight

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores; nothing when there is no outlier."""
        return dict(zip(KEYS, (self.values, self.columns, self.rows), strict=True)) if self.count else {}


def outliers_of(weight: Tensor, mask: Tensor, dtype: torch.dtype) -> Outliers:
    """The entries of ``weight`` (``[out, in]``) where ``mask`` is true, in ``dtype``."""
    rows, columns = torch.nonzero(mask, as_tuple=True)  # row by row
    narrow = torch.int16 if weight.shape[1] <= _NARROW else torch.int32
    pointers = torch.zeros(len(weight) + 1, dtype=torch.int32, device=weight.device)
    pointers[1:] = mask.sum(1).cumsum(0)
    return Outliers(weight[rows, columns].to(dtype), columns.to(narrow), pointers)


def read_outliers(tensors: Mapping[str, Tensor], shape: tuple[int, int], who: str) -> Outliers:
    """Read what `Outliers.tensors` stored beside a matrix of ``shape`` (``[out, in]``).

    Raises:
        ModelError: parts are missing or contradict each other; a column outside the matrix.
    """
    present = [key for key in KEYS if key in tensors]
    if not present:
        nothing = torch.zeros(shape, dtype=torch.bool)
        return outliers_of(torch.zeros(shape), nothing, torch.float16)
    if len(present) < len(KEYS):
        raise ModelError(who, f"only {', '.join(present)}", expected=", ".join(KEYS))
    outliers = Outliers(*(tensors[key] for key in KEYS))
    rows, columns = outliers.rows, outliers.columns
    sound = (
        len(rows) == shape[0] + 1
        and int(rows[0]) == 0
        and int(rows[-1]) == len(columns) == outliers.count
        and bool((rows.diff() >= 0).all())
        and 0 <= int(columns.min()) <= int(columns.max()) < shape[1]
    )
    if not sound:
        raise ModelError(who, "outliers that do not fit the matrix", expected=f"compressed sparse rows of {shape}")
    return outliers
