#!/usr/bin/env bash
# Builds the native tests with sanitizers and runs them: bash tests/native/run.sh [--fuzz-seconds N] [SANITIZERS...]
# SANITIZERS: address,undefined and thread, which are the default, or none. No Python is needed.
set -euo pipefail
cd "$(dirname "$0")/../.."

fuzz_seconds=30
if [ "${1:-}" = --fuzz-seconds ]; then
  fuzz_seconds=${2:?--fuzz-seconds: expected a number}
  shift 2
fi
[ $# -gt 0 ] || set -- address,undefined thread
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1

for sanitizers; do
  printf '\nNative tests with sanitizers: %s\n' "$sanitizers"
  folder=build/native-${sanitizers//,/-}
  options=(-DCMAKE_BUILD_TYPE=Debug "-DLSTM_FAST_SANITIZE=$sanitizers")
  [ "$sanitizers" != none ] || options=(-DCMAKE_BUILD_TYPE=Release -DLSTM_FAST_SANITIZE=)
  cmake -S . -B "$folder" -DLSTM_FAST_NATIVE_TESTS=ON -DLSTM_FAST_WERROR=ON "${options[@]}" > /dev/null
  cmake --build "$folder" --parallel > "$folder/build.log" || { cat "$folder/build.log"; exit 1; }
  "$folder/tests/native/native_tests"
  "$folder/tests/native/fuzz" --seconds "$fuzz_seconds" --seed "$(date +%s)"
done
