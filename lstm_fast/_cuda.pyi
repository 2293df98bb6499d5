"""Types of the compiled module, csrc/bindings/cuda.cc. Shapes: csrc/cuda/recurrence.h."""

from collections.abc import Sequence
from typing import TypeAlias, TypedDict

# Whatever has __dlpack__ or __cuda_array_interface__, an address on the device, or None or 0 where it is absent.
_Array: TypeAlias = object
# One entry for each direction.
_Arrays: TypeAlias = Sequence[_Array]

class _Device(TypedDict):
    capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int
    code: int

class _Pass(TypedDict):
    words: str
    variant: str
    exchange: str
    blocks: int
    units: int
    rows: int
    groups: int
    warps: int
    splits: int
    shared_bytes: int
    fragments: int
    fragments_shared: int
    fragments_streamed: int
    microseconds: float

class _Passes(TypedDict):
    forward: _Pass
    backward: _Pass

class _Variant(TypedDict):
    name: str
    dtype: str
    precision: str
    tensor_cores: bool
    rows: int
    registers: int
    split: bool
    dropout: bool
    most_threads: int
    most_units: int
    row_blocks: int

class _Calls(TypedDict):
    forward: int
    backward: int

class _BuildInfo(TypedDict):
    compiler: str
    emulated: bool
    nvcc: str
    architectures: str

__version__: str

def forward(
    device: int,
    stream: int,
    dtype: str,
    precision: str,
    batch: int,
    time: int,
    units: int,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    z: _Array,
    mask: _Array,
    recurrent_kernels: _Arrays,
    biases: _Arrays,
    h0: _Arrays,
    c0: _Arrays,
    recurrent_dropout: _Arrays,
    y: _Array,
    h_n: _Arrays,
    c_n: _Arrays,
    reserve: _Array,
    reserve_step_bytes: int,
    scratch: _Array,
    scratch_bytes: int,
) -> None: ...
def backward(
    device: int,
    stream: int,
    dtype: str,
    precision: str,
    batch: int,
    time: int,
    units: int,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    mask: _Array,
    recurrent_kernels: _Arrays,
    biases: _Arrays,
    h0: _Arrays,
    c0: _Arrays,
    recurrent_dropout: _Arrays,
    reserve: _Array,
    reserve_step_bytes: int,
    dy: _Array,
    dh_n: _Arrays,
    dc_n: _Arrays,
    dz: _Array,
    h_prev: _Array,
    dh0: _Arrays,
    dc0: _Arrays,
    scratch: _Array,
    scratch_bytes: int,
) -> None: ...
def scratch_bytes(
    device: int,
    dtype: str,
    precision: str,
    batch: int,
    time: int,
    units: int,
    directions: int,
    masked: bool,
    dropout: bool,
) -> int: ...
def scratch_bound(
    device: int, dtype: str, precision: str, units: int, directions: int, masked: bool, dropout: bool
) -> tuple[int, int, int]: ...
def reserve_step_bytes(dtype: str, units: int) -> int: ...
def devices() -> list[_Device]: ...
def device_problem() -> str: ...
def describe(
    device: int, dtype: str, precision: str, batch: int, units: int, directions: int, dropout: bool
) -> _Passes: ...
def force(
    pass_name: str,
    variant: str | None = None,
    exchange: str | None = None,
    blocks: int | None = None,
    rows: int | None = None,
) -> None: ...
def set_skips(wanted: bool) -> None: ...
def variants() -> list[_Variant]: ...
def fused_calls() -> _Calls: ...
def xla_handlers() -> dict[str, object]: ...
def register_xla_handlers(api: int) -> None: ...
def build_info() -> _BuildInfo: ...
