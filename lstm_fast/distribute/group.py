"""The processes that train one model together."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import keras
import numpy as np

from lstm_fast.errors import CommandError, in_one_line

_VALUES, _DIGEST = 16, 16  # of what processes compare: how many, and bytes of each


class DistributeError(CommandError):
    """Processes that cannot train one model together: the message says what was expected and found."""


class LostError(DistributeError):
    """The others cannot be reached, as when one of them has ended. This process cannot work with them again."""


class Steps(Protocol):
    """The steps of one model. All processes take the same steps, with the same arguments.

    The arguments are a whole batch: ids int64 `[B, T]`, labels int64 `[B]` and weights float32 `[B]`, which the loss of
    each row is multiplied with. B is a multiple of the group's replicas, each of which computes its part of the rows.
    The result is that of the whole batch: weighted sums over its rows, loss and accuracy.
    """

    def train(self, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """Takes a step of training."""

    def test(self, ids: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
        """Computes without training."""

    def finish(self) -> None:
        """Puts into the model what the steps have changed and it does not have yet."""


class Group(Protocol):
    """The processes that train one model together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        replicas: number of devices of all processes, each of which has the model.
        errors: what a step raises when the other processes are lost.
        seed_offset: what this process adds to the seeds of dropout, which is drawn for its own rows, or for all rows.
    """

    rank: int
    size: int
    replicas: int
    errors: tuple[type[Exception], ...]
    seed_offset: int

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """The context in which a model has to be built or loaded."""

    def alone(self) -> contextlib.AbstractContextManager[object]:
        """The context in which one process may use Keras without the others: elsewhere all have to do the same."""

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the int32 `[n]` of each process, `[size, n]`."""

    def steps(self, model: keras.Model) -> Steps:
        """Returns the steps of a compiled model with a loss of `lstm_fast.text.models`."""

    def leave(self) -> None:
        """Ends the connection to the other processes."""


def join(waiting: Callable[[str], None]) -> Group:
    """Connects this process with the others, as the environment that its launcher has set says, and waits for them.

    Has to come before anything that the backend computes.

    Args:
        waiting: is called before the wait, with the address that is waited at.

    Raises:
        DistributeError: the environment does not say who the others are, or they cannot be reached.
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
    """Raises LostError where work with the other processes fails."""
    try:
        yield
    except group.errors as error:
        raise LostError(
            f"distribute: work with the other processes failed, as it does when one of them has ended: "
            f"{in_one_line(error)}; --resume goes on with the epochs that are kept"
        ) from error


def agree(group: Group, prepare: Callable[[], Mapping[str, object]]) -> None:
    """Lets every process prepare something, and makes sure that all of them have the same.

    A process that failed would leave the others waiting for it, and one with other texts would train in silence
    towards something else.

    Args:
        group: the processes, all of which call this.
        prepare: returns what has to be the same, at most 16 values by their names; each value shows in its `repr`. May
            raise.

    Raises:
        LostError: another process has ended.
        DistributeError: another process has failed, or has something else. This one has left the group then.
        BaseException: what `prepare` has raised here. This one has left the group then.
    """
    failure: BaseException | None = None
    found: Mapping[str, object] = {}
    try:
        found = prepare()
    except BaseException as error:  # an interruption as well: the others have to hear of it
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
    """Returns what is wrong with what the processes have gathered, int32 `[size, digests and failed]`."""
    if failed := np.flatnonzero(of_all[:, -1]).tolist():
        return DistributeError(f"distribute: process {failed[0]} of {len(of_all)} has failed; it says itself why")
    digests = of_all[:, :-1].reshape(len(of_all), _VALUES, _DIGEST)
    others = np.argwhere((digests != digests[0]).any(axis=-1)).tolist()
    if not others:
        return None
    rank, value = others[0]
    return DistributeError(
        f"distribute: expected the same {names[value]} in all processes, found another in process {rank} than in "
        "process 0; start all of them with the same arguments, on the same files"
    )
