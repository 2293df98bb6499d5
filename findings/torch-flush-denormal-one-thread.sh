#!/usr/bin/env bash
# PyTorch: set_flush_denormal(True) reaches one thread, so half of a tensor is flushed to zero and half is not.
#
# One would expect: torch.set_flush_denormal(True) "disables denormal floating numbers on CPU". One sets it for an LSTM
# over long sequences: gradients of the last output become subnormal on their way back, and many processors are slow
# with such numbers.
#
# What happens: it changes the thread that calls it. PyTorch starts its other threads with the first operation that
# they share, and they keep the setting of that moment. If the call comes later, one product of equal numbers is zero
# in the first half of a tensor and 5e-39 in the second, and the backward pass of nn.LSTM still has the slow numbers.
# If the call comes earlier, the whole product is zero.
#
# Who meets it: whoever calls it in the middle of a program, for example just before training.
#
# What to do: call it before anything else is computed.
#
# Versions: PyTorch 2.13.0 (CPU), NumPy 2.4.6, Python 3.11, an x86 processor.
#
# Output:
#     gradients of an LSTM over 300 timesteps: some are subnormal True
#     set after the first operation, two threads: first half zero True, second half zero False
#     set before the first operation, two threads: first half zero True, second half zero True

set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/halves.py" <<'PY'
import sys

import torch

torch.set_num_threads(2)
torch.manual_seed(0)
late = sys.argv[1] == "after"
if late:
    x = torch.randn(64, 300, 8, requires_grad=True)
    torch.nn.LSTM(8, 16, batch_first=True)(x)[0][:, -1].sum().backward()
    size = x.grad.abs()
    tiny = bool(((size > 0) & (size < torch.finfo(torch.float32).tiny)).any())
    print(f"gradients of an LSTM over 300 timesteps: some are subnormal {tiny}")
    if not tiny:
        sys.exit("changed: the gradients have no subnormal numbers")
    torch.full((1 << 20,), 2e-38) * 0.25
torch.set_flush_denormal(True)
product = torch.full((1 << 20,), 2e-38) * 0.25
first, second = (bool((half.view(torch.int32) == 0).all()) for half in product.chunk(2))
print(f"set {sys.argv[1]} the first operation, two threads: first half zero {first}, second half zero {second}")
if (first, second) != (True, not late):
    sys.exit("changed: the setting reaches other threads than it did")
PY
"$folder/venv/bin/python" "$folder/halves.py" after
"$folder/venv/bin/python" "$folder/halves.py" before
