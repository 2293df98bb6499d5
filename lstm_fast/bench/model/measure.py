"""A model and its accelerated copy: first whether they compute the same, then how long each takes."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lstm_fast import variables
from lstm_fast.bench import keras_layers
from lstm_fast.bench.model import inputs, load, padding, peak, training
from lstm_fast.bench.model.inputs import Batch
from lstm_fast.bench.model.load import Pair
from lstm_fast.bench.model.padding import Padding
from lstm_fast.bench.parity import TOLERANCE
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.turns import ratio, take_turns
from lstm_fast.convert import Report
from lstm_fast.diagnosis import status
from lstm_fast.errors import CommandError, in_one_line
from lstm_fast.layers import parts_of

PLAIN, FAST = "as it is", "accelerated"
TRAINING, PREDICTION = "training step", "prediction"
BUDGET_SECONDS = 8.0  # for the turns of each
SLOW_SECONDS = 20.0  # a model that takes longer for a step is timed once
WORK = 5  # how often `measure` calls `progress`
NOTICEABLE = 0.005  # share of the timesteps from which on their repeats are told

# From how many times on the ratio of the medians and the median of the ratios tell something else.
_BUSY = 1.1

# Both err, and by rounding only.
_BOTH = 2.0
# What the error of a gradient is relative to, at least, as a share of the norm of all: some gradients are zero but for
# rounding, such as that of a bias before a normalization.
_LEAST = 0.01


@dataclasses.dataclass(frozen=True)
class Question:
    """What the command line asks.

    Attributes:
        model: path of the model.
        imports: modules to import before it is loaded.
        data: path of the batch; None: made-up inputs.
        batch_size: rows; None: those of the data, or of the model.
        timesteps: of made-up inputs; None: the default.
    """

    model: str
    imports: tuple[str, ...] = ()
    data: str | None = None
    batch_size: int | None = None
    timesteps: int | None = None

    def pair(self) -> Pair:
        """Loads the two models.

        Raises:
            CommandError: the model cannot be loaded.
        """
        return load.load(Path(self.model), load.import_modules(self.imports))

    def batch(self, model: Any) -> Batch:
        """Returns what the model is given.

        Raises:
            CommandError: it does not fit the model.
        """
        if self.data is None:
            return inputs.made_up(model, self.batch_size, self.timesteps)
        return inputs.from_file(model, Path(self.data), self.batch_size)


@dataclasses.dataclass
class Answer:
    """What `measure` found.

    Attributes:
        question: what was asked.
        model: kind, name and size of the model.
        policy: the dtype policies in it.
        batch: where the inputs come from.
        made_up: whether they are random.
        report: what became of each recurrent layer.
        loss: what the loss is of which the gradients are.
        untrained: why no training was measured; empty if it was.
        errors: of outputs and gradients, how far the worst is off.
        allowed: how far it may be.
        failures: why the models are not timed.
        notes: what a reader should know.
        fused_calls: of one prediction and one training step.
        timesteps: of one prediction on the CPU, given and computed.
        fallbacks: calls that ran as Keras's, by reason, with the names of layers.
        padding: what reaches the LSTMs.
        seconds: for each pass and model, a figure for every round.
        peak_bytes: of training steps, by model; empty if that was not measured.
    """

    question: Question
    model: str = ""
    policy: str = ""
    batch: str = ""
    made_up: bool = False
    report: Report = dataclasses.field(default_factory=Report)
    loss: str = ""
    untrained: str = ""
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    allowed: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    fused_calls: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    timesteps: dict[str, int] = dataclasses.field(default_factory=dict)
    fallbacks: list[str] = dataclasses.field(default_factory=list)
    padding: list[Padding] = dataclasses.field(default_factory=list)
    seconds: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)
    peak_bytes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def fused(self) -> bool:
        """Whether any kernel of this package ran."""
        return any(calls["forward"] for calls in self.fused_calls.values())

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast the accelerated model is, by pass."""
        return {name: ratio(times[FAST], times[PLAIN]) for name, times in self.seconds.items()}

    def ms(self, name: str, model: str) -> float:
        """The median milliseconds of a pass of a model."""
        return 1e3 * statistics.median(self.seconds[name][model])

    def as_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        found = dataclasses.asdict(self)
        seconds = found.pop("seconds")
        return {
            **found,
            "report": [change._asdict() for change in self.report],
            "ms": {
                name: {model: [1e3 * value for value in values] for model, values in times.items()}
                for name, times in seconds.items()
            },
            "ratios": self.ratios,
            "fused": self.fused,
        }


def measure(question: Question, progress: Callable[[str], None] = lambda _: None) -> Answer:
    """Compares a model with its accelerated copy.

    Args:
        question: what to compare.
        progress: called with what comes next, `WORK` times in all.

    Raises:
        CommandError: the model cannot be loaded or called, or the data do not fit it.
    """
    progress("loading the model")
    pair = question.pair()
    batch = question.batch(pair.plain)
    answer = Answer(question, batch=batch.words, made_up=batch.made_up, report=pair.report)
    answer.notes += pair.notes
    progress("comparing what both compute")
    before = status()
    outputs = _predicted(pair.plain, batch)
    answer.model = _described(pair.plain)
    answer.policy = ", ".join(sorted({str(part.dtype_policy.name) for part in parts_of(pair.plain)}))
    answer.allowed = _BOTH * max(TOLERANCE[dtype] for dtype in _dtypes(pair.plain))
    if status().fused_calls != before.fused_calls:
        answer.failures.append("the model cannot run as Keras's: it has subclasses of this package's layers")
        return answer
    _compare_outputs(answer, pair.fast, batch, outputs)
    how = None
    if isinstance(chosen := training.choose(pair.plain, batch, outputs), str):
        answer.untrained = chosen
    else:
        how, right = chosen
        answer.loss = how.words
        _compare_gradients(answer, pair, batch, how, right)
    after = status()
    answer.fallbacks = [after.fallback_words(reason) for reason in after.new_fallbacks(before)]
    if not batch.made_up:
        answer.padding = _padding(pair.plain, batch)
    if answer.failures or not answer.fused:
        return answer
    progress("taking turns")
    if how:
        try:
            _time(answer, TRAINING, {name: training.step(model, batch, how) for name, model in _named(pair).items()})
        except Exception as error:  # of the model's own optimizer, which had no part in the gradients
            answer.untrained, how = in_one_line(error), None
    _time(answer, PREDICTION, {name: _prediction(model, batch) for name, model in _named(pair).items()})
    if how and keras_layers.framework().device() is None:
        for name in (PLAIN, FAST):
            progress(f"memory of a training step, {name}")
            asked = peak.Asked(question.model, question.imports, name == FAST, batch, how)
            try:
                answer.peak_bytes[name] = peak.in_fresh_process(asked)
            except RuntimeError as error:  # such as a system without /proc/self/clear_refs
                answer.notes.append(f"memory was not measured: {error}")
                break
    return answer


def _named(pair: Pair) -> dict[str, Any]:
    return {PLAIN: pair.plain, FAST: pair.fast}


def _prediction(model: Any, batch: Batch) -> Callable[[], Any]:
    return lambda: model.predict_on_batch(batch.x)


def _time(answer: Answer, name: str, steps: Mapping[str, Callable[[], Any]]) -> None:
    for step in steps.values():
        step()  # what was compared was traced for another optimizer
    prepared = {model: Prepared(step, list) for model, step in steps.items()}
    times = answer.seconds[name] = take_turns(prepared, BUDGET_SECONDS, slow_seconds=SLOW_SECONDS)
    of_medians = statistics.median(times[PLAIN]) / statistics.median(times[FAST])
    if not 1 / _BUSY < of_medians / ratio(times[FAST], times[PLAIN]) < _BUSY:
        answer.notes.append(
            f"{name}: other work on this machine disturbed the times; the ratio compares neighbouring turns"
        )


def _predicted(model: Any, batch: Batch) -> Any:
    """Returns the outputs of the plain model."""
    try:
        with variables.undone(model):
            return model.predict_on_batch(batch.x)
    except Exception as error:  # of the framework, or of the model's own code
        raise CommandError(f"--model: the model cannot be called with {batch.words}: {in_one_line(error)}") from error


def _compare_outputs(answer: Answer, fast: Any, batch: Batch, outputs: Any) -> None:
    before = status()
    try:
        with variables.undone(fast):
            found = fast.predict_on_batch(batch.x)
    except Exception as error:  # likewise
        answer.failures.append(f"the accelerated model cannot predict: {in_one_line(error)}")
        return
    after = status()
    answer.fused_calls[PREDICTION] = _difference(before.fused_calls, after.fused_calls)
    answer.timesteps = _difference(before.timesteps, after.timesteps)
    rights = [np.asarray(right) for right in keras.tree.flatten(outputs)]
    size, finite = sum(right.size for right in rights), sum(int(np.isfinite(right).sum()) for right in rights)
    if size and not finite:
        answer.failures.append("no output of the model is a finite number, so nothing can be compared; see the inputs")
        return
    if finite < size:
        answer.notes.append(f"{size - finite:,} of {size:,} outputs are not finite, with both models")
    errors = [off(value, right) for value, right in zip(keras.tree.flatten(found), rights, strict=True)]
    _judge(answer, "outputs", errors, [f"output {n}" for n in range(len(errors))])


def _compare_gradients(
    answer: Answer, pair: Pair, batch: Batch, how: training.Training, right: training.Gradients
) -> None:
    before = status()
    try:
        found = training.gradients(pair.fast, batch, how)
    except Exception as error:  # likewise
        answer.failures.append(f"the accelerated model cannot train: {in_one_line(error)}")
        return
    answer.fused_calls[TRAINING] = _difference(before.fused_calls, status().fused_calls)
    if not right:
        answer.notes.append(
            "gradients were not compared: after a training step the model's optimizer had none; a train_step of its "
            "own may do without it, or float16 may have overflowed"
        )
        return
    least = _LEAST * float(np.sqrt(sum(np.square(gradient).sum() for gradient in right)))

    def errors(gradients: training.Gradients) -> list[float]:
        return [off(gradient, expected, least) for gradient, expected in zip(gradients, right, strict=True)]

    if not _within(answer, errors(found)) and not _within(answer, errors(training.gradients(pair.plain, batch, how))):
        answer.notes.append(
            "gradients were not compared: the model as it is has others every time, as it draws random numbers that "
            "cannot be seeded"
        )
        return
    _judge(answer, "gradients", errors(found), [variable.path for variable in pair.plain.trainable_variables])


def _within(answer: Answer, errors: Sequence[float]) -> bool:
    return all(error <= answer.allowed for error in errors)


def off(found: np.ndarray, right: np.ndarray, least: float = 0.0) -> float:
    """Returns the norm of an error, relative to that of what is right or to `least`, whichever is larger.

    What is not finite has to be so in both, at the same places.
    """
    found, right = (np.asarray(array, np.float64) for array in (found, right))
    finite = np.isfinite(right)
    if found.shape != right.shape or not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    size = max(float(np.linalg.norm(right[finite])), least) or 1.0
    return float(np.linalg.norm(found[finite] - right[finite])) / size


def _judge(answer: Answer, what: str, errors: Sequence[float], names: Sequence[str]) -> None:
    worst = int(np.argmax(errors))
    answer.errors[what] = errors[worst]
    if not _within(answer, errors):
        answer.failures.append(
            f"{what} differ: {names[worst]} is off by {errors[worst]:.1e} of its norm, {answer.allowed:.0e} allowed"
        )


def _padding(plain: Any, batch: Batch) -> list[Padding]:
    try:
        with variables.undone(plain):
            found = padding.find(plain, batch.x)
    except Exception:  # a model that cannot be called eagerly; it is a remark only
        return []
    return [one for one in found if one.masked is not None or one.repeats >= NOTICEABLE]


def _described(model: Any) -> str:
    compiled = "compiled" if model.compiled else "not compiled"
    return f"{type(model).__name__} '{model.name}', {model.count_params():,} parameters, {compiled}"


def _dtypes(model: Any) -> set[str]:
    """Returns the dtypes that parts of a model compute in, as names of tolerances."""
    on_gpu = keras_layers.framework().device() is not None
    dtypes = {str(part.compute_dtype) for part in parts_of(model) if getattr(part, "compute_dtype", None)}
    found = {"tf32" if on_gpu and dtype == "float32" else dtype for dtype in dtypes}
    return found & set(TOLERANCE) or {"float32"}


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}
