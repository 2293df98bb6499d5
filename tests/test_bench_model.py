"""`lstm-fast bench --model`, with each of Keras's backends."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import lstm_fast
from lstm_fast.bench.model import inputs, load, measure, padding, peak, training
from lstm_fast.bench.model.measure import FAST, PLAIN, PREDICTION, TRAINING
from lstm_fast.cli import main
from lstm_fast.errors import CommandError

pytestmark = [
    pytest.mark.backends("tensorflow", "jax", "torch"),
    # Keras's own warnings, when it saves and loads a model.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning"),
]
BACKEND = keras.backend.backend()


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_process(_: peak.Asked) -> int:
        raise RuntimeError("not in this test")

    monkeypatch.setattr(measure, "BUDGET_SECONDS", 0.0)
    monkeypatch.setattr(measure.peak, "in_fresh_process", no_process)


def bench(folder: Path, model: Any, *options: str) -> tuple[int, dict[str, Any]]:
    """Saves a model and runs the command on the file; returns its exit status and what it wrote."""
    path = folder / "my.keras"
    if model is not None:
        model.save(path)
    before = path.read_bytes()
    status = main(["bench", "--model", str(path), "--output", str(folder / "new" / "out"), *options])
    assert path.read_bytes() == before
    assert {file.name for file in (folder / "new" / "out").iterdir()} == {"model.json"}
    return status, json.loads((folder / "new" / "out" / "model.json").read_text(encoding="utf-8"))


def save(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "batch.npz", **arrays)
    return str(folder / "batch.npz")


def check(found: dict[str, Any], forward: int, *, passes: tuple[str, ...] = (TRAINING, PREDICTION)) -> None:
    """Checks what a run without problems has written; `forward` is the number of kernel calls in a pass."""
    assert found["failures"] == []
    assert found["fallbacks"] == []
    assert found["fused_calls"][PREDICTION] == {"forward": forward, "backward": 0}
    if TRAINING in passes:
        assert found["fused_calls"][TRAINING] == {"forward": forward, "backward": forward}
        assert 0 <= found["errors"]["gradients"] <= found["allowed"]
    assert 0 <= found["errors"]["outputs"] <= found["allowed"]
    assert tuple(found["ms"]) == passes
    for times in found["ms"].values():
        assert set(times) == {PLAIN, FAST}
        assert all(ms > 0 for model in times.values() for ms in model)
    assert set(found["ratios"]) == set(passes)


def single(*parts: Any, shape: tuple[int | None, ...] = (None, 3), **options: Any) -> Any:
    return keras.Sequential([keras.Input(shape, **options), *parts])


def branched() -> Any:
    """Two inputs, two outputs, and layers that draw random numbers in training and store some of them."""
    ids, extra = keras.Input((None,), dtype="int32", name="ids"), keras.Input((4,), name="extra")
    h = layers.Embedding(50, 6)(ids)
    h = layers.Bidirectional(layers.LSTM(5, return_sequences=True, dropout=0.3, recurrent_dropout=0.2))(h)
    h = layers.Concatenate()([layers.LSTM(4)(h), extra])
    h = layers.BatchNormalization()(layers.Dropout(0.5)(h))
    outputs = [layers.Dense(1, name="first")(h), layers.Dense(3, activation="softmax", name="second")(h)]
    return keras.Model([ids, extra], outputs)


def test_compiled_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = branched()
    model.compile("adam", ["mse", "sparse_categorical_crossentropy"])
    model.optimizer.build(model.trainable_variables)
    status, found = bench(tmp_path, model, "--batch-size", "3", "--timesteps", "6")
    assert status == 0
    check(found, forward=2)
    assert [change["done"] for change in found["report"]] == ["fast"] * 4
    assert found["timesteps"]["given"] == 3 * 3 * 6
    assert found["made_up"]
    printed = capsys.readouterr().out
    for text in (
        f"Keras on {BACKEND}, float32",
        "Functional 'functional",
        "compiled",
        "made up: ids [3, 6], ids from 1 to 49; extra [3, 4], float32",
        "'bidirectional",
        "(Bidirectional): fast",
        "fused calls in a training step: 2 forward, 2 backward",
        "loss: the model's own, of made-up targets",
        "memory was not measured: not in this test",
        found["verdict"],
    ):
        assert text in printed
    assert "FastLSTM" not in printed


def test_outputs_that_are_no_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such outputs cannot be compared."""
    x = np.full((2, 5, 3), np.nan, np.float32)
    status, found = bench(tmp_path, single(layers.LSTM(4)), "--data", save(tmp_path, x=x))
    assert status == 1
    (failure,) = found["failures"]
    assert "no output of the model is a finite number" in failure
    x[0] = 1
    capsys.readouterr()
    bench(tmp_path, None, "--data", save(tmp_path, x=x))
    assert "4 of 8 outputs are not finite, with both models" in capsys.readouterr().out


@pytest.mark.backends("jax", "torch")
def test_a_file_that_another_backend_has_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file stores the other backend's choice of jit: Keras on JAX would compile nothing, Keras on PyTorch would."""
    model = single(layers.LSTM(4))
    model.compile("sgd", "mse", jit_compile=BACKEND == "torch")
    status, found = bench(tmp_path, model, "--batch-size", "2", "--timesteps", "3")
    assert status == 0
    check(found, forward=1)
    here = BACKEND == "jax"
    assert f"the file has jit_compile={not here}" in capsys.readouterr().out
    (pair,) = [load.load(tmp_path / "my.keras", {})]
    assert [model.jit_compile for model in (pair.plain, pair.fast)] == [here, here]


def test_model_that_is_not_compiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = bench(tmp_path, single(layers.LSTM(4, stateful=True), shape=(5, 3), batch_size=2))
    if BACKEND == "torch":  # Keras's own stateful layers do not train there
        assert "the model cannot be trained on this batch: RuntimeError: " in found["untrained"]
        check(found, forward=1, passes=(PREDICTION,))
    else:
        check(found, forward=1)
        assert "the model is not compiled, so a stand-in: the sum of the squares" in capsys.readouterr().out
    assert status == 0


@pytest.mark.backends("tensorflow")
def test_fast_layers_in_the_file(tmp_path: Path) -> None:
    """One of the two copies still runs as Keras's."""
    model = single(lstm_fast.FastBidirectional(lstm_fast.FastLSTM(4)), layers.Dense(1))
    model.compile("sgd", "mse")
    status, found = bench(tmp_path, model, "--batch-size", "2", "--timesteps", "4")
    assert status == 0
    check(found, forward=1)


@keras.saving.register_keras_serializable("test_bench_model")
class OfFast(lstm_fast.FastLSTM):  # type: ignore[misc]
    """`to_keras` does not change this class."""


@pytest.mark.backends("tensorflow")
def test_subclasses_of_fast_layers_have_no_plain_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, found = bench(tmp_path, single(OfFast(2)), "--timesteps", "4")
    assert status == 1
    assert "it has subclasses of this package's layers" in capsys.readouterr().err
    assert found["ms"] == {}


@pytest.mark.backends("tensorflow")
def test_mixed_precision(tmp_path: Path) -> None:
    model = single(layers.LSTM(4, dtype="mixed_float16"), layers.Dense(1))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()), "mse")
    model.optimizer.build(model.trainable_variables)
    status, found = bench(tmp_path, model, "--batch-size", "2", "--timesteps", "4")
    assert status == 0
    check(found, forward=1)
    assert found["allowed"] > 1e-2


@pytest.mark.backends("tensorflow")
def test_h5(tmp_path: Path) -> None:
    path = tmp_path / "my.h5"
    single(layers.LSTM(4)).save(path)
    assert main(["bench", "--model", str(path), "--timesteps", "4", "--output", str(tmp_path)]) == 0
    check(json.loads((tmp_path / "model.json").read_text(encoding="utf-8")), forward=1)


def unregistered(y: Any, predicted: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y - predicted), axis=-1)


@pytest.mark.backends("tensorflow")
def test_a_loss_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = single(layers.LSTM(4))
    model.compile("sgd", unregistered)
    status, found = bench(tmp_path, model, "--timesteps", "4")
    assert status == 0
    check(found, forward=1)
    printed = capsys.readouterr().out
    assert "its loss and optimizer cannot be loaded: TypeError: Could not locate function 'unregistered'" in printed
    assert "loss: the model is not compiled, so a stand-in" in printed
    # The module that registers it.
    status, found = bench(tmp_path, None, "--timesteps", "4", "--import", __name__)
    assert status == 0
    assert not [note for note in found["notes"] if "loaded" in note]  # a busy machine has notes of its own
    assert "loss: the model's own, of made-up targets" in capsys.readouterr().out


@pytest.mark.backends("tensorflow")
def test_what_cannot_be_trained_is_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = single(layers.LSTM(4))
    model.trainable = False
    status, found = bench(tmp_path, model, "--timesteps", "4")
    assert status == 0
    check(found, forward=1, passes=(PREDICTION,))
    assert "training was not measured: the model has no trainable weights" in capsys.readouterr().out


# Parity


def change_weights(fast: Any) -> None:
    fast.set_weights([weight + 0.1 for weight in fast.get_weights()])


def change_gradients(fast: Any) -> None:
    fast.layers[0].cell.kernel.regularizer = keras.regularizers.L2(0.5)


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize(("what", "change"), [("outputs", change_weights), ("gradients", change_gradients)])
def test_who_is_wrong_is_not_timed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    change: Callable[[Any], None],
) -> None:
    right = load.load

    def wrong(*arguments: Any) -> load.Pair:
        pair = right(*arguments)
        change(pair.fast)
        return pair

    monkeypatch.setattr(load, "load", wrong)
    model = single(layers.LSTM(4), layers.Dense(1))
    model.compile("sgd", "mse")
    status, found = bench(tmp_path, model, "--batch-size", "2", "--timesteps", "4")
    assert status == 1
    printed = capsys.readouterr()
    assert f"lstm-fast: bench failed: {what} differ: " in printed.err
    assert f"not measured: {what} differ: " in printed.out
    assert found["ms"] == {}


@pytest.mark.fast
def test_errors_are_relative() -> None:
    right = np.array([3.0, 4.0])
    assert measure.off(right, right) == 0
    assert measure.off(np.add(right, [0, 0.5]), right) == pytest.approx(0.1)
    assert measure.off(np.add(right, [0, 0.5]), right, least=50.0) == pytest.approx(0.01)
    nan = np.array([np.nan, 4.0])
    assert measure.off(nan, nan) == 0
    assert measure.off(right, nan) == measure.off(nan, right) == np.inf
    assert measure.off(right[:1], right) == np.inf


class Noisy(layers.Layer):  # type: ignore[misc]
    """Draws random numbers without any seed of Keras."""

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        if BACKEND == "tensorflow":
            import tensorflow as tf

            noise = tf.py_function(lambda: np.random.default_rng().random(), [], tf.float32)
            return x * tf.ensure_shape(noise, ())
        return x * np.random.default_rng().random()


@pytest.mark.backends("tensorflow", "torch")
def test_noise_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(keras.saving.get_custom_objects(), "Noisy", Noisy)
    model = single(layers.LSTM(4), Noisy(), layers.Dense(1))
    model.compile("sgd", "mse")
    status, found = bench(tmp_path, model, "--batch-size", "2", "--timesteps", "4")
    assert status == 0
    assert "gradients" not in found["errors"]
    assert any("draws random numbers that cannot be seeded" in note for note in found["notes"])
    assert set(found["ratios"]) == {TRAINING, PREDICTION}


@pytest.mark.backends("tensorflow", "jax")
def test_gradients_are_those_of_the_loss() -> None:
    """The momentum holds them: they agree with calculus, and the model is unchanged."""
    model = single(layers.Dense(1, kernel_initializer="ones"), shape=(2,))
    model.compile(keras.optimizers.Adam(0.5), "mse")
    x, y = np.array([[1.0, 2.0], [3.0, 4.0]], "float32"), np.array([[1.0], [2.0]], "float32")
    batch = inputs.Batch(x, y, 2, "", made_up=False)
    how, gradients = training.choose(model, batch, model.predict_on_batch(x))
    assert not how.stand_in
    kernel, bias = gradients  # of the mean of (x w + b - y)^2
    np.testing.assert_allclose(kernel, [[17.0], [24.0]], rtol=1e-6)
    np.testing.assert_allclose(bias, [7.0], rtol=1e-6)
    np.testing.assert_array_equal(model.get_weights()[0], [[1.0], [1.0]])
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    training.step(model, batch, how)()
    np.testing.assert_array_equal(model.get_weights()[0], [[1.0], [1.0]])


# Inputs of a file


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.backends("tensorflow", "torch")
def test_padding_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], masked: bool) -> None:
    ids = np.array([[3, 4, 5, 6, 7, 8, 9, 1], [2, 3, 0, 0, 0, 0, 0, 0]])
    model = single(
        layers.Embedding(10, 3, mask_zero=masked, name="words"),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both"),
        layers.LSTM(2, name="last"),
        layers.Dense(1, name="out"),
        shape=(None,),
        name="text",
    )
    model.compile("sgd", "mse")
    status, found = bench(tmp_path, model, "--data", save(tmp_path, text=ids, out=np.zeros((2, 1))))
    assert status == 0
    check(found, forward=2)
    printed = capsys.readouterr().out
    assert "inputs: 2 rows of " in printed
    assert "loss: the model's own\n" in printed
    if masked:
        assert "padding: 'both': 38% of the timesteps are masked, and not computed" in printed
        assert "padding: 'last': 38%" in printed
        assert found["timesteps"]["given"] == 3 * 10
    else:
        told = (
            "padding: 'both': 31% of the timesteps repeat the one before; with mask_zero=True in the Embedding 'words'"
        )
        assert told in printed
        assert "'last': " not in printed.partition("padding: ")[2].partition("\n")[2].partition("loss: ")[0]


def look(x: np.ndarray, *parts: Any, **options: Any) -> list[padding.Padding]:
    return padding.find(single(*parts, **options), x)


@pytest.mark.backends("tensorflow")
def test_repeats_without_an_embedding() -> None:
    x = np.ones((1, 5, 3), "float32")
    x[:, 0] = 2
    (found,) = look(x, layers.Dropout(0.5), layers.LSTM(2, name="a"))
    assert str(found) == "'a': 60% of the timesteps repeat the one before"
    (found,) = look(x, layers.Masking(2.0), layers.RNN(layers.LSTMCell(2), name="b"))
    assert (found.masked, found.repeats) == (pytest.approx(0.2), pytest.approx(0.6))
    assert look(x, layers.GRU(2)) == []
    ids = np.array([[1, 2, 2, 2, 2]])  # a word repeats, not padding
    (found,) = look(ids, layers.Embedding(3, 2), layers.LSTM(2), shape=(None,))
    assert (found.repeats, found.embedding) == (pytest.approx(0.6), "")


SUBCLASSED = """
import keras

@keras.saving.register_keras_serializable()
class OfMine(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.lstm, self.dense = keras.layers.LSTM(3), keras.layers.Dense(1)

    def call(self, x, training=False):
        a, b = (x["left"], x["right"]) if isinstance(x, dict) else x
        return {"out": self.dense(self.lstm(a + b, training=training))}
"""


@pytest.mark.parametrize("names", [("left", "right"), ("arr_0", "arr_1")])
@pytest.mark.backends("tensorflow", "jax")
def test_subclassed_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its class is imported from the current folder, and it takes a dict or a list."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module = f"of_mine_{names[0]}"
    Path(f"{module}.py").write_text(SUBCLASSED, encoding="utf-8")
    arrays = [np.random.default_rng(n).standard_normal((3, 4, 2)).astype("float32") for n in range(2)]
    model = load.import_modules([module])["OfMine"]()
    model(dict(zip(names, arrays, strict=True)) if names[0] == "left" else arrays)
    status, found = bench(
        tmp_path, model, "--import", module, "--data", save(tmp_path, **dict(zip(names, arrays, strict=True)))
    )
    assert status == 0
    check(found, forward=1)
    assert "OfMine" in capsys.readouterr().out
    # Without data its inputs are not known.
    assert main(["bench", "--model", str(tmp_path / "my.keras"), "--output", str(tmp_path)]) == 2
    assert "found a OfMine, which does not; give it a batch: --data batch.npz" in capsys.readouterr().err


@pytest.mark.backends("tensorflow")
def test_structures_are_found_by_name_and_place(tmp_path: Path) -> None:
    a, b, c = (keras.Input((2,), name=name) for name in "abc")
    model = keras.Model({"a": a, "pairs": [b, c]}, {"sum": layers.Add(name="sum")([a, b, c])})
    arrays = [np.full((4, 2), n, "float32") for n in range(3)]
    for names in (("a", "b", "c"), ("a", "pairs/0", "pairs/1"), ("arr_0", "arr_1", "arr_2")):
        path = Path(save(tmp_path, **dict(zip(names, arrays, strict=True)), sum=arrays[0]))
        batch = inputs.from_file(model, path, batch_size=3)
        assert batch.rows == 3
        assert [float(array.mean()) for array in keras.tree.flatten(batch.x)] == [0, 1, 2]
        assert set(batch.x) == {"a", "pairs"}
        np.testing.assert_array_equal(batch.y["sum"], arrays[0][:3])
        model.predict_on_batch(batch.x)


@pytest.mark.backends("tensorflow")
def test_the_batch_of_a_first_call_is_not_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Sequential without Input stores it in its file."""
    model = keras.Sequential([layers.LSTM(4), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 5, 3)), np.ones((4, 1)), batch_size=2, verbose=0)
    assert model.inputs[0].shape[0] == 2
    model.save(tmp_path / "fitted.keras")
    fitted = str(tmp_path / "fitted.keras")
    given = ["--model", fitted, "--output", str(tmp_path)]
    data = save(tmp_path, x=np.ones((6, 5, 3), "float32"), y=np.ones((6, 1)))
    for options, rows in ((["--data", data], "6 rows of"), (["--batch-size", "3"], "[3, 5, 3], float32")):
        assert main(["bench", *given, *options]) == 0
        assert rows in capsys.readouterr().out
    message = fails(capsys, *given, "--data", data, "--batch-size", "7")
    assert "--batch-size: expected at most 6, the rows of --data, found 7" in message


@pytest.mark.backends("tensorflow")
def test_a_batch_is_cut_before_it_is_checked(tmp_path: Path) -> None:
    model = single(layers.LSTM(2, stateful=True), shape=(5, 3), batch_size=2)
    data = Path(save(tmp_path, x=np.ones((6, 5, 3), "float32")))
    assert inputs.from_file(model, data, batch_size=2).x.shape == (2, 5, 3)
    with pytest.raises(CommandError, match=r"expected the shape \[2, 5, 3\], found \[6, 5, 3\]"):
        inputs.from_file(model, data, batch_size=None)


@pytest.mark.backends("tensorflow")
def test_losses_are_found_by_name() -> None:
    """Outputs in a list keep their order, which here differs from that of their names."""
    x = keras.Input((2,))
    outputs = [layers.Dense(3, name="words")(x), layers.Dense(4, name="also")(x)]
    losses = {"words": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "also": "mse"}
    for made in (outputs, {"words": outputs[0], "also": outputs[1]}):
        model = keras.Model(x, made)
        model.compile("sgd", losses)
        batch = inputs.made_up(model, 5, None)
        predicted = model.predict_on_batch(batch.x)
        how, _ = training.choose(model, batch, predicted)
        assert how.words == "the model's own, of made-up targets"
        words, also = (how.y["words"], how.y["also"]) if isinstance(made, dict) else how.y
        assert words.shape == (5,)
        assert also.shape == (5, 4)


# Models that do not profit


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((layers.GRU(2),), "no layer of the model runs on the kernels here; nothing was timed"),
        ((layers.Flatten(),), "there is no recurrent layer in the model"),
        ((layers.LSTM(2, activation="relu"),), "no layer of the model runs on the kernels here; nothing was timed"),
    ],
)
@pytest.mark.backends("tensorflow")
def test_nothing_gained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parts: tuple[Any, ...],
    told: str,
) -> None:
    monkeypatch.delenv("LSTM_FAST_KERNEL")
    layer = parts[0]
    model = single(type(layer).from_config({**layer.get_config(), "name": "mine"}), shape=(5, 3))
    status, found = bench(tmp_path, model)
    assert status == 0
    assert found["verdict"] == f"nothing gained: {told}"
    assert found["ms"] == {}
    assert not found["fused"]
    printed = capsys.readouterr().out
    assert "FastLSTM" not in printed
    if isinstance(layer, layers.LSTM):
        assert "'mine' (LSTM): runs as Keras's, activation=relu: the kernel computes tanh" in printed
        assert "fell back to Keras's when it was called: layer 'mine': activation=relu" in printed


@pytest.mark.fast
def test_verdicts() -> None:
    from lstm_fast.bench.model import report

    answer = measure.Answer(measure.Question("my.keras"), report=("a layer",))  # type: ignore[arg-type]
    answer.fused_calls = {PREDICTION: {"forward": 1, "backward": 0}}
    answer.seconds = {
        TRAINING: {PLAIN: [3.1, 3.1], FAST: [1.0, 1.0]},
        PREDICTION: {PLAIN: [4.0, 4.0], FAST: [1.0, 1.0]},
    }
    assert report.verdict(answer) == (
        "training 3.1 times, prediction 4.0 times as fast; lstm_fast.accelerate(model) is all it takes"
    )
    answer.seconds = {TRAINING: {PLAIN: [1.0], FAST: [1.0]}, PREDICTION: {PLAIN: [0.9], FAST: [1.0]}}
    assert report.verdict(answer) == "nothing gained: training 1.00 times, prediction 0.90 times as fast"
    answer.seconds[PREDICTION][PLAIN] = [1.3]
    answer.seconds[TRAINING][PLAIN] = [0.8]
    assert report.verdict(answer) == (
        "training 0.80 times, prediction 1.30 times as fast; with lstm_fast.accelerate(model) training gets slower"
    )


# Memory


@pytest.mark.backends("tensorflow")
def test_peak_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("LSTM_FAST_KERNEL", "fused")
    model = single(layers.LSTM(32))
    model.save(tmp_path / "my.keras")
    batch = inputs.made_up(model, 64, 300)
    how, _ = training.choose(model, batch, np.zeros((64, 32), "float32"))
    asked = peak.Asked(str(tmp_path / "my.keras"), (), False, batch, how)
    plain, fast = (peak.in_fresh_process(asked._replace(fast=fast)) for fast in (False, True))
    kept = 64 * 300 * 32 * 4  # h of every timestep: the least that the backward pass needs
    assert kept < fast < plain
    with pytest.raises(RuntimeError, match="expected a file of Keras"):
        peak.in_fresh_process(asked._replace(model=str(tmp_path / "none.keras")))


@pytest.mark.backends("tensorflow")
def test_modules_may_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at the end of the other process. If they even end it, only this figure is lost."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("loud.py").write_text("import atexit; print('hello'); atexit.register(print, 'bye')", encoding="utf-8")
    Path("ending.py").write_text("import sys; sys.exit()", encoding="utf-8")
    model = single(layers.LSTM(2))
    model.save("my.keras")
    batch = inputs.made_up(model, 2, 5)
    how, _ = training.choose(model, batch, np.zeros((2, 2), "float32"))
    asked = peak.Asked("my.keras", ("loud",), True, batch, how)
    assert peak.in_fresh_process(asked) >= 0
    with pytest.raises(RuntimeError, match="FileNotFoundError"):
        peak.in_fresh_process(asked._replace(imports=("ending",)))


@pytest.mark.backends("tensorflow")
def test_the_folder_at_hand_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be that of the sources, which are not compiled."""
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    Path("lstm_fast").mkdir()
    Path("lstm_fast/__init__.py").write_text("raise ImportError('the folder at hand')", encoding="utf-8")
    model = single(layers.LSTM(2))
    model.save("my.keras")
    batch = inputs.made_up(model, 2, 5)
    how, _ = training.choose(model, batch, np.zeros((2, 2), "float32"))
    assert peak.in_fresh_process(peak.Asked("my.keras", (), True, batch, how)) >= 0


# Bad input


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    """A model of ids and further numbers, with two outputs."""
    branched().save(tmp_path / "tiny.keras")
    return str(tmp_path / "tiny.keras")


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["bench", *arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("lstm-fast: error: ")
    assert message.count("\n") == 1
    return message


@pytest.mark.backends("tensorflow")
def test_bad_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Unknown(layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x

    monkeypatch.chdir(tmp_path)
    single(layers.LSTM(2), Unknown()).save("unknown.keras")
    single(layers.LSTM(2)).save_weights("w.weights.h5")
    for name in ("bad.keras", "bad.h5", "model.txt"):
        Path(name).write_text("nonsense", encoding="utf-8")
    for name, told in (
        ("none.keras", "--model: expected a file of Keras, .keras or .h5, found no file none.keras"),
        (".", "found the folder ."),
        ("model.txt", "expected a file that ends in .keras or .h5, found model.txt"),
        ("bad.keras", "Keras cannot load bad.keras: "),
        ("bad.h5", "Keras cannot load bad.h5: "),
        ("w.weights.h5", "No model config found"),
        ("unknown.keras", "Could not locate class 'Unknown'"),
    ):
        assert told in fails(capsys, "--model", name)
    assert "--import my_module imports a module first that registers them" in fails(capsys, "--model", "unknown.keras")
    message = fails(capsys, "--model", "unknown.keras", "--import", "no_such_module")
    assert "--import: expected the name of a module that can be imported, found 'no_such_module'" in message


@pytest.mark.backends("tensorflow")
def test_bad_data(tmp_path: Path, tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids, extra = np.ones((2, 5), int), np.ones((2, 4), "float32")
    for arrays, told in (
        ({"ids": ids}, "found 'ids' and so none for 'extra'; it may also be called 1 or arr_1"),
        ({"ids": ids, "extra": extra[:, :3]}, "extra: expected the shape [any, 4], found [2, 3]"),
        ({"ids": ids[0], "extra": extra}, "ids: expected the shape [any, any], found [5]"),
        ({"ids": 50 * ids, "extra": extra}, "ids: expected ids from 0 to 49, as the Embedding has them, found 50"),
        ({"ids": -ids, "extra": extra}, "found -1"),
        ({"ids": ids, "extra": extra[:1]}, "expected arrays of as many rows, at least one, found ids: 2, extra: 1"),
        ({"ids": ids[:0], "extra": extra[:0]}, "at least one, found ids: 0"),
        ({"ids": ids, "extra": extra, "z": extra}, "expected only inputs and targets of the model, found 'z', too"),
        ({"ids": ids, "extra": extra, "y": extra}, "targets under the names of the outputs, 'first', 'second'"),
        ({"ids": ids, "extra": extra, "first": extra}, "targets for all of 'first', 'second', found only 'first'"),
        ({"ids": np.array(3), "extra": extra}, "ids: expected an array with a row for each example"),
        ({"ids": np.array([{}, {}]), "extra": extra}, "whose arrays are numbers"),
        ({}, "expected arrays, found none in"),
    ):
        assert told in fails(capsys, "--model", tiny, "--data", save(tmp_path, **arrays))
    np.save(tmp_path / "one.npy", ids)
    for name in ("one.npy", "none.npz", "tiny.keras"):
        assert "--data: expected a file of np.savez" in fails(capsys, "--model", tiny, "--data", str(tmp_path / name))


@pytest.mark.backends("tensorflow")
def test_inputs_that_cannot_be_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "my.keras")
    single(layers.Dense(2), shape=(None, None, 2)).save(path)
    assert "of shape (None, None, None, 2) has several free axes" in fails(capsys, "--model", path)
    single(layers.LSTM(2, stateful=True), batch_size=4).save(path)
    assert "--batch-size: expected 4, which the model has, found 5" in fails(
        capsys, "--model", path, "--batch-size", "5"
    )
    single(layers.LSTM(2), shape=(5, 3)).save(path)
    assert "--timesteps: expected none for a model whose inputs have no free axis, [any, 5, 3], found 7" in fails(
        capsys, "--model", path, "--timesteps", "7"
    )
    single(layers.Identity(), dtype="string").save(path)
    assert "is of dtype string, which cannot be made up" in fails(capsys, "--model", path)
    single(layers.Reshape((7,)), layers.Dense(1), shape=(None,)).save(path)
    assert "--model: the model cannot be called with made up: " in fails(capsys, "--model", path)


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("--data: this option is for --model my.keras", ["--data", "batch.npz"]),
        ("--import: this option is for --model my.keras", ["--import", "module"]),
        ("--timesteps: this option is for --model my.keras", ["--timesteps", "5"]),
        ("--batch-size: this option is for --model my.keras", ["--batch-size", "5"]),
        ("--dtype: a model has its own", ["--model", "my.keras", "--dtype", "float32"]),
        ("--bidirectional: a model has its own", ["--model", "my.keras", "--bidirectional"]),
        ("--padding: a model has its own", ["--model", "my.keras", "--padding", "0"]),
        ("--timesteps: expected no --data", ["--model", "my.keras", "--timesteps", "5", "--data", "batch.npz"]),
    ],
)
@pytest.mark.fast
def test_options_that_do_not_go_together(
    message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, *arguments)


def test_a_model_or_shapes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--model", "my.keras", "--grid", "full"])
    assert "not allowed with argument" in capsys.readouterr().err
