"""The processes that train one model together."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import keras
import numpy as np

from lstm_fast.errors import CommandError, in_one_line

_VALUES, _DIGEST = 16, 16  # how many values processes compare, and the bytes of each digest


class DistributeError(CommandError):
    """The processes cannot train one model together. The message says what was expected and found."""


class LostError(DistributeError):
    """The other processes cannot be reached: one of them may have ended. This process cannot work with them again."""


class Steps(Protocol):
    """The steps of one model. All processes take the same steps, with the same arguments.

    The arguments are a whole batch: ids int64 `[B, T]`, labels int64 `[B]` and weights float32 `[B]`. The loss of each
    row is multiplied by its weight. B is a multiple of the group's replicas; each replica computes its part of the
    rows. The results are loss and accuracy of the whole batch: weighted sums over its rows.
    """

    def train(self, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """Takes a step of training."""

    def test(self, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """Computes without training."""

    def finish(self) -> None:
        """Writes the values that the steps have computed into the model, if they are not there yet."""


class Group(Protocol):
    """The processes that train one model together.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        replicas: Number of devices of all processes. Each device has the model.
        errors: What a step raises when the other processes are lost.
        seed_offset: What this process adds to the seeds of dropout: 0 if the backend draws for the rows of all.
    """

    rank: int
    size: int
    replicas: int
    errors: tuple[type[Exception], ...]
    seed_offset: int

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a model must be built or loaded."""

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """The context in which one process may use Keras without the others. Elsewhere all must do the same."""

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the int32 `[n]` of each process, `[size, n]`."""

    def steps(self, model: keras.Model) -> Steps:
        """Returns the steps of a compiled model with a loss of `lstm_fast.text.models`."""

    def leave(self) -> None:
        """Ends the connection to the other processes."""


def join(waiting: Callable[[str], None]) -> Group:
    """Connects this process with the others and waits for them. The launcher names them in the environment.

    This must come before anything that the backend computes.

    Args:
        waiting: Called before the wait, with the address of the processes.

    Raises:
        DistributeError: The environment does not name the other processes, or they cannot be reached.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        from lstm_fast.distribute.tensorflow import TensorFlowGroup

        return TensorFlowGroup(waiting)
    if backend == "jax":
        from lstm_fast.distribute.jax import JaxGroup

        return JaxGroup(waiting)
    from lstm_fast.distribute.torch import TorchGroup

    return TorchGroup(waiting)


@contextlib.contextmanager
def working(group: Group) -> Iterator[None]:
    """Raises LostError if the work with the other processes fails."""
    try:
        yield
    except group.errors as error:
        raise LostError(
            f"distribute: work with the other processes failed, perhaps because one of them has ended: "
            f"{in_one_line(error)}; --resume goes on after the last saved epoch"
        ) from error


def agree(group: Group, prepare: Callable[[], Mapping[str, object]]) -> None:
    """Calls `prepare` in every process, and makes sure that it has the same result in all of them.

    Without this, the others would wait for a process that has failed. And a process with other texts would train a
    wrong model without an error.

    Args:
        group: The processes. All of them call this.
        prepare: Returns the values that must be the same, at most 16, by name. Their `repr` is compared. It may raise.

    Raises:
        LostError: Another process has ended.
        DistributeError: Another process has failed, or has other values. This one has then left the group.
        BaseException: What `prepare` has raised here. This one has then left the group.
    """
    failure: BaseException | None = None
    found: Mapping[str, object] = {}
    try:
        found = prepare()
    except BaseException as error:  # an interruption as well: the others must know of it
        failure = error
    digests = np.zeros((_VALUES, _DIGEST), np.int32)
    for digest, item in zip(digests, found.items(), strict=False):
        digest[:] = list(hashlib.sha256(repr(item).encode()).digest()[:_DIGEST])
    with working(group):
        of_all = group.gather(np.append(digests, failure is not None).astype(np.int32))
    problem = failure or _difference(of_all, list(found))
    if problem is not None:
        group.leave()  # as all of them do
        raise problem


def _difference(of_all: np.ndarray, names: list[str]) -> DistributeError | None:
    """Returns the error if processes differ or have failed; `of_all` is int32 `[size, digests and failed]`."""
    if failed := np.flatnonzero(of_all[:, -1]).tolist():
        return DistributeError(f"distribute: process {failed[0]} of {len(of_all)} has failed; its own output says why")
    digests = of_all[:, :-1].reshape(len(of_all), _VALUES, _DIGEST)
    others = np.argwhere((digests != digests[0]).any(axis=-1)).tolist()
    if not others:
        return None
    rank, value = others[0]
    return DistributeError(
        f"distribute: expected the same {names[value]} in all processes, found another in process {rank} than in "
        "process 0; start all of them with the same arguments, on the same files"
    )
