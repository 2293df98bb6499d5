"""PyTorch tensors on CUDA devices: PyTorch's own matrix products around the recurrence of `lstm_fast._cuda`.

Everything runs on the current stream, no call waits, and all memory is PyTorch's. So a call can be captured into a CUDA
graph. Products of float32 in the recurrence are as precise as PyTorch's own. The setting `precision`
(LSTM_FAST_PRECISION) comes before this.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lstm_fast.backends import (
    RESERVE_GATES,
    Direction,
    LibraryError,
    Operands,
    Options,
    Outputs,
    Unavailable,
    cuda,
    least_capability,
    products,
)
from lstm_fast.settings import config


def unavailable(device: torch.device) -> Unavailable | None:
    """Returns why the kernels cannot run on a CUDA device, None if they can."""
    if torch.version.cuda is None:
        return Unavailable(f"a tensor on {device}: this PyTorch does not run on CUDA")
    try:
        cuda()
    except LibraryError as error:
        return Unavailable(f"a tensor on {device}: {error}")
    capability, least = torch.cuda.get_device_capability(device), least_capability()
    if capability < least:
        found, needed = (".".join(map(str, version)) for version in (capability, least))
        return Unavailable(f"{device} has compute capability {found}: the kernel needs {needed} or later")
    return None


def forward(options: Options, operands: Operands) -> tuple[Outputs, torch.Tensor]:
    """Returns the outputs and the reserve; see `lstm_fast.backends.torch`."""
    with torch.autocast(operands.x.device.type, enabled=False):
        return _Call(options, _prepared(operands)).forward(keep=options.reserve_mode == RESERVE_GATES)


def backward(
    options: Options, with_dx: bool, reserve: torch.Tensor, operands: Operands, gradients: Outputs
) -> Operands:
    """Returns a gradient or None for each operand. `gradients` are those of the outputs, None where there is none."""
    x, mask, directions = operands = _prepared(operands)
    call = _Call(options, operands)
    with torch.autocast(x.device.type, enabled=False):
        reserve = _dense(reserve) if options.reserve_mode == RESERVE_GATES else call.forward(keep=True)[1]
        dz, h_prev, dh0, dc0 = call.backward(reserve, gradients)
        dx = products.input_gradient(ARRAYS, dz, directions) if with_dx else None
        dkernels = products.kernel_gradients(ARRAYS, x, mask, dz, directions)
        drecurrent_kernels = products.recurrent_gradients(ARRAYS, h_prev, dz, directions)
        dbiases = [None if d.bias is None else db for d, db in zip(directions, ARRAYS.sum_of_rows(dz), strict=True)]
    of_each = zip(dkernels, drecurrent_kernels, dbiases, dh0, dc0, strict=True)
    return Operands(dx, None, [Direction(*computed) for computed in of_each])


class _Call(NamedTuple):
    """The passes over one batch, on the current stream."""

    options: Options
    operands: Operands

    def forward(self, *, keep: bool) -> tuple[Outputs, torch.Tensor]:
        """Returns the outputs and the reserve, which is empty if it is not kept."""
        (x, mask, directions), units = self.operands, self.operands.units
        (batch, time, _), n = x.shape, len(directions)
        z = products.project(ARRAYS, x, directions)
        y = x.new_empty((batch, time if self.options.return_sequences else 1, n * units))
        h_n, c_n = ([x.new_empty((batch, units)) for _ in range(n)] for _ in range(2))
        kept = (batch, n, time, self.reserve_step_bytes) if keep else (0,)
        reserve = x.new_empty(kept, dtype=torch.uint8)
        scratch = self.scratch()
        cuda().forward(
            *self.problem(),
            z.data_ptr(),
            _address(mask),
            *self.addresses(),
            y.data_ptr(),
            _addresses(h_n),
            _addresses(c_n),
            reserve.data_ptr(),
            self.reserve_step_bytes,
            scratch.data_ptr(),
            scratch.numel(),
        )
        return Outputs(y, h_n, c_n), reserve

    def backward(
        self, reserve: torch.Tensor, gradients: Outputs
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Returns dz [B, T, N, 4H], h_prev [B, T, N, H] and, for every direction, dh0 and dc0."""
        (x, mask, directions), units = self.operands, self.operands.units
        (batch, time, _), n = x.shape, len(directions)
        dy, dh_n, dc_n = _dense(gradients.y), [*map(_dense, gradients.h_n)], [*map(_dense, gradients.c_n)]
        dz, h_prev = (x.new_empty((batch, time, n, size)) for size in (4 * units, units))
        dh0, dc0 = ([x.new_empty((batch, units)) for _ in range(n)] for _ in range(2))
        scratch = self.scratch()
        cuda().backward(
            *self.problem(),
            _address(mask),
            *self.addresses(),
            reserve.data_ptr(),
            self.reserve_step_bytes,
            _address(dy),
            _addresses(dh_n),
            _addresses(dc_n),
            dz.data_ptr(),
            h_prev.data_ptr(),
            _addresses(dh0),
            _addresses(dc0),
            scratch.data_ptr(),
            scratch.numel(),
        )
        return dz, h_prev, dh0, dc0

    @property
    def dtype(self) -> str:
        return str(self.operands.x.dtype).removeprefix("torch.")

    @property
    def reserve_step_bytes(self) -> int:
        return int(cuda().reserve_step_bytes(self.dtype, self.operands.units))

    def problem(self) -> tuple[int | str | bool, ...]:
        """The first arguments of the compiled functions."""
        x, units = self.operands.x, self.operands.units
        batch, time, _ = x.shape
        go_backwards, return_sequences, zero_output_for_mask, _ = self.options
        options = (go_backwards, return_sequences, zero_output_for_mask)
        return (*_place(x), self.dtype, precision(), batch, time, units, *options)

    def addresses(self) -> list[list[int]]:
        """For every field of Direction that the recurrence uses, a list with an address for every direction."""
        return [_addresses(tensors) for tensors in self.operands.lists_of_recurrence()]

    def scratch(self) -> torch.Tensor:
        x, operands = self.operands.x, self.operands
        (batch, time, _), (device, _) = x.shape, _place(x)
        sizes = (batch, time, operands.units, len(operands.directions))
        size = cuda().scratch_bytes(device, self.dtype, precision(), *sizes, operands.masked, operands.dropout)
        return x.new_empty(size, dtype=torch.uint8)


def precision() -> str:
    """Returns how the recurrence computes products of float32: an entry of PRECISIONS."""
    if forced := config.precision:
        return forced
    matmul = torch.backends.cuda.matmul
    # PyTorch before 2.9 has only allow_tf32. Since 2.9 that cannot be read if fp32_precision was set.
    try:
        allowed = matmul.fp32_precision == "tf32"
    except AttributeError:
        allowed = matmul.allow_tf32
    return "tf32" if allowed else "exact"


def _place(x: torch.Tensor) -> tuple[int, int]:
    """Returns the device, by its ordinal, and its current stream."""
    return x.get_device(), torch.cuda.current_stream(x.device).cuda_stream


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else int(tensor.data_ptr())


def _addresses(tensors: Sequence[torch.Tensor | None]) -> list[int]:
    return [_address(tensor) for tensor in tensors]


def _dense(tensor: torch.Tensor | None) -> Any:
    """Returns a tensor whose memory holds its values in their order. The kernels get the address of this memory."""
    return None if tensor is None else tensor.contiguous().resolve_neg()


def _prepared(operands: Operands) -> Operands:
    """Returns operands as the kernels take them."""
    directions = [Direction(*map(_dense, direction)) for direction in operands.directions]
    return Operands(_dense(operands.x), _dense(operands.mask), products.for_all_or_none(ARRAYS, directions))


class _Arrays:
    """PyTorch's operations for `lstm_fast.backends.products`; see `DifferentiatedArrays` there.

    They return views, and write a product where it is needed, wherever possible.
    """

    def ones_like(self, array: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(array)

    def concatenate(self, arrays: Sequence[torch.Tensor], axis: int) -> torch.Tensor:
        return torch.cat(arrays, dim=axis)

    def split(self, array: torch.Tensor, parts: int) -> Sequence[torch.Tensor]:
        return list(array.tensor_split(parts, dim=1))

    def by_direction(self, z: torch.Tensor, directions: int) -> torch.Tensor:
        return z.view(*z.shape[:2], directions, z.shape[2] // directions)

    def room(self, x: torch.Tensor, directions: int, columns: int) -> torch.Tensor:
        return x.new_empty((*x.shape[:2], directions, columns))

    def without_padding(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x.masked_fill(~mask.unsqueeze(2), 0.0)

    def project(
        self, x: torch.Tensor, kernel: torch.Tensor, directions: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        z = torch.mm(x.flatten(0, 1), kernel, out=None if out is None else out.flatten(0, 2))
        return z.view(*x.shape[:2], directions, kernel.shape[1] // directions)

    def project_by_gate(self, x: torch.Tensor, kernel: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        torch.bmm(x.flatten(1, 2), _by_gate(kernel), out=_by_gate(out.flatten(0, 2)))
        return out

    def project_back(self, dz: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return torch.mm(dz.flatten(0, 1), kernel.T).view(*dz.shape[:2], kernel.shape[0])

    def project_back_by_gate(self, dz: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        dx = torch.bmm(_by_gate(dz.flatten(0, 1)), _by_gate(kernel).mT)
        return dx.view(4, *dz.shape[:2], kernel.shape[0])

    def sum_products(self, values: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
        return torch.mm(values.flatten(0, 1).T, dz.flatten(0, 1))

    def sum_products_by_gate(self, values: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
        gradient = values.new_empty((values.shape[3], dz.shape[2]))
        torch.bmm(values.flatten(1, 2).mT, _by_gate(dz.flatten(0, 1)), out=_by_gate(gradient))
        return gradient

    def sum_of_rows(self, dz: torch.Tensor) -> torch.Tensor:
        return dz.sum((0, 1))


def _by_gate(matrix: torch.Tensor) -> torch.Tensor:
    """Returns a matrix [n, 4H] as [4, n, H], on the same memory."""
    return matrix.unflatten(1, (4, matrix.shape[1] // 4)).movedim(1, 0)


ARRAYS = _Arrays()
