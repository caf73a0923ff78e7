"""16-bit matrix products on processors without instructions for them: multiplied in float32, rounded once.

Where oneDNN has no bf16 (or fp16) product, torch multiplies 16-bit matrices in a plain loop. Measured on an AMD EPYC
with AVX2 only, two busy threads: 1,024 rows through a 1,536 x 576 layer take 395 ms so, and 57 ms this way. With
AVX-512 but no instruction for bf16 (Skylake to Ice Lake, and many virtual machines) oneDNN has the product and emulates
it: on a Xeon of that kind, one thread, 512 rows through the same layer take 29 ms so, and 7 ms this way. Products that
are no linear layers suffer as much: limited to AVX2, scores of attention over 512 positions by `torch.matmul` take
110 ms so, and 4 this way; GPT-2's `Conv1D` (256 rows through 768 x 2,304) 523 ms and 8.

Where few rows are multiplied by the same weight again and again (the output head over a long text, every step of a
generation), widening it costs as much as the product, so the widened one is kept while the block lasts.

The values are the same up to the order of a sum: a product of two bf16 numbers is exact in float32, sums are float32
either way, and the result is rounded to 16 bit once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode

_FEWEST_ROWS: Final = 4  # below, torch's own product of a vector reads the 16-bit weights once and is faster
_CHUNK: Final = 4096  # output features whose weights are widened at a time: bounds the memory
_FEW_ROWS: Final = 512  # up to which widening a weight is a large part of multiplying by it
_KEPT_BYTES: Final = 1 << 30  # of widened weights
_WITHOUT: Final = {  # what oneDNN, limited to this instruction set, does not use of the ones behind it
    "AVX512_CORE": ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"),
    "AVX512_CORE_VNNI": ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"),
    "AVX512_CORE_BF16": ("avx512_fp16", "amx_bf16", "amx_fp16"),
    "AVX512_CORE_FP16": ("amx_bf16", "amx_fp16"),
    "AVX10_1_512": ("amx_bf16", "amx_fp16"),
    "AVX512_CORE_AMX": ("amx_fp16",),
    "AVX10_1_512_AMX": ("amx_fp16",),
}


def has_products(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of ``dtype`` by instructions made for it."""
    return _instructions(dtype) is not None


def arithmetic(dtype: torch.dtype) -> str:
    """How this processor computes with ``dtype``: its widest vectors, and the products of its 16-bit layers.

    Answers of one kind of processor are not those of another: rounding differs with the order of sums, and greedy
    decoding and GPTQ amplify it.
    """
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{vectors}, {_instructions(dtype) or 'float32'} products of {dtype}".replace("torch.", "")


def _instructions(dtype: torch.dtype) -> str | None:
    """What multiplies matrices of ``dtype`` here: ``amx_bf16``, ``its own`` where there is one way only; None: nothing.

    oneDNN has 16-bit products on every processor with AVX-512, and emulates them where their instructions are missing.
    """
    known: dict[torch.dtype, tuple[str, Callable[[], bool]]] = {
        torch.bfloat16: ("bf16", torch.ops.mkldnn._is_mkldnn_bf16_supported),
        torch.float16: ("fp16", torch.ops.mkldnn._is_mkldnn_fp16_supported),
    }
    if dtype not in known:
        return "its own"
    name, supported = known[dtype]
    if not supported():
        return None
    has = torch.cpu.get_capabilities()
    if not has.get("avx512_f"):
        return "its own"  # what oneDNN can do there, it does by instructions: ARM, and x86 with AVX-NE-CONVERT
    return next(
        (each for each in (f"amx_{name}", f"avx512_{name}") if has.get(each) and each not in _forbidden()), None
    )


def _forbidden() -> tuple[str, ...]:
    """16-bit instructions that the user told oneDNN not to use."""
    return _WITHOUT.get(os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper(), ())


def wide_linear(
    input: Tensor,  # torch's own names
    weight: Tensor,
    bias: Tensor | None = None,
    widened: Tensor | None = None,
) -> Tensor:
    """``input @ weight.t() + bias`` with float32 products and sums, in the dtype of ``input``.

    Args:
        input: ``[..., in]``, bf16 or fp16, on a CPU.
        weight: ``[out, in]`` of the same dtype.
        bias: ``[out]`` or None.
        widened: ``weight`` in float32 where it is at hand.
    """
    wide = input.reshape(-1, input.shape[-1]).to(torch.float32)
    result = torch.empty(wide.shape[0], weight.shape[0], dtype=input.dtype)
    for start in range(0, weight.shape[0], _CHUNK):
        part = slice(start, start + _CHUNK)
        product = wide @ (weight[part].to(torch.float32) if widened is None else widened[part]).t()
        result[:, part] = product if bias is None else product.add_(bias[part])
    return result.view(*input.shape[:-1], -1)


class _WideLinear(torch.autograd.Function):
    """`wide_linear` of frozen weights with the gradient of its inputs, which is such a product too."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, widened: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, widened)  # which refuses a gradient by weights that were changed meanwhile
        return wide_linear(input, weight, bias, widened)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        weight, widened = ctx.saved_tensors
        back = wide_linear(gradients[0], weight.t(), None, None if widened is None else widened.t())
        return back, None, None, None


_PRODUCTS: Final = frozenset({
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.einsum,
    Tensor.matmul, Tensor.__matmul__, Tensor.mm, Tensor.bmm, Tensor.addmm, Tensor.baddbmm,
})  # fmt: skip
"""Attention that is not fused, experts in one tensor, and layers whose weight lies the other way round."""


class _WideProducts(TorchFunctionMode):
    """Multiplies 16-bit matrices on the CPU in float32; linear layers with frozen weights by `wide_linear`."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[int, tuple[Tensor, tuple[int, int], Tensor]] = {}  # id -> the weight, its state, and widened
        self._room = _KEPT_BYTES

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is torch.nn.functional.linear and _is_ours(*args, **given):
            return self._multiplied(*args, **given)
        if func in _PRODUCTS and (dtype := _narrow(args, given)) is not None:
            wide = func(*map(self._wide, args), **{name: self._wide(each) for name, each in given.items()})
            return wide.to(dtype)
        return func(*args, **given)

    def _wide(self, argument: Any) -> Any:
        """A tensor in float32, a weight as it is kept; anything else as it is."""
        if not isinstance(argument, Tensor):
            return argument
        kept = None if argument.requires_grad else self._widened(argument)
        return argument.to(torch.float32) if kept is None else kept

    def _multiplied(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        few = input.numel() <= _FEW_ROWS * input.shape[-1]
        widened = self._widened(weight) if few else None
        if input.requires_grad and torch.is_grad_enabled():
            found: Tensor = _WideLinear.apply(input, weight, bias, widened)  # type: ignore[no-untyped-call]
            return found
        return wide_linear(input, weight, bias, widened)

    def _widened(self, weight: Tensor) -> Tensor | None:
        """``weight`` in float32, kept if there is room; only of parameters: others may live for one call."""
        if type(weight) is not torch.nn.Parameter or weight.is_inference():  # whose changes nobody counts
            return None
        kept, state = self._kept.get(id(weight)), (weight._version, weight.data_ptr())
        if kept is not None and kept[1] == state:
            return kept[2]
        if kept is None:
            if 4 * weight.numel() > self._room:
                return None
            self._room -= 4 * weight.numel()
        with torch.inference_mode(mode=False):  # a later call may want a gradient by it
            wide = weight.detach().to(torch.float32)
        self._kept[id(weight)] = weight, state, wide
        return wide


def _narrow(arguments: Sequence[Any], named: Mapping[str, Any]) -> torch.dtype | None:
    """The 16-bit dtype of all tensors among the arguments, on the CPU; None where they have none in common.

    Also None where the result goes into a tensor that is given.
    """
    tensors = (each for each in (*arguments, *named.values()) if isinstance(each, Tensor))
    found = {each.dtype if _is_plain(each) else None for each in tensors}
    return found.pop() if len(found) == 1 and named.get("out") is None else None


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds 16-bit numbers on the CPU, and is of no class that computes in its own way."""
    own = type(tensor) in (Tensor, torch.nn.Parameter)
    return own and tensor.dtype in (torch.bfloat16, torch.float16) and tensor.device.type == "cpu"


def _is_ours(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:  # torch's own names
    return (
        _is_plain(weight)
        and input.dtype == weight.dtype
        and input.device.type == "cpu"
        and weight.dim() == 2
        and (bias is None or bias.dtype == input.dtype)
        and not (torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)))
        and 0 < _FEWEST_ROWS * input.shape[-1] <= input.numel()
        and torch._C._functorch.peek_interpreter_stack() is None  # vmap and its like see into torch's own products only
    )


_active: ContextVar[_WideProducts | None] = ContextVar("_active", default=None)


@contextmanager
def as_they_are() -> Iterator[None]:
    """Within the block, directly inside one of `wide_products`, torch's functions are called without a detour.

    A detour costs about 3 microseconds a call (AMD EPYC with AVX2), as much as the call itself where an algorithm goes
    from column to column.
    """
    mode = _active.get()
    on_top = _get_current_function_mode()  # type: ignore[no-untyped-call]
    if mode is None or on_top is not mode:  # another one inside ours is not ours to end
        yield
        return
    _pop_mode()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        _push_mode(mode)  # type: ignore[no-untyped-call]


@contextmanager
def wide_products(dtype: torch.dtype) -> Iterator[None]:
    """Within the block, matrices of ``dtype`` are multiplied in float32 where this processor has no such product.

    Gradients pass through; a linear layer that is trained itself is left to torch.
    """
    if has_products(dtype):
        yield
        return
    mode = _WideProducts()
    before = _active.set(mode)
    try:
        with mode:
            yield
    finally:
        _active.reset(before)
