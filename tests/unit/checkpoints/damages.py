"""Damages to checkpoints of any layout whose matrices are tensors under the module's name, by what they do to whom.

Each is a function of the tensors and the layout's own names of parts; `None` where a layout has nothing of the kind.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quantgate.checkpoints.layouts.table import open_checkpoint

DOWN = "model.layers.1.mlp.down_proj"
UP = "model.layers.0.mlp.up_proj"
KEY = "model.layers.1.self_attn.k_proj"
CODES = ("qweight", "weight_packed", "weight", "_weight_qdata", "weight._data", "weight._data._data", "W_q")
SCALES = (
    "scales",
    "weight_scale",
    "SCB",
    "weight.absmax",
    "_weight_scale",
    "weight_scale_inv",
    "weight._scale",
    "scale",
)


@dataclass
class Files:
    """The tensors of a checkpoint that is to be damaged, and who they belong to."""

    state: dict[str, torch.Tensor]
    parts: dict[str, dict[str, str]]

    def name(self, module: str, keys: tuple[str, ...]) -> str | None:
        """The tensor of a module that is called like one of ``keys``."""
        return next((self.parts[module][key] for key in keys if key in self.parts.get(module, {})), None)

    def change(self, module: str, keys: tuple[str, ...], how: Callable[[torch.Tensor], torch.Tensor]) -> bool:
        """Replace a tensor; False where there is none."""
        name = self.name(module, keys)
        if name is not None:
            self.state[name] = how(self.state[name])
        return name is not None

    def exchange(self, one: str, other: str, keys: tuple[str, ...] = ()) -> bool:
        """Exchange all tensors of two modules, or those called like ``keys``."""
        shared = [
            key for key in self.parts.get(one, {}) if key in self.parts.get(other, {}) and (not keys or key in keys)
        ]
        for key in shared:
            a, b = self.parts[one][key], self.parts[other][key]
            self.state[a], self.state[b] = self.state[b], self.state[a]
        return bool(shared)


def _raw(change):
    """``change`` on the bytes of a tensor."""
    return lambda tensor: change(tensor.contiguous().view(torch.uint8).clone()).view(tensor.dtype).view(tensor.shape)


def _float(change):
    """``change`` on the values of a tensor, whatever their dtype."""
    return lambda tensor: change(tensor.float()).to(tensor.dtype)


def _half(values, first, factor):
    rows = values.shape[0] // 2
    result = values.clone()
    result[:rows] = result[:rows] * factor if first else result[:rows]
    return result


def _drop(files, *starts):
    gone = [name for name in files.state if name.startswith(starts)]
    for name in gone:
        del files.state[name]
    return bool(gone)


def _group(values, value):
    result = values.clone().reshape(values.shape)
    flat = result.view(-1)
    flat[: max(1, flat.numel() // 4)] = value
    return result


def _fill(name, value):
    def change(files):
        files.state[name] = torch.full_like(files.state[name], value)
        return True

    return change


def _of(name, how):
    def change(files):
        files.state[name] = how(files.state[name].float()).to(files.state[name].dtype).contiguous()
        return True

    return change


def _all(keys, how):
    return lambda files: {files.change(module, keys, how) for module in list(files.parts)} == {True}


def _neighbour(module):
    """The same matrix of the other block."""
    return module.replace(".0.", ".1.")


def _exchange_blocks(files):
    return {files.exchange(name, _neighbour(name)) for name in list(files.parts) if ".layers.0." in name} == {True}


def _copy_block(files):
    for name in [name for name in files.parts if ".layers.0." in name and _neighbour(name) in files.parts]:
        for key, tensor in files.parts[name].items():
            if key in files.parts[_neighbour(name)]:
                files.state[files.parts[_neighbour(name)][key]] = files.state[tensor].clone()
    return True


NORM = "model.layers.0.post_attention_layernorm.weight"
FINAL = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"
DAMAGES: dict[str, Callable[[Files], bool]] = {
    # missing, exchanged, copied
    "a projection is missing": lambda files: _drop(files, f"{KEY}."),
    "a norm is missing": lambda files: _drop(files, NORM),
    "the last norm is missing": lambda files: _drop(files, FINAL),
    "the embedding is missing": lambda files: _drop(files, EMBEDDING),
    "a block is missing": lambda files: _drop(files, "model.layers.1."),
    "the scales of a projection are missing": lambda files: (
        (name := files.name(DOWN, SCALES)) is not None and _drop(files, name)
    ),
    "two blocks exchanged their up_proj": lambda files: files.exchange(UP, UP.replace(".0.", ".1.")),
    "two blocks exchanged all matrices": _exchange_blocks,
    "up_proj and gate_proj exchanged": lambda files: files.exchange(UP, UP.replace("up", "gate")),
    "k_proj and v_proj exchanged": lambda files: files.exchange(KEY, KEY.replace("k_proj", "v_proj")),
    "two blocks exchanged scales": lambda files: files.exchange(UP, UP.replace(".0.", ".1."), SCALES),
    "two blocks exchanged codes": lambda files: files.exchange(UP, UP.replace(".0.", ".1."), CODES),
    "one block's matrices copied over another's": _copy_block,
    # scales
    "scales of zero": lambda files: files.change(DOWN, SCALES, torch.zeros_like),
    "a quarter of the scales is zero": lambda files: files.change(DOWN, SCALES, lambda each: _group(each, 0)),
    "scales that are no numbers": lambda files: files.change(DOWN, SCALES, _float(lambda each: each * float("nan"))),
    "infinite scales": lambda files: files.change(DOWN, SCALES, _float(lambda each: each * 0 + float("inf"))),
    "scales of another order": lambda files: files.change(DOWN, SCALES, lambda each: each.flip(0)),
    "all scales are one": lambda files: files.change(DOWN, SCALES, torch.ones_like),
    "scales of other sign": lambda files: files.change(DOWN, SCALES, _float(lambda each: -each)),
    "reciprocal scales": lambda files: files.change(DOWN, SCALES, _float(lambda each: 1 / each)),
    "every scale of the model is one": _all(SCALES, torch.ones_like),
    "every scale is reciprocal": _all(SCALES, _float(lambda each: 1 / each)),
    "half of the rows twice, half once": lambda files: files.change(
        DOWN, SCALES, _float(lambda each: _half(each, True, 4.0))
    ),
    # codes
    "codes of zero": lambda files: files.change(DOWN, CODES, torch.zeros_like),
    "codes in reverse": lambda files: files.change(DOWN, CODES, lambda each: each.flip(0)),
    "codes of one row everywhere": lambda files: files.change(
        DOWN, CODES, lambda each: each[:1].expand_as(each).contiguous()
    ),
    "bits of the codes turned": lambda files: files.change(DOWN, CODES, _raw(lambda each: each ^ 0xFF)),
    "half of the codes lost": lambda files: files.change(
        DOWN, CODES, lambda each: torch.cat([each[: len(each) // 2], torch.zeros_like(each[len(each) // 2 :])])
    ),
    "nibbles exchanged": lambda files: files.change(DOWN, CODES, _raw(lambda each: (each << 4) | (each >> 4))),
    "codes of another shape": lambda files: files.change(DOWN, CODES, lambda each: each[: len(each) // 2].clone()),
    "every code of the model turned": _all(CODES, _raw(lambda each: each ^ 0xFF)),
    # what stays in 16 bit
    "a norm of zeros": _fill(NORM, 0.0),
    "a norm that is no number": _fill(NORM, float("nan")),
    "a norm in reverse": _of(NORM, lambda each: each.flip(0)),
    "a norm times ten": _of(NORM, lambda each: 10 * each),
    "the last norm of ones": _of(FINAL, torch.ones_like),
    "an embedding of zeros": _fill(EMBEDDING, 0.0),
    "an embedding in reverse": _of(EMBEDDING, lambda each: each.flip(0)),
    "columns of the embedding in reverse": _of(EMBEDDING, lambda each: each.flip(1)),
    "an embedding moved by one token": _of(EMBEDDING, lambda each: each.roll(1, 0)),
    "an embedding of other sign": _of(EMBEDDING, lambda each: -each),
    # pairs that cancel out in size
    "one matrix twice, the next one half": lambda files: (
        files.change(UP, SCALES, _float(lambda each: 2 * each))
        and files.change(UP.replace("up", "down"), SCALES, _float(lambda each: -each / 2))
    ),
    "sizes that cancel out between two blocks": lambda files: (
        files.change(UP, SCALES, _float(lambda each: 3 * each))
        and files.change(UP.replace(".0.", ".1."), SCALES, _float(lambda each: each / 3))
    ),
}


def _times(*factors):
    """Scales of modules times factors, and MLX's and quanto's offsets with them: ``(module, factor)`` each."""

    def change(files):
        for name, by in factors:
            files.change(name, ("biases", "weight._shift"), _float(lambda each, by=by: each * by))
        return all(files.change(name, SCALES, _float(lambda each, by=by: each * by)) for name, by in factors)

    return change


def _exactly(*factors):
    """`_times` where scales have room for the factors: 8-bit floats have not."""
    return lambda files: (
        all((key := files.name(name, SCALES)) is not None and files.state[key].itemsize > 1 for name, _ in factors)
        and _times(*factors)(files)
    )


QUERY, VALUE, OUT = (KEY.replace("k_proj", kind) for kind in ("q_proj", "v_proj", "o_proj"))
GATE = UP.replace("up", "gate")
ZEROS = ("qzeros", "weight_zero_point", "_weight_zero_point")
HEADS, SIZE, HIDDEN = 2, 16, 128  # of the reference: heads of keys, size of one; features between up and down


def _next_zeros(files, modules):
    """Zero points one step further: packed ones in every field, others by themselves."""
    packed = {"qzeros": 0x11111111, "weight_zero_point": 0x11111111, "_weight_zero_point": 1}
    found = [(name, key) for name in modules for key in packed if key in files.parts.get(name, {})]
    for name, key in found:
        files.change(name, (key,), lambda each, by=packed[key]: each + by)
    return bool(found)


def _rows(files, module, places):
    """Rows of a matrix that is stored row by row, one code a byte, and of its scales, in another order."""
    name = files.name(module, CODES)
    if name is None or files.state[name].shape[0] != len(places):
        return False
    files.state[name] = _order_bytes(files.state[name], 0, places)
    return files.change(module, SCALES, lambda each: _order_bytes(each, 0, places))


def _columns(files, module, places):
    scales = files.name(module, SCALES)
    if scales is not None and files.state[scales].ndim > 1 and files.state[scales].shape[1] > 1:
        return False  # groups of columns have scales of their own
    name = files.name(module, CODES) or (f"{module}.weight" if f"{module}.weight" in files.state else None)
    if name is None or files.state[name].shape[1] != len(places):
        return False
    files.state[name] = _order_bytes(files.state[name], 1, places)
    return True


def _order_bytes(tensor, side, places):
    """``index_select`` for dtypes that torch selects from by their bytes only."""
    if tensor.shape[side] != len(places):
        return tensor
    raw = tensor.view(torch.uint8) if tensor.itemsize == 1 else tensor
    return raw.index_select(side, places).contiguous().view(tensor.dtype)


def _heads(repeats):
    """The two heads of keys exchanged; each is shared by ``repeats`` heads of queries."""
    return torch.arange(HEADS * repeats * SIZE).view(HEADS, -1).flip(0).flatten()


def _order_heads(files, *kinds):
    return all(_rows(files, name, _heads(2 if name == QUERY else 1)) for name in kinds)


_TURNED = torch.randperm(HIDDEN, generator=torch.Generator().manual_seed(5))
DOWN0 = UP.replace("up", "down")
DAMAGES |= {
    "zero points off by one in one matrix": lambda files: _next_zeros(files, [DOWN]),
    "zero points off by one everywhere": lambda files: _next_zeros(files, list(files.parts)),
    "scales read in another dtype": lambda files: files.change(
        DOWN, SCALES, lambda each: each.view(torch.float16 if each.dtype == torch.bfloat16 else torch.bfloat16).float()
        .view(-1)[: each.numel()].view(each.shape).to(each.dtype) if each.itemsize == 2 else each,
    ),
    # products that cancel out, and a model that does not
    "gate thrice, down a third": _times((GATE, 3.0), (DOWN0, 1 / 3)),
    "queries thrice, up a third": _times((QUERY.replace(".1.", ".0."), 3.0), (UP, 1 / 3)),
    "queries thrice, o a third": _times((QUERY, 3.0), (OUT, 1 / 3)),
    "values thrice, o of the other block a third": _times((VALUE, 3.0), (OUT.replace(".1.", ".0."), 1 / 3)),
    "a norm twice, only the queries half": lambda files: (
        _of("model.layers.1.input_layernorm.weight", lambda each: 2 * each)(files) and _times((QUERY, 0.5))(files)
    ),
    "heads of values in another order": lambda files: _order_heads(files, VALUE),
    "heads in another order, o as it was": lambda files: _order_heads(files, QUERY, KEY, VALUE),
    "heads in another order, queries as they were": lambda files: (
        _order_heads(files, KEY, VALUE) and _columns(files, OUT, _heads(2))
    ),
    "features of up in another order": lambda files: _rows(files, UP, _TURNED),
    "features of up and gate in another order": lambda files: (
        _rows(files, UP, _TURNED) and _rows(files, GATE, _TURNED)
    ),
}  # fmt: skip
HARMLESS: dict[str, Callable[[Files], bool]] = {
    "queries doubled, keys halved": _exactly((QUERY, 2.0), (KEY, 0.5)),
    "values doubled, o halved": _exactly((VALUE, 2.0), (OUT, 0.5)),
    "up thrice, down a third": _exactly((UP, 4.0), (DOWN0, 0.25)),
    "a norm twice, all that read it half": lambda files: (
        _of("model.layers.1.input_layernorm.weight", lambda each: 2 * each)(files)
        and _exactly((QUERY, 0.5), (KEY, 0.5), (VALUE, 0.5))(files)
    ),
    "heads in another order": lambda files: _order_heads(files, QUERY, KEY, VALUE) and _columns(files, OUT, _heads(2)),
    "hidden features in another order": lambda files: (
        _rows(files, UP, _TURNED) and _rows(files, GATE, _TURNED) and _columns(files, DOWN0, _TURNED)
    ),
    "scales in float32": lambda files: files.change(
        DOWN, SCALES, lambda each: each.float() if each.dtype in (torch.float16, torch.bfloat16) else each
    ),
}


def damaged(source: Path, target: Path, name: str) -> bool:
    """Write ``source`` with the damage ``name`` into the new directory ``target``; False where it has no such thing."""
    checkpoint = open_checkpoint(source, None, str(source))
    files = Files(
        load_file(source / "model.safetensors"),
        {module: {key: part.name for key, part in parts.items()} for module, parts in checkpoint.found.items()},
    )
    before = {key: value.clone() for key, value in files.state.items()}
    if not (DAMAGES | HARMLESS)[name](files) or not _differs(before, files.state):
        return False
    target.mkdir()
    save_file({key: each.contiguous().clone() for key, each in files.state.items()}, target / "model.safetensors")
    for file in source.glob("*.json"):
        (target / file.name).write_text(json.dumps(json.loads(file.read_text())))
    return True


def _differs(before, after):
    if before.keys() != after.keys():
        return True
    return any(
        before[key].shape != after[key].shape
        or not torch.equal(before[key].flatten().view(torch.uint8), after[key].flatten().view(torch.uint8))
        for key in before
    )
