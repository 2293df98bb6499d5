"""What a backend is: the functions that `lstm_fast.functional` calls, and nobody else.

mypy compares each backend with `Backend` where `lstm_fast.functional` imports it. CONTRIBUTING.md says what a backend
for a further framework takes.
"""

from typing import Any, Protocol

from lstm_fast.backends import Operands, Options, Outputs, Unavailable


class Backend(Protocol):
    """The functions of a backend's module. Parameters have no names here, as nobody calls them by name."""

    def library(self) -> object:
        """Loads the compiled part; raises LibraryError if it cannot be used."""

    def gpus(self) -> tuple[str, ...]:
        """Returns the names of the GPUs that the framework sees."""

    def threads(self) -> tuple[int, str]:
        """Returns how many threads the user lets the framework have on the CPU, and who says so; 0: nobody has."""

    def gpu_ops(self) -> str | None:
        """Returns what there is to say of ops that were compiled for one release; None where the framework needs none.

        Compiles and loads them if need be.
        """

    def unavailable(self, x: Any = None, /) -> Unavailable | None:
        """Returns why the kernels cannot be used on `x`, or at all, here and now; None if they can."""

    def slower_than_keras(self, dtype: str, batch: int | None, units: int, /) -> str | None:
        """Returns why Keras's own layer is preferred, which has cuDNN; None if the kernels are.

        It is asked of one direction without mask and recurrent dropout, here and now.
        """

    def array(self, value: Any, like: Any = None, /) -> Any:
        """Returns `value` as the framework's array; values without a dtype of their own get that of `like`.

        Raises TypeError or ValueError, with what was expected and found, if that is not possible, and UnavailableError
        if it is possible for Keras's operations alone.
        """

    def boolean(self, mask: Any, /) -> Any:
        """Returns a mask [B, T] or [B, T, 1] of any numeric dtype as booleans [B, T]."""

    def with_batch(self, x: Any, size: int, message: str, /) -> Any:
        """Returns x, whose batch size is unknown while a graph is traced; in the graph, another size is an error."""

    def traced_length(self, x: Any, /) -> int | None:
        """Returns the timesteps of x [B, T, D] in a program that will compute as many whatever its input; else None."""

    def lstm(self, operands: Operands, options: Options, /) -> Outputs:
        """Runs the forward pass; it can be differentiated, unless the framework has no gradients.

        y is [B, T or 1, N * H], and h and c are those after the last timestep, [B, H] for each of N directions.

        Raises UnavailableError where the kernels would give another result than Keras's operations.
        """
