"""All token sequences of a run as one tree, so that every shared prefix exists once.

Tokens are numbered in preorder (the sequences are inserted in sorted order), which makes the tree three flat lists:
``tokens[i]``, ``depth[i]`` (position in its sequence) and ``end[i]`` (one past the last token of the subtree of ``i``).
A subtree is the range ``i..end[i]``, and ``j`` is an ancestor of ``i`` (or ``i`` itself) exactly when
``j <= i < end[j]``. No node objects, no recursion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quantgate.core.requests import Tokens

_STRIDE: Final = 64  # tokens compared at once while looking for a common prefix


def common_prefix(left: Tokens, right: Tokens) -> int:
    """Number of leading tokens that both sequences share."""
    at, limit = 0, min(len(left), len(right))
    while at + _STRIDE <= limit and left[at : at + _STRIDE] == right[at : at + _STRIDE]:
        at += _STRIDE
    while at < limit and left[at] == right[at]:
        at += 1
    return at


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Preorder lists over the unique tokens of a run; see the module's docstring."""

    tokens: list[int]
    depth: list[int]
    end: list[int]

    def __len__(self) -> int:
        return len(self.tokens)

    def run_end(self, start: int) -> int:
        """One past the last token that follows ``start`` without a branch."""
        stop, at = self.end[start], start + 1
        while at < stop and self.end[at] == stop:
            at += 1
        return at

    def branches(self, start: int, stop: int) -> list[int]:
        """First tokens of the subtrees that lie side by side in ``start..stop``."""
        found: list[int] = []
        while start < stop:
            found.append(start)
            start = self.end[start]
        return found


def build_tree(sequences: Sequence[Tokens], tails: Sequence[int]) -> tuple[PrefixTree, list[list[int]]]:
    """The tree of all sequences, and for each the tree ids of its last ``tails[i]`` tokens.

    Args:
        sequences: non-empty token sequences, in any order, with any number of duplicates.
        tails: how many trailing ids to return per sequence (a whole path of a long context is rarely needed).
    """
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    tokens: list[int] = []
    depth: list[int] = []
    parent: list[int] = []
    path: list[int] = []
    ids: list[list[int]] = [[] for _ in sequences]
    previous: Tokens = ()
    for index in order:
        sequence = sequences[index]
        shared = common_prefix(previous, sequence)
        del path[shared:]
        for at in range(shared, len(sequence)):
            parent.append(path[-1] if path else -1)
            path.append(len(tokens))
            tokens.append(sequence[at])
            depth.append(at)
        ids[index] = path[len(sequence) - tails[index] :]
        previous = sequence
    end = list(range(1, len(tokens) + 1))
    for at in range(len(tokens) - 1, -1, -1):
        if parent[at] >= 0 and end[parent[at]] < end[at]:
            end[parent[at]] = end[at]
    return PrefixTree(tokens, depth, end), ids
