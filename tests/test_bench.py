"""The command `lstm-fast bench`, with each of Keras's backends."""

import dataclasses
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from lstm_fast.bench import keras_layers, measure, product, scenarios, turns
from lstm_fast.bench.contenders import FAST, KERAS, PYTORCH, XLA, Contender, keras_contender
from lstm_fast.bench.measure import Measurement, Place
from lstm_fast.bench.prepared import Prepared
from lstm_fast.bench.scenarios import Problem, Scenario
from lstm_fast.cli import main
from lstm_fast.errors import in_one_line

SHAPE = ("--shape", "2,5,3,4")

pytestmark = [
    pytest.mark.backends("tensorflow", "jax", "torch"),
    # PyTorch warns about a contender's tensors, not about ours.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(product, "SIZE", 64)


def read(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    return content


Change = Callable[[list[np.ndarray]], list[np.ndarray]]


def only(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Change], *further: Contender) -> None:
    """Lets only these contenders take part, existing or further ones, and changes what they return."""
    users_contenders = measure.users_contenders

    def changed(policy: str, on_gpu: bool) -> Iterator[Contender]:
        for contender in (*users_contenders(policy, on_gpu), *further):

            def prepare(problem: Problem, training: bool, contender: Contender = contender) -> Prepared:
                prepared = contender.prepare(problem, training)
                change = changes[contender.name]
                return prepared._replace(results=lambda arrays: change(list(prepared.results(arrays))))

            if contender.name in changes:
                yield dataclasses.replace(contender, prepare=prepare)

    monkeypatch.setattr(measure, "users_contenders", lambda *how: tuple(changed(*how)))


def check(found: dict[str, Any], size: int, options: Sequence[str] = ()) -> None:
    """Checks what a run without problems has written; `size` is that of the matrix product."""
    assert found["complete"]
    assert found["environment"]["cores"] > 0
    assert [case["training"] for case in found["measurements"]] == [True, False]
    for case in found["measurements"]:
        assert case["failures"] == {}
        assert case["fallbacks"] == []
        assert case["fused_calls"] == {"forward": 1, "backward": int(case["training"])}
        assert case["bidirectional"] == ("--bidirectional" in options)
        assert (case["padding"] > 0) == ("--padding" in options)
        assert set(case["ms"]) == {*case["errors"], measure.PRODUCT}
        assert {*case["errors"], *case["absent"]} == {KERAS, XLA, FAST, PYTORCH}
        assert (XLA in case["absent"]) == (found["where"]["backend"] != "tensorflow")
        assert all(error <= case["tolerance"] for error in case["errors"].values())
        own, work = case["ms"][FAST], case["flop"] / (2 * size**3)
        assert set(case["ratios"]) == {*case["errors"]} - {FAST}
        for name, ratio in case["ratios"].items():
            assert ratio == pytest.approx(quotient(case["ms"][name], own))
        assert case["us_per_step"] == pytest.approx(1e3 * statistics.median(own) / 5)
        assert case["share_of_floor"] == pytest.approx(work * quotient(case["ms"][measure.PRODUCT], own))


def quotient(other: Sequence[float], own: Sequence[float]) -> float:
    """That of one round, the median of all. A slow one is timed once, which counts for every round."""
    if len(other) == 1:
        other = [*other] * len(own)
    return statistics.median(a / b for a, b in zip(other, own, strict=True))


EVERYTHING = ("--dtype", "mixed_bfloat16", "--bidirectional", "--padding", "0.5")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="plain", marks=pytest.mark.backends("tensorflow", "torch")),
        pytest.param(EVERYTHING, id="everything", marks=pytest.mark.backends("tensorflow")),
    ],
)
def test_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]) -> None:
    assert main(["bench", *SHAPE, *options, "--output", str(tmp_path / "new")]) == 0
    printed = capsys.readouterr().out
    for text in ("2,5,3,4", "training", "inference", "ms", "us/step", "share", f"Keras on {keras.backend.backend()}"):
        assert text in printed
    assert "fell back" not in printed
    assert "<svg" in (tmp_path / "new" / "bench.svg").read_text(encoding="utf-8")
    check(read(tmp_path / "new"), size=product.SIZE, options=options)


@pytest.mark.backends("jax")
def test_with_one_framework_only(tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules.update(dict.fromkeys(("tensorflow", "tensorflow_datasets", "torch")))
from lstm_fast.cli import main
from lstm_fast.errors import in_one_line
assert main(["status"]) == 0
sys.exit(main(["bench", *{SHAPE}, *{EVERYTHING}, "--output", {str(tmp_path)!r}]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "KERAS_BACKEND": "jax"})
    found = read(tmp_path)
    check(found, size=2048, options=EVERYTHING)
    assert found["where"]["backend"] == "jax"
    assert all(case["absent"][PYTORCH] == "torch is not installed" for case in found["measurements"])


def test_who_is_wrong_is_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A contender that is a little wrong, gives no number, or fails is not timed, and the others go on."""

    def broken(_: Any) -> Any:
        raise MemoryError("too little\nof it")

    values = itertools.cycle((0.1, np.nan))
    wrong = {KERAS: list, FAST: lambda arrays: [array + next(values) for array in arrays], "Broken": broken}
    only(monkeypatch, wrong, keras_contender("Broken"))
    assert main(["bench", *SHAPE, "--output", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    for line in (
        "lstm-fast: bench failed: training 2,5,3,4: FastLSTM: ",
        "is off by nan of its norm, 1e-04 allowed\n",
        "inference 2,5,3,4: Broken: MemoryError: too little\n",
    ):
        assert line in printed.err
    assert "failed" in printed.out
    for case in read(tmp_path)["measurements"]:
        assert {*case["failures"]} == {FAST, "Broken"}
        assert case["ratios"] == {}
        assert {*case["ms"]} == {KERAS, measure.PRODUCT}


class Reason(keras.layers.Layer):  # type: ignore[misc]
    def call(self, _: Any) -> Any:
        raise ValueError("too few\nof them")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError"),
        ("one\ntwo", "ValueError: one"),
        ("\n\n  one", "ValueError: one"),
        ("Graph execution error:\n\nDetected at node x\n<stack traces>\nOOM", "ValueError: OOM"),
        ("no.\n\nconfig={}.\n\nException encountered: Could not. Full object config: {}", "ValueError: Could not."),
        ("x" * 1000, f"ValueError: {'x' * 400}..."),
    ],
)
@pytest.mark.fast
def test_errors_in_one_line(text: str, line: str) -> None:
    assert in_one_line(ValueError(text)) == line


def test_the_reason_in_an_error_of_keras() -> None:
    """The first line of Keras's error says only where it was."""
    with pytest.raises(ValueError, match="Exception encountered when calling") as caught:
        Reason()(np.ones((1, 1), "float32"))
    assert in_one_line(caught.value) == "ValueError: too few"


def test_too_large_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        raise MemoryError("too little")

    monkeypatch.setattr(measure, "make_problem", too_large)
    assert main(["bench", *SHAPE, "--output", str(tmp_path)]) == 1
    assert "training 2,5,3,4: Keras: MemoryError: too little\n" in capsys.readouterr().err


def test_fallback_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LSTM_FAST_KERNEL", "keras")
    only(monkeypatch, {KERAS: list, FAST: list})
    (tmp_path / "bench.svg").write_text("of an earlier run", encoding="utf-8")
    (tmp_path / "model.json").write_text("of bench --model", encoding="utf-8")
    assert main(["bench", *SHAPE, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "fell back" in printed
    assert "FastLSTM ran as keras.layers.LSTM, and was not timed: LSTM_FAST_KERNEL=keras" in printed
    for case in read(tmp_path)["measurements"]:
        assert case["fallbacks"]
        assert case["ratios"] == {}
        assert FAST not in case["ms"]
    assert {path.name for path in tmp_path.iterdir()} == {"bench.json", "model.json"}


@pytest.mark.backends("tensorflow", "jax")
def test_as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps only launch work, and the matrix product is the framework's."""
    monkeypatch.setattr(keras_layers.framework(), "device", lambda: "abacus")
    monkeypatch.setattr(product, "GPU_SIZE", 64)
    only(monkeypatch, {KERAS: list, FAST: list, PYTORCH: list})
    absent = "PyTorch sees no GPU" if importlib.util.find_spec("torch") else "torch is not installed"
    assert main(["bench", *SHAPE, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "GPU: abacus, driver" in printed
    assert f"{keras.backend.backend()}'s float32 matrix product of size 64 on the GPU" in printed
    for case in read(tmp_path)["measurements"]:
        assert case["tolerance"] > 1e-4  # TF32
        assert case["absent"] == {PYTORCH: absent}
        assert case["ratios"][KERAS] > 0


@pytest.mark.parametrize("done", [0, 1])
def test_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int
) -> None:
    """The measurements so far are written."""
    calls = itertools.count()

    def interrupted(scenario: Scenario, training: bool, where: Place, _: Any) -> Measurement:
        if next(calls) == done:
            raise KeyboardInterrupt
        return Measurement(scenario, training, where, seconds={KERAS: [2.0], FAST: [1.0], measure.PRODUCT: [0.1, 0.3]})

    monkeypatch.setattr(measure, "measure", interrupted)
    assert main(["bench", *SHAPE, "--output", str(tmp_path)]) == 130
    printed = capsys.readouterr()
    assert f"interrupted after {done} of 2 measurements" in printed.err
    assert ("This machine was busy: a round took up to 3.0 times as long" in printed.out) == bool(done)
    assert {path.name for path in tmp_path.iterdir()} == ({"bench.json", "bench.svg"} if done else set())
    assert not done or (len(read(tmp_path)["measurements"]), read(tmp_path)["complete"]) == (1, False)


# Bad input


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    start = time.monotonic()
    assert main(["bench", *arguments]) == 2
    assert time.monotonic() - start < 5  # before any measurement
    message = capsys.readouterr().err
    assert message.startswith("lstm-fast: error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--shape: expected B,T,D,H, four numbers of at least 1, found '1,2,3'", ["--shape", "1,2,3"]),
        ("found '1,2,3,0'", ["--shape", "1,2,3,0"]),
        ("found '1,2,-3,4'", ["--shape", "1,2,-3,4"]),
        ("found 'a,b,c,d'", ["--shape", "a,b,c,d"]),
        ("--padding: expected a number from 0 to 0.99, found '1'", ["--padding", "1"]),
        ("found 'nan'", ["--padding", "nan"]),
        ("found 'much'", ["--padding", "much"]),
        ("argument --dtype: invalid choice: 'float8'", ["--dtype", "float8"]),
        ("argument --grid: invalid choice: 'huge'", ["--grid", "huge"]),
        ("not allowed with argument", [*SHAPE, "--grid", "full"]),
    ],
)
@pytest.mark.fast
def test_bad_arguments(message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["bench", *arguments])
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    message = fails(capsys, "--output", str(tmp_path / "file" / "bench"))
    assert "output: expected a folder that can be written, found" in message


def test_other_backends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    assert "KERAS_BACKEND: expected one of tensorflow, jax, torch, found 'numpy'" in fails(capsys)


# The parts that the benchmarks of the source tree also use


def test_turns() -> None:
    now = 0.0

    def contender(seconds: float) -> Prepared:
        def step() -> None:
            nonlocal now
            now += seconds

        return Prepared(step, list, lambda: now)

    contenders = {"quick": contender(0.001), "middle": contender(0.1), "slow": contender(5.0)}
    times = turns.take_turns(contenders, 0.0, slow_seconds=2.0)
    assert times == {
        "quick": pytest.approx([0.001] * 3),
        "middle": pytest.approx([0.1] * 3),
        "slow": pytest.approx([5.0]),
    }
    assert turns.take_turns(contenders, 0.0, together=True)["slow"] == pytest.approx([5.0] * 3)
    assert turns.ratio([1.0, 2.0, 1.0], [3.0, 3.0, 9.0]) == 3.0
    assert turns.ratio([1.0, 2.0, 1.0], [3.0, 3.0, 9.0], [2.0]) == 2.0


def test_turns_are_timed_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    now = rested = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now, rested
        now = rested = now + seconds

    def step() -> None:
        nonlocal now
        now += 0.012 if now - rested < 0.03 else 0.01  # a processor is slow for 30 ms after a sleep

    monkeypatch.setattr("lstm_fast.bench.turns.time.sleep", sleep)
    assert turns.take_turns({"one": Prepared(step, list, lambda: now)}, 0.0)["one"] == pytest.approx([0.01] * 3)


@pytest.mark.parametrize("padding", [0.1, 0.5, scenarios.IMDB_PADDING, 0.9])
@pytest.mark.fast
def test_padding(padding: float) -> None:
    scenario = Scenario(64, 1000, 2, 3, padding=padding)
    assert 1 - scenario.real_share == pytest.approx(padding, abs=2e-3)
    assert scenario.lengths.max() == 1000
    assert scenario.lengths.min() >= 1
    assert scenario.flop(training=False) == 8 * scenario.lengths.sum() * 3 * 5
    problem = scenarios.make_problem(scenario, seeded=True)
    assert problem.mask is not None
    assert problem.mask.sum() == scenario.lengths.sum()
    assert problem.dy is not None
    assert not problem.dy[~problem.mask].any()


def test_grids() -> None:
    assert set(scenarios.SHORT) < set(scenarios.FULL)
    assert any(scenario.padded for scenario in scenarios.SHORT)
