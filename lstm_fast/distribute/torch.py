"""`torch.nn.parallel.DistributedDataParallel`: the processes of `torchrun`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import keras
import numpy as np
import torch
import torch.distributed as dist

from lstm_fast.distribute.figures import loss_and_accuracy
from lstm_fast.distribute.group import DistributeError

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")


class TorchGroup:
    """The processes of `torchrun`; see `lstm_fast.distribute.group.Group`."""

    def __init__(self, waiting: Callable[[str], None]) -> None:
        if missing := [name for name in _VARIABLES if not os.environ.get(name)]:
            raise DistributeError(
                f"distribute: expected {', '.join(_VARIABLES)} as torchrun sets them, found no {', '.join(missing)}; "
                "start with torchrun --nproc-per-node 2 -m lstm_fast train --distribute ..."
            )
        waiting(f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}")
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        try:
            dist.init_process_group("nccl" if on_gpu else "gloo")
        except (ValueError, RuntimeError) as error:
            raise DistributeError(f"distribute: PyTorch cannot connect the processes: {error}") from error
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.replicas = self.size
        self.errors: tuple[type[Exception], ...] = (RuntimeError,)
        self.seed_offset = self.rank

    def scope(self) -> contextlib.AbstractContextManager[object]:  # noqa: D102
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager[object]:  # noqa: D102
        return contextlib.nullcontext()

    def gather(self, numbers: np.ndarray) -> np.ndarray:  # noqa: D102
        mine = keras.ops.convert_to_tensor(numbers)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(found, mine)
        of_all: np.ndarray = torch.stack(found).cpu().numpy()
        return of_all

    def steps(self, model: keras.Model) -> _Steps:  # noqa: D102
        return _Steps(self, model)

    def leave(self) -> None:  # noqa: D102
        dist.destroy_process_group()


class _Steps:
    def __init__(self, group: TorchGroup, model: keras.Model) -> None:
        self._group = group
        self._model = model
        self._parallel = torch.nn.parallel.DistributedDataParallel(model)
        model.optimizer.build(model.trainable_variables)

    def train(self, *batch: np.ndarray) -> tuple[float, float]:
        ids, labels, weights = self._parts(batch)
        figures = loss_and_accuracy(self._model, self._parallel(ids, training=True), labels, weights)
        self._model.zero_grad()
        (figures[0] * self._group.size).backward()  # DistributedDataParallel takes the mean of the gradients
        variables = self._model.trainable_variables
        with torch.no_grad():
            self._model.optimizer.apply([variable.value.grad for variable in variables], variables)
        return self._sum(figures)

    def test(self, *batch: np.ndarray) -> tuple[float, float]:
        ids, labels, weights = self._parts(batch)
        with torch.no_grad():
            return self._sum(loss_and_accuracy(self._model, self._model(ids, training=False), labels, weights))

    def finish(self) -> None:
        """Nothing: the steps change the model's own variables."""

    def _sum(self, figures: torch.Tensor) -> tuple[float, float]:
        total = figures.detach()
        dist.all_reduce(total)
        loss, accuracy = total.tolist()
        return loss, accuracy

    def _parts(self, batch: tuple[np.ndarray, ...]) -> list[torch.Tensor]:
        def part(array: np.ndarray) -> torch.Tensor:
            rows = len(array) // self._group.size
            tensor: torch.Tensor = keras.ops.convert_to_tensor(
                array[self._group.rank * rows : (self._group.rank + 1) * rows]
            )
            return tensor

        return [part(array) for array in batch]
