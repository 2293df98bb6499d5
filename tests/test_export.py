"""`lstm_fast.export`: each format from each backend; the model does not change; a wrong file is an error."""

import contextlib
import pathlib
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras_side import BACKEND, everything_in, fused, to_numpy

import lstm_fast
from lstm_fast import exports, fallbacks

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{warning}")
    for warning in (
        "The `native_serialization` parameter is deprecated",
        "In the future `np.object`",
        "__array__",
    )
]

SUFFIXES = {"saved_model": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}
FORMATS = list(SUFFIXES)


@pytest.fixture(autouse=True)
def fallbacks_are_no_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets layers fall back: here `fused` proves that the kernels run."""
    monkeypatch.setenv("LSTM_FAST_KERNEL", "auto")


def needs(format: str) -> None:
    """Skips a test if a package is missing that writes or runs a format."""
    for package in {"onnx": ["tensorflow", "tf2onnx", "onnxruntime"], "openvino": ["openvino"]}.get(
        format, ["tensorflow"]
    ):
        pytest.importorskip(package)


def make_model(*, mask: bool = True, dtype: str | None = None, stateful: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    batch = {"batch_shape": (2, None)} if stateful else {"shape": (None,)}
    model = keras.Sequential(
        [
            keras.Input(**batch, dtype="int32"),
            # Larger than Keras's initial weights, so that the outputs differ.
            keras.layers.Embedding(20, 4, embeddings_initializer="normal", mask_zero=mask, dtype=dtype),
            lstm_fast.FastBidirectional(lstm_fast.FastLSTM(3, return_sequences=True, dtype=dtype), dtype=dtype),
            lstm_fast.FastLSTM(4, stateful=stateful, dropout=0.3, dtype=dtype),
            keras.layers.Dense(2, dtype=dtype),
        ]
    )
    model.layers[0].set_weights([np.random.default_rng(0).normal(size=(20, 4))])
    return model


def export(model: Any, folder: pathlib.Path, format: Any, **how: Any) -> Any:
    needs(format)
    if format == "litert":
        how = {"batch_size": 3, **how}
    return lstm_fast.export(model, folder / f"model{SUFFIXES[format]}", format, **how)


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Asserts that all variables, classes, policies and compiled functions of the model stay the same."""

    def facts() -> list[Any]:
        parts = model._flatten_layers()
        cudnn = [part.use_cudnn for part in parts if hasattr(part, "use_cudnn")]
        return [
            [type(part) for part in parts],
            [part.dtype_policy.name for part in parts],
            cudnn,
            vars(model).get("optimizer"),
        ]

    variables, before = everything_in(model), facts()
    values = [to_numpy(variable) for variable in variables]
    yield
    assert facts() == before
    assert list(map(id, everything_in(model))) == list(map(id, variables))
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)


def assert_right(report: Any, *, cases: int = 4) -> None:
    assert report.path.exists()
    assert len(report.checks) == cases
    assert sum("with padding" in check.inputs for check in report.checks) == cases // 2
    assert report.difference < 1e-5
    assert "checks say little" not in str(report)
    # Nothing else was left beside it.
    names = {path.name for path in report.path.parent.iterdir()}
    assert names <= {report.path.name, report.path.with_suffix(".bin").name}


@pytest.mark.parametrize("mask", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("format", FORMATS)
def test_each_format(format: str, mask: bool, tmp_path: pathlib.Path) -> None:
    model = make_model(mask=mask)
    with untouched(model):
        report = export(model, tmp_path, format)
    assert_right(report)
    with fused(2):
        model(np.ones((2, 3), np.int32))


@pytest.mark.parametrize("format", ["saved_model", "onnx"])
@pytest.mark.backends("jax", "torch")
def test_from_other_backends(format: str, tmp_path: pathlib.Path) -> None:
    model = make_model()
    model.compile("adam", "mse")
    model.fit(np.ones((4, 3), np.int32), np.ones((4, 2)), verbose=0)
    with untouched(model):
        report = export(model, tmp_path, format)
    assert_right(report)


@pytest.mark.backends("tensorflow", "torch")
def test_mixed_precision_leaves_as_float32(tmp_path: pathlib.Path) -> None:
    model = make_model(dtype="mixed_float16")
    model.compile("adam", "mse")
    with untouched(model):
        report = export(model, tmp_path, "onnx")
    assert_right(report)
    assert "float32 in the place of mixed_float16" in str(report)
    onnx = pytest.importorskip("onnx")
    types = {tensor.data_type for tensor in onnx.load(report.path).graph.initializer}
    assert onnx.TensorProto.FLOAT in types
    assert not types & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def test_float64(tmp_path: pathlib.Path) -> None:
    model = make_model(dtype="float64")
    with untouched(model):
        report = export(model, tmp_path, "onnx", dtype="float64")
        assert report.difference < 1e-14
        assert_right(export(model, tmp_path, "onnx"))
        for format in ("litert", "openvino"):
            with pytest.raises((ValueError, ImportError), match=r"`dtype`: .*float64|pip install"):
                lstm_fast.export(model, tmp_path / f"m{SUFFIXES[format]}", format, dtype="float64", batch_size=2)
    with pytest.raises(exports.ExportError, match=r"does not run: .*does not support double.*give dtype='float32'"):
        export(make_model(dtype="float64", mask=False), tmp_path, "onnx", dtype="float64")


def make_functional(*, fixed: bool = False) -> Any:
    """Two inputs in a dict, a state as the third, and two outputs."""
    time = 6 if fixed else None
    inputs = {
        "words": keras.Input((time,), dtype="int32", name="words"),
        "features": keras.Input((time, 2), name="features"),
        "state": keras.Input((3,), name="state"),
    }
    x = keras.layers.Embedding(9, 2, embeddings_initializer="normal", mask_zero=True)(inputs["words"])
    x = keras.layers.Concatenate()([x, inputs["features"]])
    x, h, _ = lstm_fast.FastLSTM(3, return_sequences=True, return_state=True)(
        x, initial_state=[inputs["state"], inputs["state"]]
    )
    return keras.Model(inputs, [keras.layers.Dense(2)(x), h])


@pytest.mark.parametrize("format", FORMATS)
def test_several_inputs_and_outputs(format: str, tmp_path: pathlib.Path) -> None:
    assert_right(export(make_functional(), tmp_path, format))


def test_fixed_lengths_and_batches(tmp_path: pathlib.Path) -> None:
    report = export(make_functional(fixed=True), tmp_path, "onnx", batch_size=3)
    assert_right(report, cases=2)
    assert [check.inputs for check in report.checks] == ["batch 3, no padding", "batch 3, with padding"]


def test_plain_model_and_masking_of_floats(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((None, 3))
    x = keras.layers.Masking(-1.0)(inputs)
    model = keras.Model(inputs, keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))(x))
    assert_right(export(model, tmp_path, "onnx"))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = lstm_fast.FastLSTM(3)

    def call(self, x: Any) -> Any:
        return self.lstm(x)


def test_subclassed_model_needs_a_signature(tmp_path: pathlib.Path) -> None:
    model = Subclassed()
    with pytest.raises(ValueError, match="`input_signature`: the model 'subclassed' does not tell its inputs"):
        export(model, tmp_path, "onnx")
    signature = [keras.InputSpec(shape=(None, None, 2), dtype="float32")]
    assert_right(export(model, tmp_path, "onnx", input_signature=signature))


class Twice(keras.layers.Layer):
    """A layer of a user, which Keras does not know by name."""

    def call(self, x: Any) -> Any:
        return 2.0 * x


@pytest.mark.backends("tensorflow", "torch")
def test_layers_of_the_user(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('own')\n"
        "class Thrice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 3.0 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import own_layers

    out = tmp_path / "out"
    out.mkdir()
    layers = [keras.Input((None, 2)), lstm_fast.FastLSTM(3)]
    assert_right(export(keras.Sequential([*layers, own_layers.Thrice()]), out, "onnx", imports=["own_layers"]))
    model = keras.Sequential([keras.Input((None, 2)), lstm_fast.FastLSTM(3), Twice()])
    if BACKEND == "tensorflow":
        assert_right(export(model, out, "onnx"))
        return
    monkeypatch.setattr(Twice, "__module__", "__main__")  # as in a program
    with pytest.raises(exports.ExportError, match=r"(?s)Twice.*register_keras_serializable.*imports="):
        export(model, out, "onnx")


def test_stateful(tmp_path: pathlib.Path) -> None:
    """A SavedModel begins with the states of the model; the other formats cannot."""
    model = make_model(stateful=True)
    model.predict(np.ones((2, 5), np.int32), verbose=0)
    with untouched(model):
        report = export(model, tmp_path, "saved_model")
    assert_right(report)
    assert "stateful: the file begins with the states that the model had" in str(report)
    with pytest.raises(ValueError, match=r"`model`: stateful layers \('.*lstm.*'\).*onnx does not.*`initial_state`"):
        export(model, tmp_path, "onnx")


@pytest.mark.backends("jax", "torch")
def test_stateful_of_other_backends_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"exported only from TensorFlow.*KERAS_BACKEND=tensorflow"):
        export(make_model(stateful=True), tmp_path, "saved_model")


def test_damaged_file_is_caught(tmp_path: pathlib.Path) -> None:
    """One weight of the file changes by a hundredth."""
    onnx = pytest.importorskip("onnx")
    model = make_model()
    path = export(model, tmp_path, "onnx").path
    assert exports.check(model, path, "onnx").difference < 1e-5
    file = onnx.load(path)
    tensor = next(tensor for tensor in file.graph.initializer if tuple(tensor.dims) == (4, 2))
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights[1, 0] += 0.01
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    onnx.save(file, path)
    with pytest.raises(
        exports.ExportError, match=r"does not compute what the model does: batch 2, length 7, .*allowed"
    ):
        exports.check(model, path, "onnx")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(exports.ExportError, match="does not run"):
        exports.check(model, path, "onnx")


def test_wrong_file_is_not_left(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A converter writes another model than its input. The old file stays."""
    needs("onnx")
    path = tmp_path / "model.onnx"
    path.write_text("before")
    write = exports.writers.WRITERS["onnx"]
    other = make_model()
    other.set_weights([-weight for weight in other.get_weights()])
    monkeypatch.setitem(exports.writers.WRITERS, "onnx", lambda _, path, signature: write(other, path, signature))
    with pytest.raises(exports.ExportError, match="does not compute what the model does"):
        lstm_fast.export(make_model(), path, "onnx")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_file_runs_without_this_package(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with an op of this package is an error, although this process has the op."""
    monkeypatch.setattr(lstm_fast.writing, "_WRITERS", ())
    monkeypatch.setattr(exports.writing.convert, "as_keras", contextlib.nullcontext)
    with pytest.raises(exports.ExportError, match=r"does not run: .*LstmFast"):
        export(make_model(), tmp_path, "saved_model")
    assert not list(tmp_path.iterdir())


def test_examples(tmp_path: pathlib.Path) -> None:
    model = make_model()
    x = np.random.default_rng(0).integers(0, 20, (6, 8))
    report = export(model, tmp_path, "onnx", examples=x)
    assert [check.inputs for check in report.checks] == ["the examples", "half of the examples"]
    with pytest.raises(
        ValueError, match=r"`examples`: 'keras_tensor.*expected shape \(None, None\), found \(6, 8, 1\)"
    ):
        export(model, tmp_path, "onnx", examples=x[..., None])
    with pytest.raises(ValueError, match=r"`examples`: the model does not take the examples"):
        export(model, tmp_path, "onnx", examples=x + 100)


@pytest.mark.parametrize("package", ["tensorflow", "tf2onnx", "onnx"])
def test_missing_packages_are_refused(package: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"`format`: onnx is written with .*{package}.*pip install .*{package}"):
        lstm_fast.export(model, tmp_path / "model.onnx", "onnx")


def test_a_keras_that_cannot_write_the_format(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras, "__version__", "3.12.4")
    with pytest.raises(ImportError, match=r"`format`: expected Keras 3\.13 or later for litert, found 3\.12\.4"):
        lstm_fast.export(make_model(), tmp_path / "model.tflite", "litert", batch_size=1)


def test_missing_runtime_is_said(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    report = lstm_fast.export(make_model(), tmp_path / "model.onnx", "onnx")
    assert report.checks == ()
    assert report.difference is None
    assert "not checked: install onnxruntime" in str(report)


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("m.onnx", {}, "expected the name of a folder for the format saved_model, .*did you mean format='onnx'"),
        ("m", {"format": "onnx"}, r"expected a name that ends in \.onnx"),
        ("m", {"format": "pdf"}, "`format`: expected one of saved_model, onnx, litert, openvino, found 'pdf'"),
        ("m", {"format": ["onnx"]}, r"`format`: expected one of saved_model, .*, found \['onnx'\]"),
        ("m", {"dtype": ["float32"]}, r"`dtype`: expected one of float32, float64, found \['float32'\]"),
        ("m", {"dtype": "float16"}, "`dtype`: expected one of float32, float64, found 'float16'"),
        ("m.tflite", {"format": "litert"}, "`batch_size`: .*give batch_size=1"),
        ("m", {"batch_size": 0}, "`batch_size`: expected a positive integer"),
        ("m", {"batch_size": True}, "`batch_size`: expected a positive integer or None, found True"),
        ("m", {"batch_size": 2.0}, "`batch_size`: expected a positive integer or None, found 2.0"),
        ("m", {"tolerance": 0.0}, "`tolerance`: expected a positive number"),
        ("m", {"tolerance": "1"}, "`tolerance`: expected a positive number or None, found '1'"),
        ("nowhere/m", {}, "there is no folder"),
    ],
)
def test_arguments_are_refused(name: str, how: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=f"export: .*{message}"):
        lstm_fast.export(make_model(), tmp_path / name, **how)
    assert not list(tmp_path.iterdir())


def test_folders_of_others_are_left_alone(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")
    for others in ((), ("saved_model.pb", "variables")):
        for name in others:
            (folder / name).touch()
        with pytest.raises(ValueError, match=r"is a folder with other things in it, such as 'letter\.txt'"):
            lstm_fast.export(make_model(), folder)
    assert (folder / "letter.txt").exists()
    (folder / "letter.txt").unlink()
    (tmp_path / "latest").symlink_to("folder")
    with pytest.raises(ValueError, match="expected the name of a folder, found the link"):
        lstm_fast.export(make_model(), tmp_path / "latest")
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"model\.bin', which would be replaced, is not of an OpenVINO file"):
        lstm_fast.export(make_model(), tmp_path / "model.xml", "openvino")
    (tmp_path / "model.xml").write_text("<note/>")
    with pytest.raises(ValueError, match=r"model\.bin', which would be replaced, is not of an OpenVINO file"):
        lstm_fast.export(make_model(), tmp_path / "model.xml", "openvino")
    (tmp_path / "model.xml").write_text("<net/>")
    (tmp_path / "model.bin").unlink()
    (tmp_path / "model.bin").mkdir()
    with pytest.raises(ValueError, match=r"expected no folder where the weights go, found .*model\.bin"):
        lstm_fast.export(make_model(), tmp_path / "model.xml", "openvino")
    assert (tmp_path / "model.xml").read_text() == "<net/>"
    shutil.rmtree(folder)
    with pytest.raises(TypeError, match=r"expected a keras\.Model, found the layer"):
        lstm_fast.export(lstm_fast.FastLSTM(2), folder)


def test_only_a_saved_model_is_replaced(tmp_path: pathlib.Path) -> None:
    """A folder with other things in it, or with the names of a SavedModel only, stays."""
    folder = tmp_path / "folder"
    for name in ("variables", "assets"):
        (folder / name).mkdir(parents=True)
    graph = folder / "saved_model.pb"
    for name in ("fingerprint.pb", "variables/variables.index", "assets/vocabulary.txt"):
        (folder / name).touch()

    def odd() -> str | None:
        return exports.targets.beside_a_saved_model(folder)

    assert odd() == "assets"  # without a graph, nothing belongs to a SavedModel
    graph.touch()
    assert odd() == "assets"
    graph.write_bytes(b"\x08\x01... \x12\x0evocabulary.txt ...letter.txt")
    assert odd() is None
    for name in ("assets/letter.txt", "variables/thesis.txt", "assets.extra", "keras_metadata.pb"):
        (folder / name).touch()
        with pytest.raises(ValueError, match=rf"is a folder with other things in it, such as '{name}'"):
            lstm_fast.export(make_model(), folder)
        (folder / name).unlink()
    assert odd() is None


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("saved_model")
    model = make_model()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(exports.targets.tempfile, "mkdtemp", refuse)
    with pytest.raises(
        ValueError, match=r"`path`: expected a folder that can be written, found .* \(Permission denied"
    ):
        lstm_fast.export(model, tmp_path / "model")


def test_both_files_of_openvino_stay_if_one_cannot_be_replaced(tmp_path: pathlib.Path) -> None:
    written, path = tmp_path / "new.xml", tmp_path / "model.xml"
    for file in (written, written.with_suffix(".bin"), path):
        file.write_text(file.name)
    path.with_suffix(".bin").mkdir()
    with pytest.raises(IsADirectoryError):
        exports.targets.move(written, path)
    assert path.read_text() == "model.xml"


@pytest.mark.parametrize("path", [".", "..", "../inner", "../.."])
def test_the_current_folder_is_left_alone(path: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "saved_model.pb").touch()
    monkeypatch.chdir(inner)
    with pytest.raises(ValueError, match="is the current folder, or one around it"):
        lstm_fast.export(make_model(), path)
    assert (inner / "saved_model.pb").exists()


def test_a_saved_model_is_replaced(tmp_path: pathlib.Path) -> None:
    export(make_model(), tmp_path, "saved_model")
    before = (tmp_path / "model" / "saved_model.pb").stat().st_ino
    assert_right(export(make_model(), tmp_path, "saved_model"))
    assert (tmp_path / "model" / "saved_model.pb").stat().st_ino != before


@pytest.mark.backends("tensorflow")
def test_output_with_the_time_last(tmp_path: pathlib.Path) -> None:
    inputs = keras.Input((None, 2))
    x = lstm_fast.FastLSTM(3, return_sequences=True)(inputs)
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x[..., 0], output_shape=(None,))(x))
    assert_right(export(model, tmp_path, "onnx"))


@pytest.mark.backends("tensorflow", "jax")
def test_the_batch_of_a_fit_stays_free(tmp_path: pathlib.Path) -> None:
    """The ids have a float dtype, because Keras makes the input."""
    embedding = keras.layers.Embedding(20, 4, embeddings_initializer="normal", mask_zero=True)
    model = keras.Sequential([embedding, lstm_fast.FastLSTM(3)])
    model.compile("adam", "mse")
    model.fit(np.ones((32, 7)), np.ones((32, 3)), batch_size=32, verbose=0)
    report = export(model, tmp_path, "onnx")
    assert_right(report)
    assert [check.inputs.split(",")[0] for check in report.checks] == ["batch 2", "batch 2", "batch 5", "batch 5"]
    assert "axis 1 is 7" in str(report)
    assert "rows a call" not in str(report)
    assert "the file takes 4 rows a call" in str(export(model, tmp_path, "onnx", batch_size=4))
    # If the user has fixed it, it stays.
    own = keras.Sequential([keras.Input((7,), batch_size=4), embedding, lstm_fast.FastLSTM(3)])
    assert exports.signatures.of("export", own, None, None, "float32")[0].shape == (4, 7)


def test_the_batch_of_a_fit_where_keras_does_not_tell(tmp_path: pathlib.Path) -> None:
    """Keras tells by a private name, which may change. Then the file takes as many rows, and the report says so."""
    model = keras.Sequential([lstm_fast.FastLSTM(3)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 7, 2)), np.ones((4, 3)), batch_size=4, verbose=0)
    del model._layers[0]._auto_config
    report = export(model, tmp_path, "saved_model")
    assert_right(report, cases=2)
    assert "the file takes 4 rows a call" in str(report)


def test_a_sequential_without_an_input_tells_it_after_a_call() -> None:
    model = keras.Sequential([lstm_fast.FastLSTM(3)])
    with pytest.raises(
        ValueError, match=r"does not tell its inputs\. Begin it with a keras\.Input, call it once, or give"
    ):
        exports.signatures.of("export", model, None, None, "float32")
    model(np.ones((4, 5, 2)))
    assert exports.signatures.of("export", model, None, None, "float32")[0].shape == (None, 5, 2)


def test_examples_of_objects() -> None:
    """Strings as objects, as in pandas and TensorFlow."""
    spec = [keras.InputSpec(shape=(None,), dtype="string", name="text")]

    def made(examples: list[Any], specs: Any = spec) -> Any:
        return exports.signatures.cases("export", None, specs, np.array(examples, object))[0].arrays[0]

    for found, kind in ((made(["one", "seven"]), "U"), (made([b"one", b"seven"]), "S")):
        assert found.dtype.kind == kind
        assert len(found[1]) == 5
    with pytest.raises(ValueError, match=r"`examples`: 'text': expected strings only, found None \(NoneType\)"):
        made(["one", None])
    numbers = [keras.InputSpec(shape=(None,), dtype="int32", name="ids")]
    assert made([1, 2], numbers).dtype == "int32"
    with pytest.raises(ValueError, match=r"`examples`: 'ids': expected values of int32, found object \(.*convert"):
        made(["one"], numbers)


def test_the_number_of_rows_is_told() -> None:
    for rows, note in ((1, "the file takes 1 row a call"), (2, "the file takes 2 rows a call")):
        spec = keras.InputSpec(shape=(rows, None), dtype="int32", name="ids")
        assert exports.report.notes_for_users(make_model(), "onnx", [spec]) == [note]


def test_what_to_do_about_random_numbers() -> None:
    reason = 'In Node, ("stateless_random_uniform/StatelessRandomUniformV2", StatelessRandomUniformV2, "", -1)'
    assert "call no layer in it with training=True" in exports.errors.advice(reason)
    assert not exports.errors.advice("No registered class RandomRotation")


def test_rows_of_a_litert_file_are_told() -> None:
    array = np.ones((2, 7))
    exports.processes.serve.check_rows([np.array([-1, -1]), np.array([2, -1])], [[array, array]])
    with pytest.raises(ValueError, match="the file takes a batch of 1, found 2; give batch_size=1"):
        exports.processes.serve.check_rows([np.array([1, -1])], [[array]])


def test_ids_of_a_float_input() -> None:
    model = keras.Sequential([keras.Input((None,)), keras.layers.Embedding(20, 4), lstm_fast.FastLSTM(3)])
    signature = exports.signatures.of("export", model, None, None, "float32")
    cases = exports.signatures.cases("export", model, signature, None)
    assert all(case.arrays[0].dtype == "float32" for case in cases)
    ids = np.concatenate([case.arrays[0].ravel() for case in cases])
    assert set(ids) <= set(range(20))
    assert len(set(ids)) > 10
    assert [bool((case.arrays[0] == 0).any()) for case in cases] == [False, True, False, True]


def test_infinity_hides_nothing(tmp_path: pathlib.Path) -> None:
    """A file with a wrong finite output is wrong, even beside infinite ones."""
    needs("onnx")
    inputs = keras.Input((None, 2))
    x = keras.layers.Concatenate()([lstm_fast.FastLSTM(3)(inputs)] * 2)
    model = keras.Model(inputs, keras.layers.Dense(6)(x))
    kernel, bias = np.eye(6), np.array([0, 0, np.inf, 0, 0, 0])
    model.layers[-1].set_weights([kernel, bias])
    path = export(model, tmp_path, "onnx").path
    model.layers[-1].set_weights([kernel, bias + 0.01])
    with pytest.raises(exports.ExportError, match="does not compute what the model does"):
        exports.check(model, path, "onnx")
    model.layers[-1].set_weights([kernel, bias[::-1]])
    with pytest.raises(exports.ExportError, match="largest difference inf"):
        exports.check(model, path, "onnx")


@pytest.mark.fast
def test_names_of_inputs_are_unique() -> None:
    specs = [keras.InputSpec(shape=(None, 2), dtype="float32", name=name) for name in ("a", "a", "a_1")]
    names = [spec.name for spec in exports.signatures.of("export", make_model(), specs, None, "float32")]
    assert names[:2] == ["a", "a_1"]
    assert len(set(names)) == 3


def test_arguments_of_check_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(ValueError, match="check: `format`: expected one of"):
        exports.check(make_model(), path, "pdf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="check: `tolerance`: expected a positive number or None, found '1'"):
        exports.check(make_model(), path, tolerance="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"check: `model`: expected a keras\.Model"):
        exports.check(lstm_fast.FastLSTM(2), path)
    with pytest.raises(ValueError, match="check: `examples`: expected 1 arrays"):
        exports.check(make_model(), path, examples=[])


# Warnings of the layers when a model is written to a file


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelname == "WARNING")


@pytest.mark.parametrize(
    ("format", "how", "message"),
    [
        ("onnx", {"dtype": "mixed_bfloat16"}, "ONNX Runtime refuses bfloat16"),
        ("onnx", {"dtype": "float64", "mask": False}, "ONNX Runtime has no LSTM of float64"),
        ("onnx", {"stateful": True}, "forgets the states of a layer with stateful=True"),
        ("litert", {}, "needs the Flex delegate"),
    ],
)
def test_files_that_no_runtime_takes_are_told(
    format: str, how: dict[str, Any], message: str, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    needs(format)
    model = make_model(**how)
    model(np.ones((2, 3), np.int32))
    fallbacks._fallbacks.clear()
    with caplog.at_level("INFO", logger="lstm_fast"):
        model.export(tmp_path / f"model{SUFFIXES[format]}", format=format, verbose=False)
    assert message in logged(caplog)


# PyTorch's exporter to ONNX warns about itself, and about each number that it reads.
pytorch_warns = pytest.mark.filterwarnings("ignore")


@pytorch_warns
@pytest.mark.backends("torch")
def test_a_trace_of_one_timestep_is_refused(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("onnx")
    model = make_model()
    model(np.ones((2, 3), np.int32))
    with pytest.raises(ValueError, match=r"any number of timesteps and computes one.*lstm_fast\.export"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)


@pytorch_warns
@pytest.mark.backends("torch")
@pytest.mark.parametrize("time", [1, 4])
def test_a_trace_of_known_length_is_right(time: int, tmp_path: pathlib.Path) -> None:
    needs("onnx")
    model = make_model(mask=False)
    signature = [keras.InputSpec(shape=(None, time), dtype="int32", name="x")]
    model.export(tmp_path / "model.onnx", format="onnx", input_signature=signature, verbose=False)
    assert_right(exports.check(model, tmp_path / "model.onnx", "onnx", input_signature=signature))
