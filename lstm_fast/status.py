"""The record that `lstm_fast.status()` returns, and its text."""

from __future__ import annotations

import dataclasses
from typing import Any

from lstm_fast.fallbacks import NAMED

# Rows of a status that are about calls.
_OF_CALLS = ("kept memory", "fused calls", "timesteps", "fallbacks")


@dataclasses.dataclass(frozen=True)
class Status:
    """The answer of `lstm_fast.status()`.

    Attributes:
        version: Version of the package.
        compiled_isas: Instruction sets that were compiled in.
        available_isas: Those that this processor has.
        isa: The active one; None if there is a problem.
        threads: Number of threads that the kernels use; None if there is a problem.
        threads_source: What decided it: "LSTM_FAST_NUM_THREADS", "OMP_NUM_THREADS", "CPU quota" (of a container or
            service), "processors", "lstm_fast.config", or the framework: "tf.config.threading" or
            "torch.get_num_threads"; None if there is a problem.
        kept_bytes: Bytes of memory that the kernels keep for their next call, and the most that they keep; None if
            there is a problem. `lstm_fast.trim()` gives them back.
        keras_backend: Keras's backend.
        libraries: State of the compiled part for each framework: "loaded", "not used yet", or why it cannot be used.
        cuda: For which GPUs the CUDA kernels are compiled, or why they are not there or cannot be used.
        cuda_devices: The compute capability of each CUDA device, and how the worked example would run on it.
        tensorflow_gpu: For which TensorFlow its ops on GPUs are compiled, and where; or what runs instead of them.
        gpus: Names of the GPUs that the framework sees.
        environment: The LSTM_FAST_* variables that are set.
        config: The settings made by `lstm_fast.config`. They come before these variables.
        fused_calls: Calls of the compiled forward and backward pass in this process, on CPU and GPU.
        timesteps: Timesteps of the forward passes in this process on the CPU, masked ones left out: "given" and
            "computed". The others were copied, because they repeat earlier ones of their row bit for bit. Padding
            without a mask does so for most of its length. "without_gradient": those that the backward passes left
            out, because all gradients in them were zero.
        fallbacks: Calls that ran as Keras's own, by reason. In a graph one call is one tracing.
        fallback_layers: Names of the layers that fell back, by reason: the first six of them.
        problems: What keeps the fused kernels from running, and what to do.
    """

    version: str
    compiled_isas: tuple[str, ...]
    available_isas: tuple[str, ...]
    isa: str | None
    threads: int | None
    threads_source: str | None
    kept_bytes: tuple[int, int] | None
    keras_backend: str
    libraries: dict[str, str]
    cuda: str
    cuda_devices: tuple[str, ...]
    tensorflow_gpu: str
    gpus: tuple[str, ...]
    environment: dict[str, str]
    config: dict[str, str]
    fused_calls: dict[str, int]
    timesteps: dict[str, int]
    fallbacks: dict[str, int]
    fallback_layers: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return dataclasses.asdict(self)

    def fallback_words(self, reason: str) -> str:
        """Returns a reason of `fallbacks` with the layers: "layer 'lstm_1': activation=relu: ..."."""
        layers = self.fallback_layers.get(reason, ())
        names = ", ".join(f"'{name}'" for name in layers[:NAMED]) + " and others" * (len(layers) > NAMED)
        return f"layer{'s' * (len(layers) > 1)} {names}: {reason}" if layers else reason

    def new_fallbacks(self, before: Status) -> list[str]:
        """Returns the reasons of the calls that fell back since another status."""
        return [reason for reason, count in self.fallbacks.items() if count > before.fallbacks.get(reason, 0)]

    def __str__(self) -> str:
        return self.text()

    def text(self, *, calls: bool = True) -> str:
        """Returns a line for each field.

        Args:
            calls: Whether to show the rows about calls: counts, kept memory, fallbacks.
        """

        def pairs(values: dict[str, Any]) -> str:
            return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"

        rows = {
            "instruction set": f"{self.isa or 'none'} (compiled: {', '.join(self.compiled_isas) or 'none'}; "
            f"available here: {', '.join(self.available_isas) or 'none'})",
            "threads": f"{self.threads} ({self.threads_source})" if self.threads else "none",
            "kept memory": "{:.0f} of at most {:.0f} MiB".format(*(count / 2**20 for count in self.kept_bytes))
            if self.kept_bytes
            else "none",
            "keras backend": self.keras_backend,
            "libraries": "; ".join(f"{framework}: {state}" for framework, state in self.libraries.items()),
            "cuda": self.cuda,
            "tensorflow gpu": self.tensorflow_gpu,
            "gpus": ", ".join(self.gpus) or "none",
            "environment": pairs(self.environment),
            "config": pairs(self.config),
            "fused calls": pairs(self.fused_calls),
            "timesteps": ", ".join(f"{count:,} {name}" for name, count in self.timesteps.items()) or "none",
        }
        lists = {
            "cuda devices": self.cuda_devices,
            "fallbacks": [f"{count} x {self.fallback_words(reason)}" for reason, count in self.fallbacks.items()],
            "problems": self.problems,
        }
        lines = [f"lstm_fast {self.version}"]
        lines += [f"  {name:<16} {value}" for name, value in rows.items() if calls or name not in _OF_CALLS]
        for title, entries in lists.items():
            if not calls and title in _OF_CALLS:
                continue
            lines += [f"  {title if i == 0 else '':<16} {entry}" for i, entry in enumerate(entries or ["none"])]
        return "\n".join(lines)
