"""How each framework calls the compiled kernels: one module per framework. What they share is here.

A backend is a module with the functions of `lstm_fast.backends.backend.Backend`. It converts arrays and calls the
kernels. Only `lstm_fast.functional` calls it, and checks the arguments before.
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

# Advice where Keras's layer can do what the kernels cannot. Functions have no Keras path: the variable does not help.
IN_THEIR_PLACE = (
    "if you need it, use lstm_fast.to_keras(model) or set LSTM_FAST_KERNEL=keras for a layer, and keras.layers.LSTM "
    "instead of lstm_fast.lstm or recurrence"
)

# The error of a backend if a backward pass is differentiated.
SECOND_ORDER = f"lstm_fast: gradients of gradients are not implemented; {IN_THEIR_PLACE}"
# TensorFlow also computes forward mode by differentiating a backward pass.
SECOND_ORDER_OR_FORWARD = SECOND_ORDER.replace("are not", "and forward mode (tf.autodiff.ForwardAccumulator) are not")


class Unavailable(NamedTuple):
    """Why the kernels cannot be used for a call."""

    reason: str
    announced: bool = False  # the user has been warned already, or has chosen it


class UnavailableError(RuntimeError):
    """Like `Unavailable`, for a reason that is found during a call."""
