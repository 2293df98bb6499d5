"""PyTorch tensors in an autograd.Function.

Those on the CPU go to `lstm_fast._core`, without a copy, those on CUDA devices to `lstm_fast.backends.torch_cuda`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lstm_fast.backends import RESERVE_NONE, SECOND_ORDER, Direction, LibraryError, Unavailable, core, torch_cuda

Tensors = Sequence[torch.Tensor | None]
Options = tuple[bool, bool, bool, int]  # go_backwards, return_sequences, zero_output_for_mask, reserve_mode

_FIELDS = len(Direction._fields)

library = core


def gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that PyTorch sees."""
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


def unavailable(x: Any = None) -> Unavailable | None:
    """Returns why the kernels cannot run on `x`, a tensor, here and now; None if they can."""
    try:
        core()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    if x is not None and x.device.type == "cuda":
        if unusable := torch_cuda.unavailable(x.device):
            return unusable
    elif x is not None and x.device.type not in ("cpu", "meta"):
        return Unavailable(f"a tensor on {x.device}: no kernel for it")
    # What is_exporting() reads: in torch.compile of PyTorch 2.10 that says yes. 2.6 has neither.
    if torch.jit.is_tracing() or getattr(torch.compiler, "_is_exporting_flag", False):
        return Unavailable("torch.jit.trace or torch.export: an exported program cannot contain the kernel")
    return None


def array(value: Any, like: Any = None) -> torch.Tensor:
    """Returns a contiguous tensor; values without a dtype of their own get that of `like`, all are on its device."""
    value = getattr(value, "value", value)  # of a Keras variable, whose tensor is the one with the gradient
    if not isinstance(value, torch.Tensor):
        typed = hasattr(value, "dtype")
        dtype, device = (None, None) if like is None else (None if typed else like.dtype, like.device)
        value = torch.tensor(np.asarray(value), dtype=dtype, device=device)
    if like is not None and value.device != like.device:
        raise ValueError(f"expected a tensor on {like.device}, found one on {value.device}")
    if value.layout != torch.strided:
        raise TypeError(f"expected a dense tensor, found one of layout {value.layout}")
    return value.contiguous()


def boolean(mask: torch.Tensor) -> torch.Tensor:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return mask.reshape(mask.shape[:2]).to(torch.bool)


@torch.compiler.disable(reason="the kernels of lstm_fast are not part of a graph")  # type: ignore[untyped-decorator]
def lstm(
    x: torch.Tensor,
    mask: torch.Tensor | None,
    directions: Sequence[Direction],
    *,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
) -> tuple[torch.Tensor, Sequence[torch.Tensor], Sequence[torch.Tensor]]:
    """Runs the forward pass; see `lstm_fast.backends.Backend`."""
    n = len(directions)
    if x.is_meta:  # how Keras finds out shapes
        batch, time, _ = x.shape
        units = directions[0].recurrent_kernel.shape[0]
        states = [x.new_empty((batch, units)) for _ in range(2 * n)]
        return x.new_empty((batch, time if return_sequences else 1, n * units)), states[:n], states[n:]
    if mask is not None and mask.device != x.device:
        raise ValueError(f"`mask`: expected a tensor on {x.device}, found one on {mask.device}")
    options = (go_backwards, return_sequences, zero_output_for_mask)
    parameters = [value for direction in directions for value in direction]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *parameters)):
        y, *states = _Forward.apply((*options, reserve_mode), n, x, mask, *parameters)
    else:
        (y, *states), _ = _forward((*options, RESERVE_NONE), x, mask, parameters)
    return y, states[:n], states[n:]


class _Forward(torch.autograd.Function):  # type: ignore[misc]
    """(options, n, x, mask, *parameters) -> (y, *h_n, *c_n). The parameters are the fields of each of n Directions."""

    @staticmethod
    def forward(
        ctx: Any, options: Options, n: int, x: torch.Tensor, mask: torch.Tensor | None, *parameters: torch.Tensor | None
    ) -> Tensors:
        outputs, reserve = _forward(options, x, mask, parameters)
        ctx.options, ctx.n = options, n
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(reserve, x, mask, *parameters)  # so that the reserve goes when the backward pass is over
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Tensors:
        needed = ctx.needs_input_grad[2:]
        arguments = (ctx.options, ctx.n, needed[0], *ctx.saved_tensors, *gradients)
        computed = _Backward.apply(*arguments) if torch.is_grad_enabled() else _backward(*arguments)
        return None, None, *(value if need else None for value, need in zip(computed, needed, strict=True))


class _Backward(torch.autograd.Function):  # type: ignore[misc]
    """`_backward` where the gradient is to have a gradient, which it has not."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensors:  # noqa: ARG004
        return _backward(*arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> None:
        raise NotImplementedError(SECOND_ORDER)


def _forward(
    options: Options, x: torch.Tensor, mask: torch.Tensor | None, parameters: Sequence[torch.Tensor | None]
) -> tuple[Tensors, torch.Tensor]:
    """Returns (y, *h_n, *c_n) and the reserve."""
    if _on_gpu(x):
        return torch_cuda.forward(options, x, mask, parameters)
    bfloat16 = x.dtype == torch.bfloat16
    y, h_n, c_n, reserve = core().forward(*_views(x, mask, parameters), *options, bfloat16)
    return tuple(_tensor(array, bfloat16) for array in (y, *h_n, *c_n)), torch.from_numpy(reserve)


def _backward(options: Options, n: int, with_dx: bool, reserve: torch.Tensor, *tensors: Any) -> Tensors:
    """Returns a gradient or None for x, mask and every parameter. `tensors` are these, dy, *dh_n and *dc_n."""
    x, mask, *parameters = tensors[: 2 + n * _FIELDS]
    if _on_gpu(x):
        return torch_cuda.backward(options, with_dx, reserve, x, mask, parameters, tensors[2 + n * _FIELDS :])
    dy, *dstates = (None if d is None else _view(d.contiguous()) for d in tensors[2 + n * _FIELDS :])
    bfloat16 = x.dtype == torch.bfloat16
    dx, *dparameters = core().backward(
        *_views(x, mask, parameters), reserve.numpy(), dy, dstates[:n], dstates[n:], *options, bfloat16, with_dx
    )
    # Dropout multipliers have no gradient; dparameters has a list for each of the fields before them.
    without = [None] * (_FIELDS - len(dparameters))
    ordered = [dx, None, *(array for direction in zip(*dparameters, strict=True) for array in (*direction, *without))]
    return tuple(None if array is None else _tensor(array, bfloat16) for array in ordered)


def _on_gpu(x: torch.Tensor) -> bool:
    return bool(x.is_cuda)


def _views(x: torch.Tensor, mask: torch.Tensor | None, parameters: Sequence[torch.Tensor | None]) -> list[Any]:
    """Returns the first arguments of the compiled functions: x, mask, and for every field of Direction a list."""
    return [_view(x), _view(mask), *([_view(value) for value in parameters[i::_FIELDS]] for i in range(_FIELDS))]


def _view(tensor: torch.Tensor | None) -> Any:
    """Returns an array on the memory of a tensor, of bfloat16 the bits."""
    if tensor is None:
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(array: np.ndarray, bfloat16: bool) -> torch.Tensor:
    """Returns a tensor on the memory of an array: the inverse of `_view`."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if bfloat16 else tensor
