"""The audit: what a checkpoint's files hold, matrix by matrix, and how that fits its reference and its declaration.

Tensors are read one module at a time: the memory is that of a few copies of the largest matrix, whatever the size of
the checkpoint. Nothing is scored; what is found here is what no rounding of the reference can have given.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from quantgate.checkpoints import biases, matrices, token_rows
from quantgate.checkpoints.causes import order_of_groups
from quantgate.checkpoints.findings import ERROR, FACT, WARNING, Audit, Finding, MatrixRow, named
from quantgate.checkpoints.folds import Factors, Folds
from quantgate.checkpoints.layouts.plain import LAYOUT as PLAIN
from quantgate.checkpoints.layouts.protocol import Checkpoint, Reference, StoredModule
from quantgate.checkpoints.layouts.table import open_checkpoint
from quantgate.checkpoints.reordered import InOrder, moved, orders_of
from quantgate.checkpoints.turned import Turned
from quantgate.core.errors import ModelError
from quantgate.core.words import counted
from quantgate.models.digest import HEAD

if TYPE_CHECKING:
    from torch import Tensor

VERSION: Final = 15  # counts up when other things are found in the same files
_HALF: Final = 0.5
_CHANGED: Final = 0.1  # of a matrix in 16 bit: a fine-tune moves it by less, a fold by more
_UNLIKE: Final = 0.9  # share of a weight that may be error where the width of its grid is unknown or very small
# Rounding with feedback (GPTQ) moves weights further than to the nearest level. With eight samples of calibration the
# worst matrix of the bundled model had seven times that error, and its usual matrix twice.
_SLACK: Final = 25.0  # of one matrix
_USUAL: Final = 4.5  # of the median matrix
_APART: Final = 4.0  # times its neighbours' error
_SPREAD: Final = 0.04  # of the factors between groups that rounding of scales and weights leaves
_NOISE: Final = 3.0  # standard deviations of what rounding adds to that
_TURNED: Final = 0.3  # of products of embedding and first matrices, after both were turned and rounded
_COARSE: Final = 0.05  # of a matrix that was rounded to 4 bits before it was stored in 8: 1% to 3% of it is error
_ALL: Final = 0.9  # share of the matrices
_SHIFTED: Final = 0.2  # share of the groups
_FINE: Final = 4  # bits: coarser codes leave single groups far from the original
_NEAREST: Final = 1.4  # times the least error: rounding to the nearest has 1.0, GPTQ in 4 bits 1.6 to 6
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_MOST_TIMES: Final = 16  # bytes of a weight with all that belongs to it
_ROOM: Final = 1 << 20  # for what small matrices have beside them
_EMBEDDING: Final = "embed_tokens.weight"
_ONE_MORE: Final = (  # whose norms multiply by 1 + weight
    "gemma", "gemma2", "gemma3", "gemma3_text", "vaultgemma", "recurrent_gemma", "nemotron", "qwen3_next", "qwen3_5",
    "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text",
)  # fmt: skip


@dataclass
class _Seen:
    """What was measured, by module; sentences are made of it at the end."""

    rows: list[MatrixRow] = field(default_factory=list)
    dead: list[str] = field(default_factory=list)
    empty: dict[str, int] = field(default_factory=dict)
    infinite: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    far: dict[str, float] = field(default_factory=dict)
    causes: list[Finding] = field(default_factory=list)
    folds: Folds = field(default_factory=Folds)
    apart: dict[str, float] = field(default_factory=dict)
    twice: dict[str, float] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    lost_unless_folded: dict[str, int] = field(default_factory=dict)
    negative: list[str] = field(default_factory=list)
    zero: dict[str, int] = field(default_factory=dict)
    same: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    shifted: dict[str, float] = field(default_factory=dict)
    rounded: set[str] = field(default_factory=set)  # to few bits before they were stored in more
    turned: Turned | None = None
    unexplained: list[str] = field(default_factory=list)  # what differs is hardly less once the best factors are off

    def forget(self, module: str) -> None:
        """Take back what was measured of one matrix."""
        self.rows = [row for row in self.rows if row.module != module]
        self.causes = [each for each in self.causes if module not in each.modules[:1]]
        self.far.pop(module, None)
        for names in self.same.values():
            if module in names:
                names.remove(module)


def inspect(place: Path, reference: Path | None, who: str) -> Audit:
    """The audit of the checkpoint in ``place``; ``reference``: directory of its 16-bit original, if there is one.

    Raises:
        ModelError: a file or a module is incomplete.
    """
    checkpoint = open_checkpoint(place, reference, who)
    ours = PLAIN.open(reference, None, who) if reference is not None else None
    return inspect_opened(checkpoint, ours)


def inspect_opened(checkpoint: Checkpoint, ours: Checkpoint | None) -> Audit:
    """`inspect` for checkpoints that are open already. Raises ModelError."""
    _check_sizes(checkpoint, ours)
    findings = [*checkpoint.suspicions()]
    turned = None if ours is None else _embedding(checkpoint, ours, findings)
    seen = _Seen(turned=turned)
    for module, stored in checkpoint.modules.items():
        _look(module, stored, checkpoint, None if turned else ours, seen)
    if turned is not None:
        turned.see_plain()
        seen.far |= turned.unlike
    if ours is not None and turned is None:
        for name in _plain_matrices(checkpoint, ours):
            _look_plain(name, checkpoint, ours, seen)
        in_order, more = _in_order(checkpoint, ours, seen)
        seen.folds.fit = lambda module: _factors(module, checkpoint, in_order)
        findings += [*more, *_others(checkpoint, ours, seen)]
        # other weights and no factors: GPTQ's feedback moves columns so, a fine-tune all matrices
        tuned = _usually(seen) > _USUAL
        seen.folds.forget([module for module in seen.unexplained if tuned or module not in seen.zero])
        findings += seen.folds.findings(checkpoint.config)
        lost = seen.lost_unless_folded.items()
        seen.lost |= {name: much for name, much in lost if not _folded(name, checkpoint, in_order, seen)}
    findings += [*_structure(seen), *_values(seen), *_neighbours(seen.rows), *_facts(checkpoint, seen)]
    order = {ERROR: 0, WARNING: 1, FACT: 2}
    return Audit(checkpoint.layout, tuple(seen.rows), tuple(sorted(findings, key=lambda each: order[each.level])))


def _check_sizes(checkpoint: Checkpoint, ours: Checkpoint | None) -> None:
    """Refuse, by headers alone, tensors far larger than what they stand for: a file with holes holds terabytes."""
    shapes = {name: shape for name, (_, shape) in ours.plain.items()} if ours is not None else {}
    sizes = {name: (each.nbytes, shapes.get(f"{name}.weight", each.shape)) for name, each in checkpoint.modules.items()}
    sizes |= {name: (math.prod(shape), shapes[name]) for name, (_, shape) in checkpoint.plain.items() if name in shapes}
    for name, (size, shape) in sizes.items():
        if size > _MOST_TIMES * math.prod(shape) + _ROOM:
            raise ModelError(
                name, f"{size} bytes or numbers for a tensor {tuple(shape)}", expected="a tensor of about that size",
                hint="write the checkpoint again",
            )  # fmt: skip


def _in_order(checkpoint: Checkpoint, ours: Checkpoint, seen: _Seen) -> tuple[Reference, list[Finding]]:
    """Look once more at matrices that are only in another order, as all that they meet are: the reference in that."""
    if not seen.far:
        return ours, []
    orders = orders_of(seen.far, checkpoint, ours)
    again = InOrder(ours, orders)
    for module in orders:
        seen.forget(module)
        if module in checkpoint.modules:
            _look(module, checkpoint.modules[module], checkpoint, again, seen)
        else:
            _look_plain(f"{module}.weight", checkpoint, again, seen)
    names = tuple(moved(orders))
    sentence = f"heads or hidden features of {named(names)} in another order"
    return again, [Finding("reordered", FACT, sentence, names)] if names else []


def _factors(module: str, checkpoint: Checkpoint, ours: Reference) -> Factors | None:
    """Factors between a matrix and the reference's; None where they cannot be compared."""
    name = f"{module}.weight"
    weight = ours.tensor(name).float()
    found = checkpoint.weight(module) if module in checkpoint.modules else checkpoint.tensor(name).float()
    if found.shape != weight.shape or not bool(found.sum().isfinite()):
        return None
    stored = checkpoint.modules.get(module)
    least = matrices.LEAST if stored is None else matrices.least_error(weight, stored)
    return Factors.of(matrices.fit_scales(weight, found), _USUAL * least)


def _embedding(checkpoint: Checkpoint, ours: Checkpoint, findings: list[Finding]) -> Turned | None:
    """How the whole model was turned (rotated), so that no element can be compared; None where it is not."""
    name = next((each for each in ours.plain if each.endswith(_EMBEDDING)), "")
    if checkpoint.plain.get(name, ("",))[0] not in _FLOATS:
        return None
    one, other = ours.tensor(name), checkpoint.tensor(name)
    if one.shape != other.shape:
        return None
    one, other = (each.float() for each in matrices.sampled(one, other))
    if not bool(other.isfinite().all()) or matrices.plain_distance(one, other) < _HALF:
        return None
    if matrices.is_rotation(one, other) and _turned_alike(one, other, checkpoint, ours):
        sentence = "the model was rotated: embedding and matrices are compared by no element, but by what tokens meet"
        findings.append(Finding("rotated", FACT, sentence, (name,)))
        return Turned(checkpoint, ours, (one, other), int(ours.config.get("model_type") in _ONE_MORE))
    sentence = f"{name} is not the reference's, nor is the model a rotation of it"
    findings.append(Finding("embedding", ERROR, sentence, (name,)))
    return None


def _turned_alike(one: Tensor, other: Tensor, checkpoint: Checkpoint, ours: Checkpoint) -> bool:
    """Whether a first matrix, with the norm before it, sees what it saw: both were turned by the same rotation."""
    step = max(1, len(one) // 128)
    for name, (_, shape) in ours.plain.items():
        module = name.removesuffix(".weight")
        norm = _norm_before(module, ours)
        if ".1." in module or norm not in checkpoint.plain or len(shape) != 2 or shape[1] != one.shape[1]:
            continue
        found = checkpoint.weight(module) if module in checkpoint.modules else checkpoint.tensor(name).float()
        before, after = ours.tensor(name).float() * ours.tensor(norm).float(), found * checkpoint.tensor(norm).float()
        if matrices.plain_distance(before @ one[::step].t(), after @ other[::step].t()) < _TURNED:
            return True
    return False


def _norm_before(module: str, ours: Checkpoint) -> str:
    """The first norm of the module's block, as wide as the module's input."""
    block = module.split(".self_attn")[0].split(".mlp")[0]
    return next(
        (name for name, (_, shape) in ours.plain.items() if name.startswith(f"{block}.input") and len(shape) == 1), ""
    )


def _look(module: str, stored: StoredModule, checkpoint: Checkpoint, ours: Reference | None, seen: _Seen) -> None:
    """Measure one quantized matrix."""
    found = checkpoint.weight(module)
    _check_scales(module, checkpoint.scales(module), seen)
    error = least = None
    name = f"{module}.weight"
    if not bool(found.sum().isfinite()):  # one that is not finite leaves no finite sum
        seen.infinite.append(module)
    elif ours is not None and name in ours.plain:
        error, least = _compare(module, matrices.Pair(ours.tensor(name), found), stored, ours, checkpoint, seen)
    elif matrices.is_zero(found):
        seen.dead.append(module)
    elif seen.turned is not None:
        seen.turned.see(module, found, stored.bits)
        if lost := matrices.empty_blocks(found.new_ones(found.shape), found, stored.group):
            seen.empty[module] = lost  # a rotation leaves no group of zeros
    seen.same[_print_of(found)].append(module)
    seen.rows.append(MatrixRow(module, stored.in_words(), stored.bits, stored.nbytes, stored.shape, error, least))


def _compare(
    module: str,
    pair: matrices.Pair,
    stored: StoredModule,
    ours: Reference,
    checkpoint: Checkpoint,
    seen: _Seen,
) -> tuple[float | None, float | None]:
    weight, found = pair.weight, pair.found
    if found.shape != weight.shape:
        seen.shapes.append(f"{module} is {tuple(found.shape)}, not {tuple(weight.shape)}")
        return None, None
    if matrices.is_zero(weight):
        return (0.0 if matrices.is_zero(found) else 1.0), matrices.LEAST
    if matrices.is_zero(found):
        seen.dead.append(module)
        return 1.0, None
    seen.folds.looked_at.append(module)
    least = matrices.least_error(pair.sample[0], stored)
    error = matrices.plain_distance(*pair.sample)
    fitted = error > _USUAL * least
    if fitted:
        error = min(error, pair.fit.error)
    seen.causes += order_of_groups(module, pair.fit.scaled if fitted else weight, checkpoint)
    if lost := matrices.empty_blocks(*pair.sample, stored.group):
        seen.empty[module] = lost
    elif error > min(_UNLIKE, _SLACK * least):
        seen.far[module] = error
        seen.causes += _causes(module, pair.wide, found, least, ours)
    else:
        both = matrices.sampled(pair.fit.scaled, found) if fitted else pair.sample
        if stored.kind == "int":
            if stored.bits >= _FINE and (groups := _lost_groups(pair, stored, least, fitted)):
                count, folded = groups
                (seen.lost_unless_folded if folded else seen.lost)[module] = count
            share = matrices.shifted(*both, stored.group)
            seen.shifted |= {module: share} if share > _SHIFTED else {}
        _check_groups(module, pair, least, stored, fitted, seen)
    return error, least


def _lost_groups(pair: matrices.Pair, stored: StoredModule, least: float, fitted: bool) -> tuple[int, bool] | None:
    """How many groups hold something else, and whether factors of rows and columns could be why; None for none."""
    count = matrices.lost_groups(*pair.sample, stored, _NEAREST * least)
    if not count and not fitted:
        return None
    left = matrices.lost_groups(*matrices.sampled(pair.fit.scaled, pair.found), stored, _NEAREST * least)
    return (left or count, not left) if left or count else None


def _folded(module: str, checkpoint: Checkpoint, ours: Reference, seen: _Seen) -> bool:
    """Whether every group is there once what other tensors were divided by is multiplied in."""
    pair = matrices.Pair(ours.tensor(f"{module}.weight"), checkpoint.weight(module))
    for rows, columns in seen.folds.owed(module, checkpoint.config):
        both = matrices.sampled(pair.wide * rows.unsqueeze(1) * columns, pair.found)
        if not matrices.groups_off(*both, checkpoint.modules[module]):
            return True
    return False


def _check_groups(
    module: str, pair: matrices.Pair, least: float, stored: StoredModule, fitted: bool, seen: _Seen
) -> None:
    """Whether the scales are those of their groups, once what was folded in is taken off.

    Weights that are rounded twice (an adapter merged into rounded weights, and these rounded again) keep their codes,
    while each group's step follows its largest weight. On a symmetric grid that one lies half a step beyond the last
    level, so that the step moves by a share of one in ``2^bits - 1``, up or down.
    """
    size = stored.group if stored.group and stored.group > 0 else pair.weight.shape[1]
    allowed = _SPREAD + _NOISE * (least / size) ** 0.5
    twice = math.hypot(allowed, 1 / (2**stored.bits - 1)) if stored.kind == "int" and stored.symmetric else allowed

    def moved(weight: Tensor, found: Tensor) -> float:
        """The spread where it is beyond what rounding leaves; what a second rounding leaves is noted as such."""
        much = matrices.spread(weight, found, stored.group)
        if allowed < much <= twice and matrices.own_ranges(weight, found, stored.group):
            seen.twice[module] = much
            return 0.0
        return much if much > allowed else 0.0

    if not fitted and not moved(*pair.sample):
        return
    seen.folds.add(module, pair.fit, _USUAL * least)
    if pair.fit.error >= max(_HALF * matrices.plain_distance(*pair.sample), _USUAL * least):
        seen.unexplained.append(module)
    if apart := moved(pair.fit.scaled, pair.found):
        seen.apart[module] = apart


def _causes(module: str, weight: Tensor, found: Tensor, least: float, ours: Reference) -> Iterator[Finding]:
    """Why a matrix is no rounding of its own original, where that can be told."""
    allowed = min(_UNLIKE, _SLACK * least)
    alike = [name for name in ours.plain if name != f"{module}.weight" and name.endswith(".weight")]
    shapes = {name: ours.plain[name][1] for name in alike}
    others = [name for name in alike if shapes[name] == tuple(weight.shape)]
    if other := matrices.whose(found, others, lambda name: ours.tensor(name).float(), allowed):
        yield Finding(
            "holds_another", ERROR, f"{module} holds the weights of {other.removesuffix('.weight')}",
            (module, other.removesuffix(".weight")),
        )  # fmt: skip
        return


def _check_scales(module: str, scales: Mapping[str, Tensor], seen: _Seen) -> None:
    for tensor in scales.values():
        if not tensor.dtype.is_floating_point:
            continue
        values = tensor.float()
        if not bool(values.isfinite().all()):
            seen.infinite.append(module)
        if zeros := int((values == 0).sum()):
            seen.zero[module] = zeros
        if bool((values < 0).any()):
            seen.negative.append(module)


def _print_of(found: Tensor) -> int:
    """A number that equal matrices share and others hardly ever do."""
    step = max(1, found.numel() // 4096)
    sample = found.flatten()[::step].float().contiguous()
    return hash((tuple(found.shape), sample.numpy().tobytes()))


def _plain_matrices(checkpoint: Checkpoint, ours: Checkpoint) -> Iterator[str]:
    """Matrices that both hold as floats: those of the blocks, and the embedding."""
    for name, (dtype, shape) in ours.plain.items():
        if len(shape) == 2 and checkpoint.plain.get(name, ("",))[0] in _FLOATS and dtype in _FLOATS:
            yield name


def _look_plain(name: str, checkpoint: Checkpoint, ours: Reference, seen: _Seen) -> None:
    """A matrix that is stored as floats: it may be simulated, folded or fine-tuned, but it is the same matrix."""
    import torch

    weight, found = ours.tensor(name), checkpoint.tensor(name)
    module = name.removesuffix(".weight")
    seen.folds.looked_at.append(module)
    if found.shape != weight.shape:
        seen.shapes.append(f"{module} is {tuple(found.shape)}, not {tuple(weight.shape)}")
    elif not bool(found.sum(dtype=torch.float32).isfinite()):
        seen.infinite.append(module)
    elif not matrices.is_zero(weight) and matrices.is_zero(found):
        seen.dead.append(module)
    elif (error := matrices.plain_distance(*matrices.sampled(weight, found))) > _CHANGED and not name.endswith(
        _EMBEDDING
    ):
        weight, found = weight.float(), found.float()
        fit = matrices.fit_scales(weight, found)
        if fit.error > _HALF:
            seen.far[module] = error
            seen.causes += _causes(module, weight, found, matrices.LEAST, ours)
        elif fit.error < _HALF * error:  # else it is rounded to few bits, which factors explain but little
            seen.folds.add(module, fit, matrices.LEAST)
    seen.same[_print_of(found)].append(module)


def _coarser(seen: _Seen) -> Iterator[Finding]:
    """Fine grids that hold coarse values all over were rounded before: worse than they could be, and no damage."""
    measured = [row for row in seen.rows if row.error is not None]
    if not seen.far or len(seen.far) < _ALL * len(measured) or max(seen.far.values()) > _COARSE:
        return
    sentence = (
        f"{_matrices(seen.far)} as far from the reference's as if rounded to few bits first ({named(seen.far)}: "
        f"{statistics.median(seen.far.values()):.1%} of it is error)"
    )
    yield Finding("coarser", WARNING, sentence, tuple(seen.far), dict(seen.far))
    seen.rounded |= set(seen.far)
    seen.far.clear()


def _structure(seen: _Seen) -> Iterator[Finding]:
    """Matrices that are no roundings at all."""
    yield from _coarser(seen)
    far = [f"{module} (not finite)" for module in dict.fromkeys(seen.infinite)]
    far += [f"{module} ({error:.0%} of it is error)" for module, error in seen.far.items()]
    if seen.dead:
        sentence = f"{_matrices(seen.dead)} all zeros where the reference's are not ({named(seen.dead)})"
        yield Finding("all_zero", ERROR, sentence, tuple(seen.dead))
    if seen.shapes:
        yield Finding("wrong_shape", ERROR, f"{_matrices(seen.shapes)} of another shape ({named(seen.shapes)})")
    if far:
        modules = (*dict.fromkeys(seen.infinite), *seen.far)
        sentence = f"{_matrices(far)} no rounding of the reference's ({named(far)})"
        yield Finding("unlike_reference", ERROR, sentence, modules, dict(seen.far))
    yield from seen.causes
    if seen.empty:
        blocks = sum(seen.empty.values())
        sentence = (
            f"{_matrices(seen.empty)} no rounding of the reference's: {counted(blocks, 'group is', 'groups are')} all "
            f"zeros ({named(seen.empty)})"
        )
        yield Finding("empty_groups", ERROR, sentence, tuple(seen.empty), dict(seen.empty))
    for same in seen.same.values():
        if len(same) > 1:
            yield Finding("duplicated", ERROR, f"{named(same)} hold the same values", tuple(same))


def _values(seen: _Seen) -> Iterator[Finding]:
    """What is measured over all matrices, and what is only odd."""
    times = _times(seen)
    if (usual := _usually(seen)) > _USUAL:
        sentence = (
            f"{_matrices(times)} {usual:.0f} times as far from the reference's as rounding to their own steps "
            f"puts them (median; up to {_USUAL:g} is usual)"
        )
        yield Finding("far_from_rounding", ERROR, sentence, numbers={"median_times": usual})
    if seen.apart:
        sentence = (
            f"scales of {counted(len(seen.apart), 'matrix', 'matrices')} do not fit their groups ({named(seen.apart)})"
        )
        yield Finding("scales_misplaced", ERROR, sentence, tuple(seen.apart), seen.apart)
    if seen.lost:
        groups = counted(sum(seen.lost.values()), "group", "groups")
        sentence = f"{groups} of features hold something else than the reference's ({named(seen.lost)})"
        yield Finding("groups_apart", ERROR, sentence, tuple(seen.lost), dict(seen.lost))
    if seen.twice:
        sentence = (
            f"steps of {counted(len(seen.twice), 'matrix', 'matrices')} moved as a second rounding moves them: rounded "
            f"weights were changed and rounded again ({named(seen.twice)})"
        )
        yield Finding("rounded_again", WARNING, sentence, tuple(seen.twice), seen.twice)
    if seen.shifted:
        sentence = (
            f"{_matrices(seen.shifted)} moved to one side by about as much as rounding costs: zero points are off "
            f"({named(seen.shifted)})"
        )
        yield Finding("zero_points", ERROR, sentence, tuple(seen.shifted), seen.shifted)
    if seen.negative:
        yield Finding(
            "negative_scales",
            FACT,
            f"scales below zero in {counted(len(seen.negative), 'module')}",
            tuple(seen.negative),
        )
    if seen.zero:
        yield Finding(
            "zero_scales", WARNING, f"scales of zero in {named(seen.zero)}", tuple(seen.zero), dict(seen.zero)
        )


def _times(seen: _Seen) -> list[float]:
    """How many times as far from the reference's as the nearest values of its grid every matrix is."""
    rows = [row for row in seen.rows if row.module not in seen.rounded]
    return [row.error / row.least for row in rows if row.error is not None and row.least and row.least < 1]


def _usually(seen: _Seen) -> float:
    """The median of `_times`; 0 where nothing was measured."""
    return statistics.median(_times(seen) or [0.0])


def _neighbours(rows: Iterable[MatrixRow]) -> Iterator[Finding]:
    """Matrices that are much further off than the same matrix of other blocks."""
    kinds: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in rows:
        if row.error is not None and row.least:
            kinds[row.module.rpartition(".")[2]].append((row.module, row.error / row.least))
    apart: dict[str, float] = {}
    for members in kinds.values():
        usual = statistics.median(times for _, times in members)
        apart |= {name: times / usual for name, times in members if times > _APART * max(usual, 0.5)}
    if apart:
        shown = [f"{name} ({times:.0f} times)" for name, times in apart.items()]
        sentence = (
            f"{_matrices(shown)} further from the reference's than the same matrix of other blocks ({named(shown)})"
        )
        yield Finding("unlike_neighbours", WARNING, sentence, tuple(apart), apart)


def _others(checkpoint: Checkpoint, ours: Checkpoint, seen: _Seen) -> Iterator[Finding]:
    """Everything that stays in 16 bit: norms, biases, embedding, head. Changed ones are named, with how much."""
    import torch

    changed: dict[str, float] = {}
    broken: list[str] = []
    codes = [name for name in ours.plain if checkpoint.plain.get(name, ("F16",))[0] not in _FLOATS]
    if codes:
        yield Finding(
            "no_scales", ERROR, f"{_tensors(codes)} codes, and nothing says what they stand for", tuple(codes)
        )
    norms = seen.folds.known = [each for each, (_, shape) in ours.plain.items() if _is_norm(each, shape)]
    one_more = ours.config.get("model_type") in _ONE_MORE
    for name in ours.plain:
        if name not in checkpoint.plain or name in codes:
            continue
        one, other = ours.tensor(name), checkpoint.tensor(name)
        if other.ndim < 2 and not bool(torch.isfinite(other).all()):
            broken.append(name)
        elif one.shape == other.shape and not torch.equal(one.to(other.dtype), other):
            changed[name] = matrices.plain_distance(one, other)
            if name in norms:
                one, other = (each.float() + int(one_more) for each in (one, other))
                seen.folds.add_norm(name, (other / one).nan_to_num(1.0), one)
    for name in changed:
        if len(ours.plain[name][1]) == 2 and name.endswith((_EMBEDDING, HEAD)):
            yield from _token_rows(name, ours.tensor(name), checkpoint.tensor(name))
    if broken:
        yield Finding("not_finite", ERROR, f"{_tensors(broken)} not finite ({named(broken)})", tuple(broken))
    both = [name for name in ours.plain if name in checkpoint.plain and name not in (*codes, *broken)]
    several = [name for name in both if name.endswith(".bias") and ours.plain[name][1] == checkpoint.plain[name][1]]
    lost = biases.lost(several, checkpoint, ours, seen.folds.outputs())
    for level, found in zip((ERROR, WARNING), lost, strict=True):
        if found:
            yield Finding("bias_changed", level, f"{named(found)} hold other values", tuple(found))
    quantized = set(checkpoint.modules)
    kept = {name: much for name, much in changed.items() if name.removesuffix(".weight") not in quantized}
    if kept:
        worst = max(kept, key=lambda name: kept[name])
        sentence = f"{_tensors(kept)} in 16 bit and not the reference's (most: {worst}, {kept[worst]:.2%} of it)"
        yield Finding("changed", WARNING, sentence, tuple(kept), kept)


def _token_rows(name: str, one: Tensor, other: Tensor) -> Iterator[Finding]:
    held, empty = token_rows.strange(one, other)
    said = [f"{counted(held, 'row is', 'rows are')} another token's"] if held else []
    said += [f"{counted(empty, 'row is', 'rows are')} all zeros"] if empty else []
    if said:
        yield Finding("embedding", ERROR, f"{name}: {', '.join(said)}", (name,), {"held": held, "empty": empty})


def _is_norm(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 and name.endswith("norm.weight")


def _facts(checkpoint: Checkpoint, seen: _Seen) -> Iterator[Finding]:
    kinds: dict[str, list[MatrixRow]] = defaultdict(list)
    for row in seen.rows:
        kinds[row.how].append(row)
    for how, rows in kinds.items():
        weights = sum(row.shape[0] * row.shape[1] for row in rows)
        bits = 8 * sum(row.nbytes for row in rows) / max(weights, 1)
        sentence = (
            f"{counted(len(rows), 'matrix', 'matrices')}: {how}; {bits:.2f} bits a weight with all that belongs to it"
        )
        yield Finding("stored", FACT, sentence, tuple(row.module for row in rows), {"bits_effective": bits})
    rest: dict[str, int] = defaultdict(int)
    for dtype, _ in checkpoint.plain.values():
        rest[dtype] += 1
    sentence = "other tensors: " + (", ".join(f"{count} in {dtype}" for dtype, count in sorted(rest.items())) or "none")
    yield Finding("remainder", FACT, sentence)


def _matrices(found: Iterable[object]) -> str:
    return counted(len(list(found)), "matrix is", "matrices are")


def _tensors(found: Iterable[object]) -> str:
    return counted(len(list(found)), "tensor is", "tensors are")
