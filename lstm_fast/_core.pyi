"""Types of the compiled module, csrc/bindings/python.cc. Shapes and equations: csrc/include/lstm_fast/lstm.h."""

from collections.abc import Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

_Array: TypeAlias = npt.NDArray[Any]
# One entry for each direction.
_Arrays: TypeAlias = Sequence[_Array]
_OptionalArrays: TypeAlias = Sequence[_Array | None]

class _BuildInfo(TypedDict):
    compiler: str
    build_type: str
    isas: list[str]
    cuda: str
    tensorflow: str

class _Calls(TypedDict):
    forward: int
    backward: int

class _Timesteps(TypedDict):
    given: int
    computed: int
    without_gradient: int

__version__: str
checkpoint_interval: int

def forward(
    x: _Array,
    mask: npt.NDArray[np.bool_] | None,
    kernels: _OptionalArrays,
    recurrent_kernels: _Arrays,
    biases: _OptionalArrays,
    h0: _OptionalArrays,
    c0: _OptionalArrays,
    input_dropout: _OptionalArrays,
    recurrent_dropout: _OptionalArrays,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
    bfloat16_bits: bool = False,
) -> tuple[_Array, list[_Array], list[_Array], npt.NDArray[np.uint8]]: ...
def backward(
    x: _Array,
    mask: npt.NDArray[np.bool_] | None,
    kernels: _OptionalArrays,
    recurrent_kernels: _Arrays,
    biases: _OptionalArrays,
    h0: _OptionalArrays,
    c0: _OptionalArrays,
    input_dropout: _OptionalArrays,
    recurrent_dropout: _OptionalArrays,
    reserve: npt.NDArray[np.uint8],
    dy: _Array | None,
    dh_n: _OptionalArrays,
    dc_n: _OptionalArrays,
    go_backwards: bool,
    return_sequences: bool,
    zero_output_for_mask: bool,
    reserve_mode: int,
    bfloat16_bits: bool = False,
    with_dx: bool = True,
) -> tuple[_Array | None, list[_Array | None], list[_Array], list[_Array | None], list[_Array], list[_Array]]: ...
def isa() -> str: ...
def available_isas() -> list[str]: ...
def compiled_isas() -> list[str]: ...
def set_isa(isa: str | None) -> None: ...
def threads() -> int: ...
def threads_source() -> str: ...
def set_threads(threads: int | None) -> None: ...
def follow_threads(threads: int, source: str) -> None: ...
def kept_bytes() -> int: ...
def kept_bytes_limit() -> int: ...
def set_kept_bytes_limit(bytes: int | None) -> None: ...
def trim() -> int: ...
def fused_calls() -> _Calls: ...
def timesteps() -> _Timesteps: ...
def skips_repeats() -> bool: ...
def set_skips_repeats(skips: bool | None) -> None: ...
def reserve_step_bytes(reserve_mode: int, dtype: str, units: int) -> int: ...
def xla_handlers() -> dict[str, object]: ...
def register_xla_handlers(api: int) -> None: ...
def build_info() -> _BuildInfo: ...
def _sigmoid(x: _Array) -> _Array: ...
def _tanh(x: _Array) -> _Array: ...
