#!/usr/bin/env bash
# Forward-mode derivatives of torch.nn.LSTM work in float64 and raise in float32; GRU and RNN work in both.
#
# One would expect: torch.func.jvp works for a module or it does not, whatever the dtype.
#
# What happens: on a CPU, float32 runs on oneDNN's LSTM, which has no forward-mode derivative: NotImplementedError.
# float64 runs on PyTorch's own loop, which has one. So a test in float64 passes, and the same code with the usual
# dtype does not run. Under torch.backends.mkldnn.flags(enabled=False) float32 works as well, because it takes the
# same loop.
#
# Who meets it: whoever computes Jacobian-vector products, Hessian-vector products or jacfwd through an LSTM, and
# checks them in float64 first, as is usual.
#
# What to do: turn oneDNN off around the call, or use reverse mode (torch.func.vjp, jacrev).
#
# Versions: PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11.
#
# Output:
#     LSTM: float64 works, float32 NotImplementedError, float32 without oneDNN works; reverse mode in float32 works
#     GRU: float64 works, float32 works, float32 without oneDNN works; reverse mode in float32 works
#     RNN: float64 works, float32 works, float32 without oneDNN works; reverse mode in float32 works

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
export CUDA_VISIBLE_DEVICES="" PYTHONWARNINGS=ignore
"$folder/venv/bin/python" - <<'PY'
import sys

import torch

torch.manual_seed(0)


def outcome(derivative, model, dtype, onednn=True):
    """Return "works" if the derivative is that of a difference quotient, else the name of the error."""
    model = model.to(dtype)
    parameters = dict(model.named_parameters())
    x = torch.linspace(-1, 1, 30, dtype=dtype).reshape(2, 5, 3)

    def sums(values):
        return torch.func.functional_call(model, parameters, (values,))[0].sum()

    with torch.backends.mkldnn.flags(enabled=onednn):
        try:
            slope = derivative(sums, x, torch.ones_like(x))
        except NotImplementedError as error:
            return type(error).__name__
        step = 1e-2
        quotient = (sums(x + step) - sums(x - step)) / (2 * step)
    return "works" if abs(slope - quotient) < 1e-2 else "is wrong"


def forward(function, x, direction):
    return torch.func.jvp(function, (x,), (direction,))[1]


def reverse(function, x, direction):
    return (torch.func.vjp(function, x)[1](torch.ones((), dtype=x.dtype))[0] * direction).sum()


for layer, expected in (torch.nn.LSTM, "NotImplementedError"), (torch.nn.GRU, "works"), (torch.nn.RNN, "works"):
    model = layer(3, 4, batch_first=True)
    double, single = outcome(forward, model, torch.float64), outcome(forward, model, torch.float32)
    without = outcome(forward, model, torch.float32, onednn=False)
    back = outcome(reverse, model, torch.float32)
    print(
        f"{layer.__name__}: float64 {double}, float32 {single}, float32 without oneDNN {without}; "
        f"reverse mode in float32 {back}"
    )
    if (double, single, without, back) != ("works", expected, "works", "works"):
        sys.exit(f"changed: forward-mode derivatives of {layer.__name__} work elsewhere")
PY
