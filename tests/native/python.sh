#!/usr/bin/env bash
# Runs the Python tests of the kernels with a sanitizer: bash tests/native/python.sh [SANITIZERS [PYTEST_ARGUMENTS...]]
# SANITIZERS: address,undefined, which is the default, or thread. PYTHON: an interpreter with NumPy, ml_dtypes,
# hypothesis, pytest and pybind11, .venv/bin/python by default.
#
# What is built stays in build/, beside the native tests with the same sanitizers, with which it shares the kernels'
# objects. The package is a copy without its own __init__.py, which would import Keras and a framework: those are not
# made for sanitizers, and take minutes to start.
set -euo pipefail
cd "$(dirname "$0")/../.."

python=$(realpath --no-symlinks "${PYTHON:-.venv/bin/python}")
sanitizers=${1:-address,undefined}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- tests/test_kernels.py tests/test_math.py tests/test_properties.py \
  -k 'not subnormal'  # which needs TensorFlow
folder=$PWD/build/native-${sanitizers//,/-}
copy=$folder/python

cmake -S . -B "$folder" -DLSTM_FAST_NATIVE_TESTS=ON -DLSTM_FAST_PYTHON=ON -DLSTM_FAST_WERROR=ON \
  -DCMAKE_BUILD_TYPE=Debug "-DLSTM_FAST_SANITIZE=$sanitizers" -DLSTM_FAST_CUDA=OFF -DLSTM_FAST_TENSORFLOW=OFF \
  "-DPython_EXECUTABLE=$python" "-Dpybind11_DIR=$("$python" -m pybind11 --cmakedir)" > /dev/null
cmake --build "$folder" --parallel "$(nproc)" > "$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
rm -rf "$copy"
mkdir -p "$copy"
cp -r lstm_fast tests pyproject.toml "$copy"
rm -f "$copy"/lstm_fast/*.so
echo '"""Nothing but submodules."""' > "$copy/lstm_fast/__init__.py"
cmake --install "$folder" --prefix "$copy/lstm_fast" > /dev/null

cd "$copy"
# Python and NumPy keep memory until the process ends, and this one forks with threads running.
export ASAN_OPTIONS=detect_leaks=0
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:die_after_fork=0
LSTM_FAST_NUM_THREADS=$(nproc)
export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 LSTM_FAST_NUM_THREADS PYTHONDONTWRITEBYTECODE=1
case $sanitizers in
  *address*) preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" ;;
  *thread*) preload=$(g++ -print-file-name=libtsan.so) ;;
  *) preload= ;;
esac
# Under ThreadSanitizer addresses must not be too random.
env LD_PRELOAD="$preload" setarch "$(uname -m)" --addr-no-randomize "$python" -m pytest -q -p no:cacheprovider "$@"
