"""Grids, packed integers, second-order statistics, the column loop: arithmetic that knows no method."""
