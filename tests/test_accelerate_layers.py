"""Every layer of Keras in a model with an LSTM: `accelerate` and `to_keras` do not change it in any respect."""

import dataclasses
import inspect
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import ops
from keras_side import fused, to_numpy
from twins import (
    BACKEND,
    accelerated_classes,
    assert_close,
    classes,
    computed,
    described,
    random,
    seeded,
    undone,
    variables_of,
)

from lstm_fast import accelerate, to_keras

pytestmark = pytest.mark.backends("tensorflow", "jax", "torch")

K = keras.layers
BATCH = 2
VECTOR, SERIES, IMAGE, VOLUME = (6,), (4, 6), (6, 6, 3), (4, 4, 4, 2)

# Every class of `keras.layers` once: some have several names.
CLASSES: Mapping[str, type] = {cls.__name__: cls for cls in vars(K).values() if inspect.isclass(cls)}


@dataclasses.dataclass(frozen=True)
class Case:
    """How to make a layer, and its inputs.

    Attributes:
        make: Makes a layer of the class, or one that contains such a layer.
        *shapes: Shapes of its inputs, without the batch.
        calls: Number of kernel calls in one call of it.
        data: The first input, instead of random numbers.
        dtype: The dtype of the inputs; integers are below 5.
        separate: Whether several inputs are separate arguments, not one list.
        backends: The backends with which it works in a model.
    """

    make: Callable[[], Any]
    shapes: Sequence[tuple[int, ...]]
    calls: int = 0
    data: Any = None
    dtype: str = "float32"
    separate: bool = False
    backends: Sequence[str] = ("tensorflow", "jax", "torch")

    def inputs(self) -> list[Any]:
        if self.data is not None:
            return list(self.data)
        rng = np.random.default_rng(1)
        if self.dtype == "int32":
            return [rng.integers(0, 5, (BATCH, *shape)).astype(self.dtype) for shape in self.shapes]
        if self.dtype == "images":
            return [rng.uniform(0.0, 255.0, (BATCH, *shape)).astype("float32") for shape in self.shapes]
        return [random(BATCH, *shape, seed=i) for i, shape in enumerate(self.shapes)]


def on(*shapes: tuple[int, ...], **kwargs: Any) -> Callable[[Callable[[], Any]], Case]:
    return lambda make: Case(make, shapes, **kwargs)


vector, series, image, volume = on(VECTOR), on(SERIES), on(IMAGE), on(VOLUME)
pair = on(SERIES, SERIES)
# JAX compiles each of their operations, which takes a minute in all. Their state is the same as on the other backends.
photo = on(IMAGE, dtype="images", backends=("tensorflow", "torch"))
# Only TensorFlow can have these within a model: strings and tables.
TENSORFLOW = ("tensorflow",)


def adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


def strings(*values: Any) -> Any:
    if BACKEND != "tensorflow":
        return None
    import tensorflow as tf

    return tf.constant(list(values))


def with_strings(make: Callable[[], Any], data: Any, dtype: str = "string") -> Case:
    shape = () if data is None else tuple(data.shape[1:])
    return Case(make, [shape], data=[data], dtype=dtype, backends=TENSORFLOW)


TEXT = strings("a good film", "a bad film")
TAGS = strings(["up", "down"], ["left", "up"])
PAIRS = strings("up", "down")


class Own(K.Layer):
    """A layer of a user, with a variable and a loss."""

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(shape[-1],))

    def call(self, x: Any) -> Any:
        self.add_loss(ops.sum(self.w))
        return x * self.w


class OwnWrapper(K.Wrapper):
    def call(self, x: Any) -> Any:
        return 2.0 * self.layer(x)


class Held(K.Wrapper):
    """A layer around another one that cannot be called with symbolic tensors."""

    def call(self, x: Any) -> Any:
        return self.layer(x)

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)


def torch_module() -> Any:
    import torch

    torch.manual_seed(0)
    return K.TorchModuleWrapper(torch.nn.Linear(6, 2), output_shape=(None, 2))


def jax_layer() -> Any:
    import jax

    def init(rng: Any, inputs: Any) -> Any:
        return {"w": jax.random.normal(rng, (inputs.shape[-1], 2))}

    def call(params: Any, inputs: Any) -> Any:
        return jax.numpy.tanh(inputs @ params["w"])

    return K.JaxLayer(call, init)


conv = {"activation": "elu", "kernel_regularizer": "l2", "bias_constraint": "non_neg", "activity_regularizer": "l1"}
separable = {"activation": "elu", "depthwise_regularizer": "l2", "bias_constraint": "non_neg"}
recurrent = {"return_sequences": True, "dropout": 0.2, "recurrent_dropout": 0.3, "kernel_regularizer": "l2"}
norm = {"epsilon": 0.01, "gamma_regularizer": "l2", "beta_constraint": "non_neg"}


CASES: dict[str, Case] = {
    "Activation": series(lambda: K.Activation("elu")),
    "ActivityRegularization": series(lambda: K.ActivityRegularization(l1=0.1, l2=0.2)),
    "AdaptiveAveragePooling1D": series(lambda: K.AdaptiveAveragePooling1D(2)),
    "AdaptiveAveragePooling2D": image(lambda: K.AdaptiveAveragePooling2D((2, 3))),
    "AdaptiveAveragePooling3D": volume(lambda: K.AdaptiveAveragePooling3D(2)),
    "AdaptiveMaxPooling1D": series(lambda: K.AdaptiveMaxPooling1D(2)),
    "AdaptiveMaxPooling2D": image(lambda: K.AdaptiveMaxPooling2D((2, 3))),
    "AdaptiveMaxPooling3D": volume(lambda: K.AdaptiveMaxPooling3D(2)),
    "Add": pair(K.Add),
    "AdditiveAttention": pair(lambda: K.AdditiveAttention(dropout=0.3)),
    "AlphaDropout": series(lambda: K.AlphaDropout(0.3, seed=7)),
    "Attention": pair(lambda: K.Attention(use_scale=True, score_mode="concat", dropout=0.3)),
    "AugMix": photo(lambda: K.AugMix(num_chains=1, chain_depth=1, seed=7)),
    "AutoContrast": photo(lambda: K.AutoContrast(value_range=(0, 200))),
    "Average": pair(K.Average),
    "AveragePooling1D": series(lambda: K.AveragePooling1D(3, strides=1, padding="same")),
    "AveragePooling2D": image(lambda: K.AveragePooling2D((2, 3), strides=1, padding="same")),
    "AveragePooling3D": volume(lambda: K.AveragePooling3D(2, strides=1, padding="same")),
    "BatchNormalization": image(lambda: K.BatchNormalization(axis=1, momentum=0.7, **norm)),
    "Bidirectional": Case(lambda: K.Bidirectional(K.LSTM(2, **recurrent), merge_mode="mul"), [SERIES], calls=1),
    "CategoryEncoding": on(VECTOR, dtype="int32")(lambda: K.CategoryEncoding(5, output_mode="count")),
    "CenterCrop": photo(lambda: K.CenterCrop(3, 4)),
    "Concatenate": pair(lambda: K.Concatenate(axis=1)),
    "ContrastLimitedAdaptiveHistogramEqualization": photo(
        lambda: K.ContrastLimitedAdaptiveHistogramEqualization(clip_limit=2.0, tile_grid_size=(2, 2))
    ),
    "Conv1D": series(lambda: K.Conv1D(3, 2, padding="causal", dilation_rate=2, **conv)),
    "Conv1DTranspose": series(lambda: K.Conv1DTranspose(3, 2, strides=2, **conv)),
    "Conv2D": image(lambda: K.Conv2D(3, (2, 3), strides=2, groups=3, **conv)),
    "Conv2DTranspose": image(lambda: K.Conv2DTranspose(3, 2, strides=2, padding="same", **conv)),
    "Conv3D": volume(lambda: K.Conv3D(3, 2, padding="same", use_bias=False, activation="elu")),
    "Conv3DTranspose": volume(lambda: K.Conv3DTranspose(3, 2, **conv)),
    "ConvLSTM1D": on((3, 5, 2))(lambda: K.ConvLSTM1D(2, 2, padding="same", **recurrent)),
    "ConvLSTM2D": on((2, 4, 4, 2))(lambda: K.ConvLSTM2D(2, 2, strides=2, **recurrent)),
    "ConvLSTM3D": on((2, 3, 3, 3, 1))(lambda: K.ConvLSTM3D(2, 2, go_backwards=True, dropout=0.2)),
    "Cropping1D": series(lambda: K.Cropping1D((1, 2))),
    "Cropping2D": image(lambda: K.Cropping2D(((1, 2), (0, 1)))),
    "Cropping3D": volume(lambda: K.Cropping3D((1, 0, 1))),
    "CutMix": photo(lambda: K.CutMix(0.7, seed=7)),
    "Dense": series(lambda: K.Dense(3, "elu", kernel_regularizer="l2", bias_constraint="non_neg")),
    "DepthwiseConv1D": series(lambda: K.DepthwiseConv1D(2, depth_multiplier=2, padding="same", **separable)),
    "DepthwiseConv2D": image(lambda: K.DepthwiseConv2D(2, strides=2, depth_multiplier=2, **separable)),
    "Discretization": series(lambda: adapted(K.Discretization(num_bins=3), random(9, *SERIES))),
    "Dot": pair(lambda: K.Dot(axes=2, normalize=True)),
    "Dropout": series(lambda: K.Dropout(0.3, noise_shape=(None, 1, None), seed=7)),
    "ELU": series(lambda: K.ELU(0.4)),
    "EinsumDense": series(lambda: K.EinsumDense("abc,cd->abd", (None, 3), "elu", bias_axes="d", lora_rank=2)),
    "Embedding": on(VECTOR, dtype="int32")(
        lambda: K.Embedding(5, 3, mask_zero=True, embeddings_regularizer="l2", lora_rank=2)
    ),
    "Equalization": photo(lambda: Held(K.Equalization(bins=16))),  # which gives symbolic inputs back
    "Flatten": image(lambda: K.Flatten(data_format="channels_first")),
    "GRU": series(lambda: K.GRU(2, reset_after=False, **recurrent)),
    "GRUCell": series(lambda: K.RNN([K.LSTMCell(2), K.GRUCell(3, reset_after=False)])),
    "GaussianDropout": series(lambda: K.GaussianDropout(0.3, seed=7)),
    "GaussianNoise": series(lambda: K.GaussianNoise(0.3, seed=7)),
    "GlobalAveragePooling1D": series(lambda: K.GlobalAveragePooling1D(keepdims=True)),
    "GlobalAveragePooling2D": image(lambda: K.GlobalAveragePooling2D(keepdims=True)),
    "GlobalAveragePooling3D": volume(lambda: K.GlobalAveragePooling3D(keepdims=True)),
    "GlobalMaxPooling1D": series(lambda: K.GlobalMaxPooling1D(keepdims=True)),
    "GlobalMaxPooling2D": image(lambda: K.GlobalMaxPooling2D(keepdims=True)),
    "GlobalMaxPooling3D": volume(lambda: K.GlobalMaxPooling3D(keepdims=True)),
    "GroupNormalization": image(lambda: K.GroupNormalization(3, axis=2, **norm)),
    "GroupedQueryAttention": on(SERIES, SERIES, separate=True)(
        lambda: K.GroupQueryAttention(2, 4, 2, dropout=0.3, kernel_regularizer="l2")
    ),
    "HashedCrossing": Case(lambda: None, []),  # below
    "Hashing": with_strings(lambda: K.Hashing(7, mask_value="up", salt=3), TAGS),
    "Identity": series(K.Identity),
    "InputLayer": series(lambda: keras.Sequential([keras.Input(SERIES, dtype="float32"), K.Dense(2)])),
    "IntegerLookup": with_strings(
        lambda: adapted(K.IntegerLookup(num_oov_indices=2, output_mode="count"), np.array([[7, 42], [7, 1]])),
        np.array([[7, 42], [9, 1]]),
        "int64",
    ),
    "JaxLayer": Case(jax_layer, [VECTOR], backends=("jax",)),
    "LSTM": Case(lambda: K.LSTM(2, unit_forget_bias=False, **recurrent), [SERIES], calls=1),
    "LSTMCell": Case(
        lambda: K.RNN(K.LSTMCell(2, dropout=0.2, bias_regularizer="l2"), go_backwards=True), [SERIES], calls=1
    ),
    "Lambda": series(lambda: K.Lambda(lambda x, a: a * x, arguments={"a": 3.0}, output_shape=SERIES)),
    "Layer": series(Own),
    "LayerNormalization": series(lambda: K.LayerNormalization(axis=(1, 2), **norm)),
    "LeakyReLU": series(lambda: K.LeakyReLU(0.2)),
    "Masking": Case(lambda: keras.Sequential([K.Masking(0.5), K.LSTM(2)]), [SERIES], calls=1),
    "MaxNumBoundingBoxes": Case(lambda: None, []),  # below
    "MaxPooling1D": series(lambda: K.MaxPooling1D(3, strides=1, padding="same")),
    "MaxPooling2D": image(lambda: K.MaxPooling2D((2, 3), strides=1, padding="same")),
    "MaxPooling3D": volume(lambda: K.MaxPooling3D(2, strides=1, padding="same")),
    "Maximum": pair(K.Maximum),
    "MelSpectrogram": on((64,))(lambda: K.MelSpectrogram(16, 8, num_mel_bins=4, sampling_rate=100)),
    "Minimum": pair(K.Minimum),
    "MixUp": photo(lambda: K.MixUp(0.4, seed=7)),
    "MultiHeadAttention": on(SERIES, SERIES, separate=True)(
        lambda: K.MultiHeadAttention(2, 3, value_dim=4, dropout=0.3, output_shape=5, kernel_regularizer="l2")
    ),
    "Multiply": pair(K.Multiply),
    "Normalization": series(lambda: adapted(K.Normalization(axis=1), 5.0 * random(9, *SERIES) + 2.0)),
    "PReLU": image(lambda: K.PReLU(alpha_regularizer="l2", shared_axes=[1])),
    "Permute": image(lambda: K.Permute((3, 1, 2))),
    "Pipeline": photo(lambda: K.Pipeline([K.Rescaling(0.1), K.RandomContrast(0.3, seed=7)])),
    "RMSNormalization": series(lambda: K.RMSNormalization(epsilon=0.01)),
    "RNN": Case(
        lambda: K.RNN([K.LSTMCell(2), K.LSTMCell(3, use_bias=False)], return_sequences=True), [SERIES], calls=2
    ),
    "RandAugment": photo(lambda: K.RandAugment(num_ops=1, factor=0.2, seed=7)),
    "RandomBrightness": photo(lambda: K.RandomBrightness(0.3, seed=7)),
    "RandomColorDegeneration": photo(lambda: K.RandomColorDegeneration(0.3, seed=7)),
    "RandomColorJitter": photo(lambda: K.RandomColorJitter(brightness_factor=0.2, seed=7)),
    "RandomContrast": photo(lambda: K.RandomContrast(0.3, seed=7)),
    "RandomCrop": photo(lambda: K.RandomCrop(3, 4, seed=7)),
    "RandomElasticTransform": photo(lambda: K.RandomElasticTransform(0.5, seed=7)),
    "RandomErasing": photo(lambda: K.RandomErasing(0.7, seed=7)),
    "RandomFlip": photo(lambda: K.RandomFlip("vertical", seed=7)),
    "RandomGaussianBlur": photo(lambda: K.RandomGaussianBlur(0.7, seed=7)),
    "RandomGrayscale": photo(lambda: K.RandomGrayscale(0.7, seed=7)),
    "RandomHue": photo(lambda: K.RandomHue(0.3, seed=7)),
    "RandomInvert": photo(lambda: K.RandomInvert(0.7, seed=7)),
    "RandomPerspective": photo(lambda: K.RandomPerspective(0.7, seed=7)),
    "RandomPosterization": photo(lambda: K.RandomPosterization(4, seed=7)),
    "RandomRotation": photo(lambda: K.RandomRotation(0.3, fill_mode="nearest", seed=7)),
    "RandomSaturation": photo(lambda: K.RandomSaturation(0.3, seed=7)),
    "RandomSharpness": photo(lambda: K.RandomSharpness(0.3, seed=7)),
    "RandomShear": photo(lambda: K.RandomShear(0.3, 0.2, seed=7)),
    "RandomTranslation": photo(lambda: K.RandomTranslation(0.3, 0.2, seed=7)),
    "RandomZoom": photo(lambda: K.RandomZoom(0.3, seed=7)),
    "ReLU": series(lambda: K.ReLU(1.0, negative_slope=0.2, threshold=0.1)),
    "RepeatVector": vector(lambda: K.RepeatVector(3)),
    "Rescaling": photo(lambda: K.Rescaling(0.1, offset=-1.0)),
    "Reshape": image(lambda: K.Reshape((-1, 4))),
    "Resizing": photo(lambda: K.Resizing(4, 5, interpolation="nearest")),
    "ReversibleEmbedding": on(VECTOR, dtype="int32")(lambda: K.ReversibleEmbedding(5, 3, tie_weights=False)),
    "STFTSpectrogram": on((64, 1))(lambda: K.STFTSpectrogram("real", 16, 8, window="hamming")),
    "SeparableConv1D": series(lambda: K.SeparableConv1D(3, 2, padding="same", **separable)),
    "SeparableConv2D": image(lambda: K.SeparableConv2D(3, 2, strides=2, depth_multiplier=2, **separable)),
    "SimpleRNN": series(lambda: K.SimpleRNN(2, activation="elu", **recurrent)),
    "SimpleRNNCell": series(lambda: K.RNN(K.SimpleRNNCell(2, activation="elu", bias_regularizer="l2"))),
    "Softmax": series(lambda: K.Softmax(axis=1)),
    "Solarization": photo(lambda: K.Solarization(0.3, threshold_factor=0.4, seed=7)),
    "SpatialDropout1D": series(lambda: K.SpatialDropout1D(0.3, seed=7)),
    "SpatialDropout2D": image(lambda: K.SpatialDropout2D(0.3, seed=7)),
    "SpatialDropout3D": volume(lambda: K.SpatialDropout3D(0.3, seed=7)),
    "SpectralNormalization": image(lambda: K.SpectralNormalization(K.Conv2D(2, 2), power_iterations=2)),
    "StackedRNNCells": Case(
        lambda: K.RNN(K.StackedRNNCells([K.LSTMCell(3), K.LSTMCell(2)]), zero_output_for_mask=True), [SERIES], calls=2
    ),
    "StringLookup": with_strings(lambda: adapted(K.StringLookup(num_oov_indices=2, mask_token="up"), TAGS), TAGS),
    "Subtract": pair(K.Subtract),
    "TextVectorization": with_strings(lambda: adapted(K.TextVectorization(output_mode="tf_idf", ngrams=2), TEXT), TEXT),
    "TimeDistributed": Case(lambda: K.TimeDistributed(K.LSTM(2)), [(2, *SERIES)], calls=2),
    "TorchModuleWrapper": Case(torch_module, [VECTOR], backends=("torch",)),
    "UnitNormalization": series(lambda: K.UnitNormalization(axis=1)),
    "UpSampling1D": series(lambda: K.UpSampling1D(3)),
    "UpSampling2D": image(lambda: K.UpSampling2D((2, 3), interpolation="bilinear")),
    "UpSampling3D": volume(lambda: K.UpSampling3D(2)),
    "Wrapper": Case(lambda: OwnWrapper(K.LSTM(2)), [SERIES], calls=1),
    "ZeroPadding1D": series(lambda: K.ZeroPadding1D((1, 2))),
    "ZeroPadding2D": image(lambda: K.ZeroPadding2D(((1, 2), (0, 1)))),
    "ZeroPadding3D": volume(lambda: K.ZeroPadding3D((1, 0, 1))),
}
CASES["HashedCrossing"] = Case(
    lambda: K.HashedCrossing(5, output_mode="one_hot"), [(), ()], data=[PAIRS, PAIRS], dtype="string",
    backends=TENSORFLOW,
)  # fmt: skip
del CASES["MaxNumBoundingBoxes"]

# Classes without a case, and why.
EXCLUDED: dict[str, str] = {
    "FlaxLayer": "needs Flax, which is not among the packages that the tests are run with",
    "InputSpec": "is no layer",
    "MaxNumBoundingBoxes": "takes dicts of boxes, before a model",
    "TFSMLayer": "wraps a file that TensorFlow serves; has no state of its own",
}


@pytest.mark.fast
def test_every_class_has_a_case() -> None:
    """A new layer of Keras needs a case here, or a reason why it has none."""
    assert not set(CLASSES) - set(CASES) - set(EXCLUDED)
    assert not set(CASES) & set(EXCLUDED)


def model_of(cases: Sequence[Case]) -> tuple[keras.Model, list[Any]]:
    """A model with an LSTM and the layers beside it, and its inputs. Its variables have values as after training."""
    keras.utils.set_random_seed(1)
    series_input = keras.Input(SERIES)
    lstm = K.LSTM(2, kernel_regularizer="l2", activity_regularizer="l1", dropout=0.3)
    inputs, outputs, arrays = [series_input], [K.Dense(1)(lstm(series_input))], [random(BATCH, *SERIES)]
    for case in cases:
        own = case.inputs()
        dtype = "float32" if case.dtype == "images" else case.dtype
        symbolic = [keras.Input(array.shape[1:], dtype=dtype) for array in own]
        outputs.append(case.make()(*symbolic) if case.separate or len(own) == 1 else case.make()(symbolic))
        inputs += symbolic
        arrays += own
    model = keras.Model(inputs, outputs)
    lstm.cell.recurrent_kernel.trainable = False
    model.compile(keras.optimizers.Adam(0.01), ["mse", *[None] * len(cases)])
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(2)
    for variable in variables_of(model):
        if variable.dtype.startswith("float") and variable is not model.optimizer._learning_rate:
            variable.assign(rng.uniform(0.1, 0.5, variable.shape).astype(variable.dtype))
    return model, arrays


# Values of `training`. JAX compiles each operation for each of them.
MODES = (True,) if BACKEND == "jax" else (False, True)


def results(model: keras.Model, inputs: Sequence[Any]) -> list[np.ndarray]:
    """Outputs in each of the modes, and losses."""

    def call() -> Any:
        # RandomBrightness writes into its input on PyTorch.
        given = [[ops.copy(ops.convert_to_tensor(array)) for array in inputs] for _ in MODES]
        return [model(x, training=training) for x, training in zip(given, MODES, strict=True)], list(model.losses)

    with undone(model):
        return computed(lambda: seeded(call))


def saved(model: keras.Model, path: pathlib.Path) -> tuple[Any, dict[str, Any], dict[str, bytes]]:
    """The content of a `.keras` file: the config, the weights by name, and other files."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    weights: dict[str, Any] = {}

    def collect(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            weights[name] = np.asarray(node)

    with h5py.File(io.BytesIO(files.pop("model.weights.h5"))) as file:
        file.visititems(collect)
    files.pop("metadata.json")  # contains the time
    return json.loads(files.pop("config.json")), weights, files


def as_of_keras(config: Any) -> Any:
    """A config with Keras's classes in the place of this package's."""
    if isinstance(config, list):
        return [as_of_keras(value) for value in config]
    if not isinstance(config, dict):
        return config
    config = {name: as_of_keras(value) for name, value in config.items()}
    if str(config.get("registered_name")).startswith("lstm_fast>Fast"):
        assert config["registered_name"] == f"lstm_fast>Fast{config['class_name']}"
        # Keras's files do not say how to run. Keras's LSTM does not write its `use_cudnn` either.
        inner = {name: value for name, value in config["config"].items() if name not in ("recompute", "use_cudnn")}
        config.update(module="keras.layers", registered_name=None, config=inner)
    return config


def assert_same_file(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        np.testing.assert_array_equal(found[1][name], value, err_msg=name)
    assert found[2] == expected[2]


# A model with an LSTM and its files takes more time than most layers, above all with JAX, which compiles Keras's LSTM.
HERE = [name for name, case in CASES.items() if name in CLASSES and BACKEND in case.backends]
TOGETHER = 9 if BACKEND == "jax" else 4


@pytest.mark.filterwarnings("ignore:.*Tensor.T is deprecated on 0-D tensors:UserWarning")  # RandAugment on PyTorch
@pytest.mark.parametrize("names", [HERE[i : i + TOGETHER] for i in range(0, len(HERE), TOGETHER)], ids="-".join)
def test_layers(names: Sequence[str], tmp_path: pathlib.Path) -> None:
    if "STFTSpectrogram" in names:
        pytest.importorskip("scipy")  # Keras uses it for its windows
    model, inputs = model_of([CASES[name] for name in names])
    calls = 1 + sum(CASES[name].calls for name in names)
    for name in names:
        assert any(isinstance(part, CLASSES[name]) for part in model._flatten_layers())
    before, what, fast = classes(model), described(model), accelerated_classes(model)
    values = [np.array(to_numpy(variable)) for variable in variables_of(model)]
    with fused(forward=0):
        expected = results(model, inputs)
    file = saved(model, tmp_path / "before.keras")

    def check_unchanged() -> None:
        assert described(model) == what
        for variable, value in zip(variables_of(model), values, strict=True):
            np.testing.assert_array_equal(to_numpy(variable), value, err_msg=variable.path)

    accelerate(model)
    assert classes(model) == fast
    check_unchanged()
    with fused(forward=len(MODES) * calls):
        assert_close(results(model, inputs), expected)
    config, *rest = saved(model, tmp_path / "fast.keras")
    assert config != file[0]
    assert_same_file((as_of_keras(config), *rest), file)
    to_keras(model)
    assert classes(model) == before
    check_unchanged()
    assert_same_file(saved(model, tmp_path / "after.keras"), file)
