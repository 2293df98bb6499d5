#!/usr/bin/env bash
# Builds the native tests in several ways and runs them: bash tests/native/run.sh [--fuzz-seconds N] [SANITIZERS...]
# SANITIZERS: address,undefined and thread and none, which are the default. CMake and a C++ compiler are enough.
set -euo pipefail
cd "$(dirname "$0")/../.."

fuzz_seconds=30
if [ "${1:-}" = --fuzz-seconds ]; then
  fuzz_seconds=${2:?--fuzz-seconds: expected a number}
  shift 2
fi
[ $# -gt 0 ] || set -- address,undefined thread none
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1

for sanitizers; do
  printf '\nNative tests, sanitizers: %s\n' "$sanitizers"
  folder=build/native-${sanitizers//,/-}
  options=(-DCMAKE_BUILD_TYPE=Debug "-DLSTM_FAST_SANITIZE=$sanitizers")
  [ "$sanitizers" != none ] || options=(-DCMAKE_BUILD_TYPE=Release -DLSTM_FAST_SANITIZE=)
  cmake -S . -B "$folder" -DLSTM_FAST_NATIVE_TESTS=ON -DLSTM_FAST_PYTHON=OFF -DLSTM_FAST_WERROR=ON "${options[@]}" > /dev/null
  cmake --build "$folder" --parallel "$(nproc)" > "$folder/build.log" 2>&1 || { cat "$folder/build.log"; exit 1; }
  "$folder/tests/native/native_tests"
  # A case is too small for several threads to run at once, most of the time: nothing for ThreadSanitizer.
  [ "$sanitizers" = thread ] || "$folder/tests/native/fuzz" --seconds "$fuzz_seconds" --seed "$(date +%s)"
done
