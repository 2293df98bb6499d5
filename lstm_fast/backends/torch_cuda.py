"""PyTorch tensors on CUDA devices: PyTorch's own matrix products around the recurrence of `lstm_fast._cuda`.

Everything goes to the current stream, nothing is waited for, and all memory is PyTorch's: a call can be captured into a
CUDA graph. Products of float32 in the recurrence are as precise as PyTorch's own switch has them, unless
LSTM_FAST_PRECISION says otherwise.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lstm_fast.backends import (
    RESERVE_GATES,
    Direction,
    LibraryError,
    Unavailable,
    cuda,
    forced_precision,
    least_capability,
)

Tensors = Sequence[torch.Tensor | None]
Options = tuple[bool, bool, bool, int]  # go_backwards, return_sequences, zero_output_for_mask, reserve_mode


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


def forward(
    options: Options, x: torch.Tensor, mask: torch.Tensor | None, parameters: Sequence[torch.Tensor | None]
) -> tuple[Tensors, torch.Tensor]:
    """Returns (y, *h_n, *c_n) and the reserve; see `lstm_fast.backends.torch`."""
    x, mask, *parameters = _dense(x, mask, *parameters)
    with torch.autocast(x.device.type, enabled=False):
        return _Call(options, x, mask, _directions(parameters)).forward(keep=options[3] == RESERVE_GATES)


def backward(
    options: Options,
    with_dx: bool,
    reserve: torch.Tensor,
    x: torch.Tensor,
    mask: torch.Tensor | None,
    parameters: Sequence[torch.Tensor | None],
    gradients: Sequence[torch.Tensor | None],
) -> Tensors:
    """Returns a gradient or None for x, mask and every parameter. `gradients` are dy, *dh_n and *dc_n."""
    reserve, x, mask, *parameters = _dense(reserve, x, mask, *parameters)
    directions = _directions(parameters)
    call = _Call(options, x, mask, directions)
    with torch.autocast(x.device.type, enabled=False):
        if options[3] != RESERVE_GATES:
            reserve = call.forward(keep=True)[1]
        dz, h_prev, dh0, dc0 = call.backward(reserve, gradients)
        computed: list[torch.Tensor | None] = [_input_gradient(dz, directions, x) if with_dx else None, None]
        real = x if mask is None else x.masked_fill(~mask.unsqueeze(2), 0.0)  # what is padding may be NaN
        dkernels = _kernel_gradients(real, dz, directions)
        dbiases = dz.sum((0, 1))
        for n, direction in enumerate(directions):
            drecurrent_kernel = _weight_gradient(h_prev[:, :, n], dz[:, :, n], direction.recurrent_dropout)
            dbias = None if direction.bias is None else dbiases[n]
            gradient = Direction(dkernels[n], drecurrent_kernel, dbias, dh0[n], dc0[n])
            computed += gradient
    return tuple(computed)


class _Call(NamedTuple):
    """The passes over one batch, on the current stream."""

    options: Options
    x: torch.Tensor
    mask: torch.Tensor | None
    directions: Sequence[Direction]

    def forward(self, *, keep: bool) -> tuple[Tensors, torch.Tensor]:
        """Returns (y, *h_n, *c_n) and the reserve, which is empty if it is not kept."""
        x, n = self.x, len(self.directions)
        batch, time, _ = x.shape
        z = _project(x, self.directions)
        y = x.new_empty((batch, time if self.options[1] else 1, n * self.units))
        states = [x.new_empty((batch, self.units)) for _ in range(2 * n)]
        kept = (batch, n, time, self.reserve_step_bytes) if keep else (0,)
        reserve = x.new_empty(kept, dtype=torch.uint8)
        scratch = self.scratch()
        cuda().forward(
            *self.problem(),
            z.data_ptr(),
            _address(self.mask),
            *self.addresses(),
            y.data_ptr(),
            _addresses(states[:n]),
            _addresses(states[n:]),
            reserve.data_ptr(),
            self.reserve_step_bytes,
            scratch.data_ptr(),
            scratch.numel(),
        )
        return (y, *states), reserve

    def backward(
        self, reserve: torch.Tensor, gradients: Sequence[torch.Tensor | None]
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Returns dz [B, T, N, 4H], h_prev [B, T, N, H] and, for every direction, dh0 and dc0."""
        x, n = self.x, len(self.directions)
        batch, time, _ = x.shape
        dy, *dstates = _dense(*gradients)
        dz, h_prev = (x.new_empty((batch, time, n, size)) for size in (4 * self.units, self.units))
        dh0, dc0 = ([x.new_empty((batch, self.units)) for _ in range(n)] for _ in range(2))
        scratch = self.scratch()
        cuda().backward(
            *self.problem(),
            _address(self.mask),
            *self.addresses(),
            reserve.data_ptr(),
            self.reserve_step_bytes,
            _address(dy),
            _addresses(dstates[:n]),
            _addresses(dstates[n:]),
            dz.data_ptr(),
            h_prev.data_ptr(),
            _addresses(dh0),
            _addresses(dc0),
            scratch.data_ptr(),
            scratch.numel(),
        )
        return dz, h_prev, dh0, dc0

    @property
    def units(self) -> int:
        return int(self.directions[0].recurrent_kernel.shape[0])

    @property
    def dtype(self) -> str:
        return str(self.x.dtype).removeprefix("torch.")

    @property
    def reserve_step_bytes(self) -> int:
        return int(cuda().reserve_step_bytes(self.dtype, self.units))

    def problem(self) -> tuple[int | str | bool, ...]:
        """The first arguments of the compiled functions."""
        batch, time, _ = self.x.shape
        return (*_place(self.x), self.dtype, precision(), batch, time, self.units, *self.options[:3])

    def addresses(self) -> list[list[int]]:
        """For every field of Direction that the recurrence knows, a list with an address for every direction."""
        fields = ("recurrent_kernel", "bias", "h0", "c0", "recurrent_dropout")
        return [_addresses([getattr(direction, field) for direction in self.directions]) for field in fields]

    def scratch(self) -> torch.Tensor:
        batch, time, _ = self.x.shape
        device, _ = _place(self.x)
        masked, dropout = self.mask is not None, self.directions[0].recurrent_dropout is not None
        sizes = (batch, time, self.units, len(self.directions))
        size = cuda().scratch_bytes(device, self.dtype, precision(), *sizes, masked, dropout)
        return self.x.new_empty(size, dtype=torch.uint8)


def precision() -> str:
    """Returns how the recurrence computes products of float32: an entry of PRECISIONS."""
    if forced := forced_precision():
        return forced
    matmul = torch.backends.cuda.matmul
    # PyTorch before 2.9 has only allow_tf32, which from then on cannot be read where the other has been set.
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


def _dense(*tensors: torch.Tensor | None) -> list[Any]:
    """Returns tensors whose memory, of which the kernels get the address, holds their values in their order."""
    return [None if tensor is None else tensor.contiguous().resolve_neg() for tensor in tensors]


def _directions(parameters: Sequence[torch.Tensor | None]) -> list[Direction]:
    fields = len(Direction._fields)
    directions = [Direction(*parameters[i : i + fields]) for i in range(0, len(parameters), fields)]
    given = next((d.recurrent_dropout for d in directions if d.recurrent_dropout is not None), None)
    if given is None:
        return directions
    # The recurrence has multipliers for every direction or for none.
    return [
        d._replace(recurrent_dropout=torch.ones_like(given)) if d.recurrent_dropout is None else d for d in directions
    ]


# Products. Multipliers differ by gate, so that where there are some each gate has a product of its own.


def _project(x: torch.Tensor, directions: Sequence[Direction]) -> torch.Tensor:
    """Returns z [B, T, N, 4H]."""
    columns = directions[0].recurrent_kernel.shape[1]
    if directions[0].kernel is None:  # x is projected already
        return x.view(*x.shape[:2], len(directions), columns)
    z = x.new_empty((*x.shape[:2], len(directions), columns))
    rows, by_rows = x.flatten(0, 1), z.flatten(0, 1)
    if _shared(directions):
        torch.mm(rows, _side_by_side(directions), out=by_rows.flatten(1))
        return z
    for n, direction in enumerate(directions):
        if direction.input_dropout is None:
            torch.mm(rows, direction.kernel, out=by_rows[:, n])
        else:
            torch.bmm(_dropped(x, direction.input_dropout), _by_gate(direction.kernel), out=_by_gate(by_rows[:, n]))
    return z


def _input_gradient(dz: torch.Tensor, directions: Sequence[Direction], x: torch.Tensor) -> torch.Tensor:
    """Returns dx [B, T, D]."""
    if directions[0].kernel is None:
        return dz.view(x.shape)
    by_rows = dz.flatten(0, 1)
    if _shared(directions):
        return torch.mm(by_rows.flatten(1), _side_by_side(directions).T).view(x.shape)
    parts = []
    for n, direction in enumerate(directions):
        if direction.input_dropout is None:
            parts.append(torch.mm(by_rows[:, n], direction.kernel.T).view(x.shape))
        else:
            dropped = torch.bmm(_by_gate(by_rows[:, n]), _by_gate(direction.kernel).mT)
            parts.append((dropped.view(4, *x.shape) * direction.input_dropout.unsqueeze(2)).sum(0))
    return sum(parts[1:], parts[0])


def _kernel_gradients(x: torch.Tensor, dz: torch.Tensor, directions: Sequence[Direction]) -> Tensors:
    """Returns dW [D, 4H] for every direction, or None where there is no W."""
    if directions[0].kernel is None:
        return [None] * len(directions)
    if _shared(directions):
        return list(_weight_gradient(x, dz.flatten(2), None).tensor_split(len(directions), dim=1))
    return [_weight_gradient(x, dz[:, :, n], direction.input_dropout) for n, direction in enumerate(directions)]


def _weight_gradient(values: torch.Tensor, dz: torch.Tensor, multipliers: torch.Tensor | None) -> torch.Tensor:
    """Returns the gradient of weights that z [B, T, 4H] has got by values [B, T, n], multiplied by gate or not."""
    dz = dz.flatten(0, 1)
    if multipliers is None:
        return torch.mm(values.flatten(0, 1).T, dz)
    gradient = values.new_empty((values.shape[2], dz.shape[1]))
    torch.bmm(_dropped(values, multipliers).mT, _by_gate(dz), out=_by_gate(gradient))
    return gradient


def _shared(directions: Sequence[Direction]) -> bool:
    """Whether one product can serve all directions."""
    return all(direction.input_dropout is None for direction in directions)


def _side_by_side(directions: Sequence[Direction]) -> torch.Tensor:
    kernels = [direction.kernel for direction in directions]
    return kernels[0] if len(kernels) == 1 else torch.cat(kernels, dim=1)


def _dropped(values: torch.Tensor, multipliers: torch.Tensor) -> torch.Tensor:
    """Returns values [B, T, n] times multipliers [4, B, n] as [4, B * T, n]."""
    return (multipliers.unsqueeze(2) * values).flatten(1, 2)


def _by_gate(matrix: torch.Tensor) -> torch.Tensor:
    """Returns a matrix [n, 4H] as [4, n, H], on the same memory."""
    return matrix.unflatten(1, (4, matrix.shape[1] // 4)).movedim(1, 0)
