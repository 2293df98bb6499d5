"""The interface of a backend: the functions that `lstm_fast.functional` calls. Nothing else calls them.

mypy compares each backend with `Backend` where `lstm_fast.functional` imports it. CONTRIBUTING.md says how to write a
backend for a further framework.
"""

from typing import Any, Protocol

from lstm_fast.backends import Operands, Options, Outputs, Unavailable


class Backend(Protocol):
    """The functions of a backend's module. Nobody passes their arguments by name."""

    def library(self) -> object:
        """Loads the compiled part; raises LibraryError if it cannot be used."""

    def gpus(self) -> tuple[str, ...]:
        """Returns the names of the GPUs that the framework sees."""

    def threads(self) -> tuple[int, str]:
        """Returns how many CPU threads the user allows the framework, and the name of the setting; 0 if not set."""

    def gpu_ops(self) -> str | None:
        """Returns the state of ops that are compiled for one release of the framework; None if it needs none.

        Compiles and loads them if need be.
        """

    def unavailable(self, x: Any = None, /) -> Unavailable | None:
        """Returns why the kernels cannot be used now, on `x` or at all; None if they can."""

    def slower_than_keras(self, dtype: str, batch: int | None, units: int, /) -> str | None:
        """Returns why Keras's own layer, with cuDNN, is expected to be faster; None if it is not.

        This is for one direction without mask and recurrent dropout, on the current device.
        """

    def array(self, value: Any, like: Any = None, /) -> Any:
        """Returns `value` as the framework's array; a value without a dtype gets that of `like`.

        Raises TypeError or ValueError, with what was expected and found, if that is not possible. Raises
        UnavailableError if only Keras's operations can take the value.
        """

    def boolean(self, mask: Any, /) -> Any:
        """Returns a mask [B, T] or [B, T, 1] of any numeric dtype as booleans [B, T]."""

    def with_batch(self, x: Any, size: int, message: str, /) -> Any:
        """Returns x with a batch size, if a graph is traced without one. In the graph another size is an error."""

    def traced_length(self, x: Any, /) -> int | None:
        """Returns the timesteps of x [B, T, D] if the traced program computes as many for every input; else None."""

    def lstm(self, operands: Operands, options: Options, /) -> Outputs:
        """Runs the forward pass; it can be differentiated, unless the framework has no gradients.

        y is [B, T or 1, N * H], and h and c are those after the last timestep, [B, H] for each of N directions.

        Raises UnavailableError where the kernels would give another result than Keras's operations.
        """
