"""How each framework reaches the compiled kernels: one module per framework, and here what they share.

A backend is a module with the functions of `lstm_fast.backends.backend.Backend`. It converts and calls; arguments are
checked before, in `lstm_fast.functional`, and nobody else calls it.
"""

from typing import NamedTuple

from lstm_fast.backends.operands import PRECISIONS as PRECISIONS
from lstm_fast.backends.operands import RESERVE_GATES as RESERVE_GATES
from lstm_fast.backends.operands import RESERVE_NONE as RESERVE_NONE
from lstm_fast.backends.operands import RESERVE_RECOMPUTE as RESERVE_RECOMPUTE
from lstm_fast.backends.operands import Direction as Direction
from lstm_fast.backends.operands import Operands as Operands
from lstm_fast.backends.operands import Options as Options
from lstm_fast.backends.operands import Outputs as Outputs
from lstm_fast.libraries import LibraryError as LibraryError
from lstm_fast.libraries import LstmFastWarning as LstmFastWarning
from lstm_fast.libraries import check_library as check_library
from lstm_fast.libraries import core as core
from lstm_fast.libraries import cuda as cuda
from lstm_fast.libraries import cuda_state as cuda_state
from lstm_fast.libraries import least_capability as least_capability
from lstm_fast.libraries import library_path as library_path
from lstm_fast.libraries import once as once
from lstm_fast.libraries import tensorflow_ops_state as tensorflow_ops_state

FRAMEWORKS = ("tensorflow", "jax", "torch", "numpy")  # those with a module here

DTYPES = ("float32", "float64", "float16", "bfloat16")

# What to do where Keras's layer can what the kernels cannot. A function has no such path, and no use of the variable.
IN_THEIR_PLACE = (
    "if you need it, use lstm_fast.to_keras(model) or set LSTM_FAST_KERNEL=keras for a layer, and keras.layers.LSTM "
    "instead of lstm_fast.lstm or recurrence"
)

# What a backend says where a backward pass is differentiated.
SECOND_ORDER = f"lstm_fast: gradients of gradients are not implemented; {IN_THEIR_PLACE}"
# TensorFlow computes forward mode, too, by a backward pass that it differentiates.
SECOND_ORDER_OR_FORWARD = SECOND_ORDER.replace("are not", "and forward mode (tf.autodiff.ForwardAccumulator) are not")


class Unavailable(NamedTuple):
    """Why the kernels cannot be used for a call."""

    reason: str
    announced: bool = False  # the user has been warned of it, or has asked for it


class UnavailableError(RuntimeError):
    """As `Unavailable`, where that shows during a call."""
