"""PyTorch tensors in an autograd.Function.

Tensors on the CPU go to `lstm_fast._core`, without a copy. Those on CUDA devices go to `lstm_fast.backends.torch_cuda`.
"""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lstm_fast.backends import (
    RESERVE_NONE,
    SECOND_ORDER,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    UnavailableError,
    core,
    torch_cuda,
)
from lstm_fast.settings import follow_threads

Tensors = tuple[torch.Tensor | None, ...]  # an autograd.Function takes no list for several outputs

_PLAIN = (torch.Tensor, torch.nn.Parameter)  # types of tensors that are nothing but their memory

# The axis of each field that counts the rows of the batch.
_BATCH_AXES = Direction(None, None, None, h0=0, c0=0, input_dropout=1, recurrent_dropout=1)

library = core


def gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs that PyTorch sees."""
    return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))


def threads() -> tuple[int, str]:
    """Returns PyTorch's number of threads; 0 if it is not below the default, which is the number of cores."""
    number = torch.get_num_threads()
    return (number if number < _cores() else 0), "torch.get_num_threads"


@functools.cache
def _cores() -> int:
    """Returns the number of cores that the process may use. A core may be several processors."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    processors = os.sched_getaffinity(0)
    try:
        paths = [f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list" for n in processors]
        return len({Path(path).read_text() for path in paths})
    except OSError:  # a container may hide these files
        return len(processors)


def gpu_ops() -> str | None:
    """Returns None: there are no ops, PyTorch calls the kernels directly."""
    return None


def unavailable(x: Any = None) -> Unavailable | None:
    """Returns why the kernels cannot run on `x`, a tensor, now; None if they can."""
    try:
        core()
    except LibraryError as error:
        return Unavailable(str(error), announced=True)
    if x is not None and x.device.type == "cuda":
        if unusable := torch_cuda.unavailable(x.device):
            return unusable
    elif x is not None and x.device.type not in ("cpu", "meta"):
        return Unavailable(f"a tensor on {x.device}: no kernel for it")
    if _is_traced():
        return Unavailable("torch.jit.trace or torch.export: an exported program cannot contain the kernel")
    return None


def _is_traced() -> bool:
    # Not torch.compiler.is_exporting(): in torch.compile of PyTorch 2.10 that is true as well. PyTorch 2.6 has neither.
    return torch.jit.is_tracing() or getattr(torch.compiler, "_is_exporting_flag", False)


def slower_than_keras(_dtype: str, _batch: int | None, _units: int) -> str | None:
    """Returns None: the kernels are preferred."""
    return None


def with_batch(x: torch.Tensor, _size: int, _message: str) -> torch.Tensor:
    """Returns x: its size is known."""
    return x


def traced_length(x: torch.Tensor) -> int | None:
    """Returns the timesteps of x [B, T, D] if a program that is traced for export fixes them; else None."""
    if not _is_traced():
        return None
    length = x.shape[1]
    if not isinstance(length, torch.Tensor):  # it is one in torch.jit.trace, and to read it is a warning
        return int(length) if isinstance(length, int) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return int(length)


def array(value: Any, like: Any = None) -> torch.Tensor:
    """Returns a tensor on the device of `like`; a value without a dtype gets that of `like`.

    Raises UnavailableError for a subclass of tensors: the kernel does not know its memory or its meaning.
    """
    value = getattr(value, "value", value)  # the tensor of a Keras variable, because it has the gradient
    if not isinstance(value, torch.Tensor):
        typed = hasattr(value, "dtype")
        dtype, device = (None, None) if like is None else (None if typed else like.dtype, like.device)
        value = torch.tensor(np.asarray(value), dtype=dtype, device=device)
    if like is not None and value.device != like.device:
        raise ValueError(f"expected a tensor on {like.device}, found one on {value.device}")
    if value.is_nested:
        raise TypeError(
            "expected a dense tensor, found a nested one: pad it (torch.nested.to_padded_tensor), give `mask`"
        )
    if value.layout is not torch.strided:
        raise TypeError(f"expected a dense tensor, found one of layout {value.layout}")
    if type(value) not in _PLAIN:
        raise UnavailableError(f"a tensor of type {type(value).__name__}: the kernel takes plain tensors only")
    return value


def boolean(mask: torch.Tensor) -> torch.Tensor:
    """Returns a mask [B, T] or [B, T, 1] as booleans [B, T]."""
    return mask.reshape(mask.shape[:2]).to(torch.bool)


def _outside_graphs(function: Callable[..., Any]) -> Any:
    """Leaves a function out of the graphs of torch.compile."""
    reason = {"reason": "the kernels of lstm_fast are not part of a graph"}
    takes_reason = "reason" in inspect.signature(torch.compiler.disable).parameters  # from PyTorch 2.7 on
    return torch.compiler.disable(function, **(reason if takes_reason else {}))


@_outside_graphs
def lstm(operands: Operands, options: Options) -> Outputs:
    """Runs the forward pass; see `lstm_fast.backends.backend.Backend`."""
    follow_threads(*threads())
    transforms = _check_transforms()
    x, mask, n = operands.x, operands.mask, len(operands.directions)
    if x.is_meta and not transforms:  # Keras infers shapes with such tensors
        batch, time, _ = x.shape
        states = [x.new_empty((batch, operands.units)) for _ in range(2 * n)]
        y = x.new_empty((batch, time if options.return_sequences else 1, n * operands.units))
        return Outputs(y, states[:n], states[n:])
    if mask is not None and mask.device != x.device:
        raise ValueError(f"`mask`: expected a tensor on {x.device}, found one on {mask.device}")
    tensors = operands.flatten()
    if transforms:
        outputs = _Transformed.apply(options._replace(reserve_mode=RESERVE_NONE), n, *tensors)
    elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        outputs = _Forward.apply(options, n, *tensors)
    else:
        outputs, _ = _forward(options._replace(reserve_mode=RESERVE_NONE), operands)
    return Outputs.unflatten(outputs)


def _check_transforms() -> bool:
    """Returns whether transforms of torch.func are active.

    Raises UnavailableError if something is active that needs every operation to be PyTorch's own.
    """
    try:
        if torch._C._len_torch_dispatch_stack():
            raise UnavailableError(
                "make_fx, FakeTensorMode or another TorchDispatchMode, which would not see the kernel"
            )
        if torch._C._len_torch_function_stack():
            modes = torch.overrides._get_current_function_mode_stack()
            if not all(isinstance(mode, torch.utils._device.DeviceContext) for mode in modes):
                raise UnavailableError("a TorchFunctionMode, which would not see the kernel")
        levels = torch._C._functorch.get_interpreter_stack()
        if levels is not None:
            transforms = [level.key().name for level in levels]
            if "Functionalize" in transforms:
                raise UnavailableError("torch.func.functionalize, which would not see the kernel")
            if transforms.count("Grad") > 1:
                raise UnavailableError("nested derivatives by torch.func: the kernel has no gradients of gradients")
            if not {"Grad", "Vmap"}.issuperset(transforms):
                raise UnavailableError("torch.func.jvp, jacfwd, linearize or hessian: the kernel has no forward mode")
        if torch.autograd.forward_ad._current_level >= 0:
            raise UnavailableError("torch.autograd.forward_ad: the kernel has no forward mode")
    except AttributeError as error:  # all these names are private
        raise UnavailableError(f"this PyTorch does not say which transforms are active: {error}") from error
    return levels is not None


class _Forward(torch.autograd.Function):  # type: ignore[misc]
    """(options, n, *operands) -> (y, *h_n, *c_n), for the operands of n directions one by one."""

    @staticmethod
    def forward(ctx: Any, options: Options, n: int, *tensors: torch.Tensor | None) -> Tensors:
        outputs, reserve = _forward(options, Operands.unflatten(tensors, n))
        ctx.options, ctx.n = options, n
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(reserve, *tensors)  # the reserve, too: PyTorch frees it after the backward pass
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> Tensors:
        try:
            transforms = _check_transforms()
        except UnavailableError as error:
            raise RuntimeError(
                f"lstm_fast: {error}; the forward pass has run without it. Run both passes with it, or use "
                "lstm_fast.to_keras(model)"
            ) from None
        needed = ctx.needs_input_grad[2:]
        others = (ctx.options, ctx.n, needed[0], *ctx.saved_tensors)
        if _batched(gradients):
            computed = _backward_of_batched(gradients, *others)
        elif transforms or torch.is_grad_enabled():
            computed = _Backward.apply(*others, *gradients)
        else:
            computed = _backward(*others, *gradients)
        return None, None, *(value if need else None for value, need in zip(computed, needed, strict=True))


class _Transformed(torch.autograd.Function):  # type: ignore[misc]
    """`_Forward` in the form that the transforms of torch.func need. PyTorch calls this form more slowly.

    It keeps no reserve: the backward pass would have to know the transforms under which the reserve was made.
    """

    @staticmethod
    def forward(options: Options, n: int, *tensors: torch.Tensor | None) -> Tensors:
        return _forward(options, Operands.unflatten(tensors, n))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004
        ctx.options, ctx.n, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(torch.empty(0, dtype=torch.uint8, device=tensors[0].device), *tensors)

    backward = staticmethod(_Forward.backward)

    @staticmethod
    def vmap(info: Any, in_dims: Any, options: Options, n: int, *tensors: Any) -> tuple[Tensors, Any]:
        """Makes the mapped axis a part of the batch. If weights are mapped, runs row by row."""
        axes, dims = Operands.of_each(0, 0, _BATCH_AXES, n).flatten(), in_dims[2:]
        if any(axis is None and dim is not None for axis, dim in zip(axes, dims, strict=True)):
            return _one_by_one(_Transformed, info.batch_size, in_dims, options, n, *tensors)
        rows = [_as_rows(*each, info.batch_size) for each in zip(tensors, dims, axes, strict=True)]
        batch = tensors[0].shape[1 if dims[0] == 0 else 0]
        outputs = _Transformed.apply(options, n, *rows)
        return tuple(output.unflatten(0, (info.batch_size, batch)) for output in outputs), 0


class _Backward(torch.autograd.Function):  # type: ignore[misc]
    """`_backward` under transforms, and with an error if its results are differentiated."""

    @staticmethod
    def forward(options: Options, n: int, with_dx: bool, *tensors: torch.Tensor | None) -> Tensors:
        return _backward(options, n, with_dx, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> None:
        raise NotImplementedError(SECOND_ORDER)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> tuple[Tensors, Any]:
        """Runs row by row: each row of the mapped axis has its own gradients of the weights."""
        return _one_by_one(_Backward, info.batch_size, in_dims, *arguments)


def _one_by_one(function: Any, size: int, in_dims: Any, *arguments: Any) -> tuple[Tensors, Any]:
    """Applies a function to each row of the mapped axis, and stacks what it returns."""

    def row(i: int) -> list[Any]:
        return [a.select(dim, i) if isinstance(dim, int) else a for a, dim in zip(arguments, in_dims, strict=True)]

    def empty_row() -> list[Any]:
        return [
            a.new_zeros(a.movedim(dim, 0).shape[1:]) if isinstance(dim, int) else a
            for a, dim in zip(arguments, in_dims, strict=True)
        ]

    rows = [function.apply(*row(i)) for i in range(size)] or [function.apply(*empty_row())]  # for shapes and dtypes
    outputs = tuple(None if parts[0] is None else torch.stack(parts)[:size] for parts in zip(*rows, strict=True))
    return outputs, tuple(None if output is None else 0 for output in outputs)


# torch.autograd.grad(is_grads_batched=True), and so torch.autograd.functional.jacobian(vectorize=True), map the
# backward pass by an older vmap than torch.func's. It has one level, and does not call the method `vmap` of a function.


def _batched(tensors: Sequence[Any]) -> list[int]:
    """Returns which tensors are mapped by that vmap."""
    is_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", None)
    if is_batched is None:
        return []
    return [i for i, tensor in enumerate(tensors) if tensor is not None and is_batched(tensor)]


def _backward_of_batched(gradients: Sequence[torch.Tensor | None], *others: Any) -> Tensors:
    """Returns what `_backward(*others, *gradients)` does, for each row of the mapped axis."""
    rows = {i: torch._remove_batch_dim(gradients[i], 1, 0, 0) for i in _batched(gradients)}
    values = [rows.get(i, gradient) for i, gradient in enumerate(gradients)]
    dims = [0 if i in rows else None for i in range(len(gradients))]
    size = len(next(iter(rows.values())))
    computed, _ = _one_by_one(_Backward, size, [*[None] * len(others), *dims], *others, *values)
    return tuple(None if value is None else torch._add_batch_dim(value, 0, 1) for value in computed)


def _as_rows(tensor: torch.Tensor | None, dim: int | None, axis: int | None, size: int) -> torch.Tensor | None:
    """Returns a tensor with the mapped axis `dim` in its batch axis `axis`. If `dim` is None, there are copies."""
    if tensor is None or axis is None:
        return tensor
    if dim is None:
        tensor = tensor.unsqueeze(axis).expand(*tensor.shape[:axis], size, *tensor.shape[axis:])
    else:
        tensor = tensor.movedim(dim, axis)
    return tensor.flatten(axis, axis + 1)


def _forward(options: Options, operands: Operands) -> tuple[Tensors, torch.Tensor]:
    """Returns (y, *h_n, *c_n) and the reserve."""
    if _on_gpu(operands.x):
        outputs, reserve = torch_cuda.forward(options, operands)
        return tuple(outputs.flatten()), reserve
    bfloat16 = operands.x.dtype == torch.bfloat16
    y, h_n, c_n, reserve = core().forward(*_views(operands), *options, bfloat16)
    return tuple(_tensor(array, bfloat16) for array in (y, *h_n, *c_n)), torch.from_numpy(reserve)


def _backward(options: Options, n: int, with_dx: bool, reserve: torch.Tensor, *tensors: Any) -> Tensors:
    """Returns a gradient or None for each operand. `tensors` are the operands, dy, *dh_n and *dc_n."""
    operands, further = Operands.split(tensors, n)
    gradients = Outputs.unflatten(further)
    if _on_gpu(operands.x):
        return tuple(torch_cuda.backward(options, with_dx, reserve, operands, gradients).flatten())
    bfloat16 = operands.x.dtype == torch.bfloat16
    dy, dh_n, dc_n = _view(gradients.y), [*map(_view, gradients.h_n)], [*map(_view, gradients.c_n)]
    dx, *lists = core().backward(*_views(operands), _view(reserve), dy, dh_n, dc_n, *options, bfloat16, with_dx)
    # Dropout multipliers have no gradient: there are lists for the fields before them.
    computed = Operands(dx, None, [Direction(*arrays) for arrays in zip(*lists, strict=True)])
    return tuple(None if array is None else _tensor(array, bfloat16) for array in computed.flatten())


def _on_gpu(x: torch.Tensor) -> bool:
    return bool(x.is_cuda)


def _views(operands: Operands) -> list[Any]:
    """Returns the first arguments of the compiled functions: x, mask, and for every field of Direction a list."""
    lists = [[_view(tensor) for tensor in tensors] for tensors in operands.lists()]
    return [_view(operands.x), _view(operands.mask), *lists]


def _view(tensor: torch.Tensor | None) -> Any:
    """Returns an array on the memory of a tensor, or of a contiguous copy; for bfloat16 an array of its bits."""
    if tensor is None:
        return None
    if tensor.requires_grad:
        tensor = tensor.detach()
    tensor = tensor.contiguous()
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _tensor(array: np.ndarray, bfloat16: bool) -> torch.Tensor:
    """Returns a tensor on the memory of an array: the inverse of `_view`."""
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if bfloat16 else tensor
