"""Load a checkpoint so that low-precision kernels run where this machine has them; say plainly where it has not.

Quality is judged on the weights a checkpoint stands for, so scoring may unpack them to 16 bit. Memory and speed may
not: an unpacked subject has the reference's size and the reference's kernels. Here every quantized layer is given to a
kernel that computes from the packed weights, if there is one; the others are unpacked, and the whole subject then
counts as ``dequantized``: its rows say so, and no timing verdict is given on it.

Kernels: bitsandbytes' LLM.int8 and 4-bit products (CPU with AVX-512 BF16, or CUDA), and torch's own int4 product on
CPUs (``aten::_weight_int4pack_mm_for_cpu``; scales and zeros as bf16) for 4-bit grids, act-order included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from quantgate.checkpoints import checkpoint
from quantgate.checkpoints.mixed import layer_config
from quantgate.core.errors import ModelError, translated
from quantgate.models.accounting import adds_nothing, check_placed
from quantgate.models.files import read_json
from quantgate.models.loading import attention_implementation, load_reference, moved, read_config, torch_dtype
from quantgate.quantize.algorithms import bnb
from quantgate.quantize.base import StoredWeight
from quantgate.quantize.numerics.uniform import UniformWeight

_KERNEL_GROUPS: Final = (256, 128, 64, 32)  # group sizes that torch's int4 product knows
_KERNEL_ROWS: Final = 16  # it works on blocks of as many outputs
_BNB_ROWS: Final = 32


@dataclass(frozen=True, slots=True)
class Execution:
    """What computes. ``name``: for reports; ``packed``: every quantized layer computes from its packed weights;
    ``why_not``: what is missing, when one does not.
    """

    name: str
    packed: bool
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode and how it computes."""

    model: Any
    execution: Execution


def load_plain(path: Path, name: str, dtype: str, device: str) -> Loaded:
    """The 16-bit reference."""
    return Loaded(load_reference(path, name, dtype, device), Execution(dtype, True))


def load_packed(path: Path, dtype: str, device: str) -> Loaded:
    """A quantized checkpoint of ours, packed layers first.

    Raises:
        ModelError: the checkpoint is incomplete, holds tensors without a place, or is of a layout that is not ours.
    """
    kind = torch_dtype(dtype)
    config = read_config(path, str(path))
    quantization = read_json(path / "config.json", str(path)).get("quantization_config")
    if not isinstance(quantization, dict):
        raise ModelError(str(path), "no quantization_config", expected="a checkpoint written by quantgate")
    simulated = _simulated(quantization)
    if simulated:
        return Loaded(
            checkpoint.load_quantized(path, kind, device), Execution(f"simulated in {dtype}", False, simulated)
        )
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    state, layers = checkpoint.read_layers(path, quantization)
    model = _without_weights(config, kind, str(path))
    check_placed(_homeless(model, layers, state), str(path))
    execution = _replace_layers(model, layers, state, quantization, kind, torch.device(device))
    # copies: one tensor that still lies in the mapped file would keep all of its touched pages in memory
    plain = {name: _copied(state.pop(name), kind) for name in list(state)}
    left = model.load_state_dict(plain, assign=True, strict=False).unexpected_keys
    check_placed([name for name in left if not adds_nothing(name, plain.__getitem__)], str(path))
    model.tie_weights()
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise ModelError(str(path), f"no tensor {empty[0]}", expected="every weight of the architecture")
    return Loaded(moved(model, device, str(path)).eval().requires_grad_(False), execution)


def _without_weights(config: Any, kind: torch.dtype, who: str) -> Any:
    """The model of ``config`` with parameters without memory; buffers (rotary frequencies) are real."""
    with translated(who, "no model can be made from its configuration", hint="check config.json"):
        from accelerate import init_empty_weights
        from transformers import AutoModelForCausalLM

        with init_empty_weights():
            attention = attention_implementation(config)
            return AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation=attention)


def _homeless(model: nn.Module, layers: Mapping[str, StoredWeight], state: Mapping[str, Tensor]) -> list[str]:
    """Layers that the architecture does not have, and biases of layers that have none there."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    biases = {f"{name}.bias" for name in layers if name in linears and linears[name].bias is None} & state.keys()
    return sorted(layers.keys() - linears.keys()) + sorted(
        name for name in biases if not adds_nothing(name, state.__getitem__)
    )


def _copied(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In memory of its own; floats in ``dtype``."""
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def _simulated(quantization: Mapping[str, Any]) -> str:
    """What of a checkpoint is only simulated when it runs, or an empty string."""
    parts = ["activations"] * any("activations" in config for config in quantization.get("configs", ()))
    parts += ["the key/value cache"] * ("kv_cache" in quantization)
    return f"no integer kernel for {' and '.join(parts)}" if parts else ""


def _replace_layers(
    model: Any,
    layers: Mapping[str, StoredWeight],
    state: dict[str, Tensor],
    config: Mapping[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> Execution:
    """Put a kernel's module, or the unpacked weight, in the place of every layer; takes the biases from ``state``."""
    names, reasons = set(), set()
    for name, stored in layers.items():
        build, kernel = _kernel(stored, layer_config(config, name), dtype, device)
        if build is None:
            reasons.add(kernel)
            state[f"{name}.weight"] = stored.dequantize(dtype)
            continue
        names.add(kernel)
        bias = state.pop(f"{name}.bias", None)
        bias = None if model.get_submodule(name).bias is None else bias
        model.set_submodule(name, build(None if bias is None else bias.to(dtype)))
    if reasons:
        return Execution(f"dequantized to {str(dtype).removeprefix('torch.')}", False, "; ".join(sorted(reasons)))
    return Execution(" and ".join(sorted(names)), True)


_Build = Callable[[Tensor | None], nn.Module]


def _kernel(
    stored: StoredWeight, config: Mapping[str, Any], dtype: torch.dtype, device: torch.device
) -> tuple[_Build | None, str]:
    """How to build the module that computes from ``stored`` and the kernel's name, or None and what is missing."""
    if isinstance(stored, bnb.Int8Weight):
        threshold = float(config["llm_int8_threshold"])
        own = bnb.Int8Weight(stored.codes.clone(), stored.scales.clone())
        return lambda bias: bnb.int8_linear(own, bias, threshold), "int8 (bitsandbytes)"
    if isinstance(stored, bnb.Float4Weight):
        problem = _float4_problem(stored, device)
        name = f"{stored.state.quant_type} (bitsandbytes)"
        return (None, problem) if problem else (lambda bias: float4_linear(stored, bias, dtype), name)
    if isinstance(stored, UniformWeight):
        problem = _int4_problem(stored, dtype, device)
        return (None, problem) if problem else (lambda bias: Int4Linear(stored, bias), "int4 (torch)")
    return None, f"no kernel for {type(stored).__name__}"


def _float4_problem(stored: bnb.Float4Weight, device: torch.device) -> str:
    from bitsandbytes.functional import has_avx512bf16

    if device.type == "cuda":
        return ""
    if device.type != "cpu" or not has_avx512bf16():
        return f"bitsandbytes has no 4-bit product for {device.type} without AVX-512 BF16"
    rows, columns = stored.state.shape
    if rows % _BNB_ROWS or columns % stored.state.blocksize:
        return f"bitsandbytes' 4-bit product on CPUs does not take matrices of {rows} x {columns}"
    return ""


def _int4_problem(stored: UniformWeight, dtype: torch.dtype, device: torch.device) -> str:
    if stored.grid.bits != 4:
        return f"torch has no product with {stored.grid.bits}-bit weights in groups"
    if device.type != "cpu" or dtype != torch.bfloat16:
        return f"the int4 product is used on CPUs in bfloat16 only, not on {device.type} in {dtype}"
    if stored.codes.shape[1] % _KERNEL_ROWS or kernel_group(stored.g_idx) == 0:
        return f"torch's int4 product does not take {stored.codes.shape[1]} outputs or these groups"
    return ""


def kernel_group(g_idx: Tensor) -> int:
    """The largest group size of the kernel that cuts every group of ``g_idx`` into whole pieces; 0 if none does."""
    sizes = torch.bincount(g_idx.long())
    return next((size for size in _KERNEL_GROUPS if not bool((sizes % size).any())), 0)


def float4_linear(stored: bnb.Float4Weight, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    """bitsandbytes' ``Linear4bit`` around stored codes."""
    import bitsandbytes as library

    rows, columns = stored.state.shape
    linear = library.nn.Linear4bit(columns, rows, bias=bias is not None, compute_dtype=dtype, device="meta")
    parts = {name: value.clone() for name, value in stored.state.as_dict(packed=True).items()}
    linear.weight = library.nn.Params4bit.from_prequantized(stored.packed.clone(), parts, device="cpu")
    linear.weight.module = linear
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return cast(nn.Module, linear.eval())


class Int4Linear(nn.Module):
    """A 4-bit grid by torch's int4 product: ``y = x[..., order] @ ((code - 8) * scale + offset)^T``.

    Columns are sorted by group, because the kernel wants groups side by side; after GPTQ with act-order that means
    reordering the input at every call. Scales and offsets are bf16, as the kernel takes them: results differ from the
    unpacked weights' by that rounding.
    """

    order: Tensor | None
    packed: Tensor
    scales: Tensor

    def __init__(self, stored: UniformWeight, bias: Tensor | None) -> None:
        super().__init__()
        group = kernel_group(stored.g_idx)
        order = torch.argsort(stored.g_idx, stable=True)
        identity = torch.equal(order, torch.arange(len(order)))
        codes = stored.codes[order].t().contiguous().to(torch.int32)
        index = stored.g_idx[order][::group].long()  # the group each piece belongs to
        scales = stored.scales[index].to(torch.float32)
        offsets = (8.0 - stored.zeros[index].to(torch.float32)) * scales
        self.group, self.bias = group, bias
        self.out_features, self.in_features = codes.shape
        self.register_buffer("order", None if identity else order, persistent=False)
        self.register_buffer("packed", torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2), persistent=False)
        both = torch.stack([scales, offsets], dim=-1).to(torch.bfloat16).contiguous()
        self.register_buffer("scales", both, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, bf16."""
        rows = x.reshape(-1, self.in_features)
        if self.order is not None:
            rows = rows.index_select(1, self.order)
        out = torch.ops.aten._weight_int4pack_mm_for_cpu(rows.contiguous(), self.packed, self.group, self.scales)
        if self.bias is not None:
            out = out + self.bias
        return cast(Tensor, out.view(*x.shape[:-1], self.out_features))


def resident_bytes(model: Any) -> int:
    """Bytes of the distinct storages behind all parameters, buffers and quantization states of ``model``."""
    storages: dict[int, int] = {}

    def count(tensor: Any) -> None:
        if isinstance(tensor, Tensor) and not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()

    for module in model.modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            count(tensor)
            state = getattr(tensor, "quant_state", None)
            for each in vars(state).values() if state is not None else ():
                count(each)
            for name in ("CB", "SCB"):
                count(getattr(tensor, name, None))
        held = getattr(module, "state", None)  # bitsandbytes moves int8 codes there at the first call
        for name in ("CB", "SCB"):
            count(getattr(held, name, None))
    return sum(storages.values())
