"""TensorFlow's ways to distribute a model over devices and processes, all on the CPU: tf.distribute, tf.device.

Training by two replicas, each with half of a batch, gives the same weights as one process with the whole batches.
"""

from pathlib import Path

import keras
import numpy as np
import pytest
from data_parallel import STEPS, WORDS, check, make_data, make_optimizer, run_script
from keras_side import fused

from lstm_fast import FastBidirectional, FastLSTM

tf = pytest.importorskip("tensorflow")

TRAIN = """
import functools, json, os, sys
from pathlib import Path
import keras, numpy as np, tensorflow as tf
import lstm_fast
from data_parallel import *

folder = Path(sys.argv[1])
ports = free_ports(2)
lstm_fast.status()  # leaves TensorFlow alone: devices and collectives can still be configured

def in_one_process():
    for masked in (True, False):
        for name, (x, y), batch in (("whole", make_data(), BATCH), ("half", half_data(), BATCH // 2)):
            model = compiled(make_model(masked), jit_compile=False)
            with recorded(folder / f"{name}-{masked}.npz", model.get_weights):
                model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)

def on_two_devices():
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    x, y = make_data()
    for masked in (True, False):
        with strategy.scope():
            model = compiled(make_model(masked))
        with recorded(folder / f"mirrored-{masked}.npz", model.get_weights):
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)
        with strategy.scope():
            model = compiled(model_around(keras.layers.Bidirectional(keras.layers.LSTM(6)), masked), jit_compile=False)
        with recorded(folder / f"accelerated-{masked}.npz", model.get_weights):
            half = len(x) // 2
            model.fit(x[:half], y[:half], batch_size=BATCH, shuffle=False, verbose=0)
            lstm_fast.accelerate(model)  # outside of the scope
            model.fit(x[half:], y[half:], batch_size=BATCH, shuffle=False, verbose=0)
    for name, layer_class in (("dropout", lstm_fast.FastLSTM), ("dropout of Keras", keras.layers.LSTM)):
        with strategy.scope():
            layer = layer_class(6, dropout=0.4, recurrent_dropout=0.4, seed=2)
            model = compiled(model_around(layer, masked=True), jit_compile=False)
        with recorded(folder / f"{name}.npz", model.get_weights):
            model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

def worker(index):
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    batches = tf.data.Dataset.from_tensor_slices(make_data()).batch(BATCH).with_options(options)
    for masked in (True, False):
        with strategy.scope():
            model = make_model(masked)
            optimizer = make_optimizer()
            optimizer.build(model.trainable_variables)
            loss_of = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")

        def step(x, y):
            assert x.shape[0] == BATCH // 2, x
            with tf.GradientTape() as tape:
                loss = loss_of(y, model(x, training=True)) / BATCH
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))  # which sums over the workers

        train = tf.function(lambda x, y: strategy.run(step, (x, y)))
        with recorded(folder / f"worker {index}-{masked}.npz", model.get_weights):
            for x, y in strategy.experimental_distribute_dataset(batches):
                train(x, y)

in_processes({
    "one process": in_one_process,
    "two devices": on_two_devices,
    "worker 0": functools.partial(worker, 0),
    "worker 1": functools.partial(worker, 1),
})
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the script writes the weights."""
    folder = tmp_path_factory.mktemp("trained")
    run_script(TRAIN, folder)
    return folder


@pytest.mark.parametrize("masked", [True, False])
def test_mirrored_strategy(trained: Path, masked: bool) -> None:
    """Two logical devices in one process, by `Model.fit`."""
    check(trained, f"mirrored-{masked}", f"whole-{masked}", passes=2 * 2 * STEPS, alone=f"half-{masked}")


@pytest.mark.parametrize("masked", [True, False])
def test_a_mirrored_model_made_fast_halfway(trained: Path, masked: bool) -> None:
    check(trained, f"accelerated-{masked}", f"whole-{masked}", passes=2 * STEPS // 2, alone=f"half-{masked}")


def test_dropout_of_mirrored_replicas(trained: Path) -> None:
    """Replicas call the same layer in turn, but each has its own dropout masks: those of Keras's layer."""
    counts = np.load(trained / "dropout of Keras.npz")
    assert (counts["forward"], counts["backward"]) == (0, 0)
    check(trained, "dropout", "dropout of Keras", passes=2 * STEPS)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("worker", [0, 1])
def test_multi_worker_mirrored_strategy(trained: Path, masked: bool, worker: int) -> None:
    """Two processes, by a loop around `Strategy.run`.

    Not by `Model.fit`: Keras 3.15 fails there before it calls a layer. It takes the mean of distributed values in a way
    that this strategy refuses (keras-team/keras, issue 20585).
    """
    check(trained, f"worker {worker}-{masked}", f"whole-{masked}", passes=2 * STEPS, alone=f"half-{masked}")


# Devices by name


def train(devices: list[str | None], graph: bool) -> list[np.ndarray]:
    """The weights after some steps. Every layer is called on its own device, or without a named device."""
    keras.utils.set_random_seed(2)
    layers = [
        keras.layers.Embedding(WORDS, 5, mask_zero=True),
        FastBidirectional(FastLSTM(4, return_sequences=True)),
        FastLSTM(3),
        keras.layers.Dense(1),
    ]
    optimizer = make_optimizer()

    def call(value: tf.Tensor) -> tf.Tensor:
        for layer, device in zip(layers, devices, strict=True):
            with tf.device(device):  # None: as if it were not there
                value = layer(value, training=True)
        return value

    x, y = map(tf.constant, make_data())
    call(x)
    weights = [weight for layer in layers for weight in layer.trainable_variables]
    optimizer.build(weights)

    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((call(x) - y) ** 2)
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

    run = tf.function(step) if graph else step
    with fused(forward=2 * 3, backward=2 * 3):
        for _ in range(3):
            run(x, y)
    return [weight.numpy() for weight in weights]


CPU, GPU = "/CPU:0", "/GPU:0"
# The second is a GPU that does not exist: TensorFlow takes an existing device instead.
PLACES = {
    "inside": [CPU] * 4,
    "first": [CPU, CPU, None, None],
    "last": [None, None, CPU, CPU],
    "soft": [GPU] * 4,
}


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("devices", PLACES.values(), ids=PLACES)
def test_training_inside_and_outside_of_a_device(devices: list[str | None], graph: bool) -> None:
    """A device changes no bit, wherever its scope begins and ends."""
    before = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(True)
    try:
        expected, found = train([None] * 4, graph), train(devices, graph)
    finally:
        tf.config.set_soft_device_placement(before)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.fast
def test_a_missing_device_is_tensorflows_error() -> None:
    """Without soft placement, TensorFlow refuses a device that does not exist before a kernel runs."""
    layer = FastLSTM(3)
    x = tf.ones((2, 4, 5))
    layer(x)
    before = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        with fused(forward=0), pytest.raises(tf.errors.InvalidArgumentError, match="GPU:0"), tf.device(GPU):
            layer(x)
    finally:
        tf.config.set_soft_device_placement(before)
