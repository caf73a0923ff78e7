"""The low-rank term that makes up for the error of a matrix, as far as its inputs show that error. No training.

EoRA (arXiv 2410.21271): with ``X X' = Q L Q'`` and ``root = Q sqrt(L)`` the output error of a correction is
``||(E - B A) X||_F = ||(E - B A) root||_F``. So the best correction of rank r is the truncated singular value
decomposition of ``E root``, taken back through the inverse of ``root`` (Eckart and Young): an optimum, no heuristic.
Directions that no input has are left out: whatever stands there changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor


def correction(error: Tensor, gram: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """``B`` ``[out, r]`` and ``A`` ``[r, in]`` of the least ``||(error - B A) X||_F``.

    Args:
        error: original minus quantized weight, ``[out, in]``.
        gram: ``X X'`` of the inputs ``X`` ``[in, tokens]``, times any positive factor; symmetric ``[in, in]``.
        rank: ``r``, which is cut to what the error has.

    Returns:
        float64, ``r`` columns and rows, of which those beyond the error's own rank are zero. Both parts carry the root
        of the singular values, so that neither is out of a 16-bit format's range.
    """
    values, vectors = torch.linalg.eigh(gram.double())
    floor = float(values[-1]) * len(values) * torch.finfo(torch.float32).eps  # grams are summed in float32
    seen = values > floor
    scale, basis = values[seen].sqrt(), vectors[:, seen]
    left, sizes, right = torch.linalg.svd((error.double() @ basis) * scale, full_matrices=False)
    kept = min(rank, len(sizes))
    half = sizes[:kept].sqrt()
    up = torch.zeros(len(error), rank, dtype=torch.float64, device=error.device)
    down = torch.zeros(rank, error.shape[1], dtype=torch.float64, device=error.device)
    up[:, :kept] = left[:, :kept] * half
    down[:kept] = half[:, None] * ((right[:kept] / scale) @ basis.T)
    return up, down


def output_error(error: Tensor, gram: Tensor) -> float:
    """``||error X||_F ** 2``, times the factor of ``gram``."""
    wide = error.double()
    return float(((wide @ gram.double()) * wide).sum())
