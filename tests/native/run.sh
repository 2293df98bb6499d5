#!/usr/bin/env bash
# Builds the native tests in several ways and runs them: bash tests/native/run.sh [--fuzz-seconds N] [SANITIZERS...]
# SANITIZERS: address,undefined and thread and none, which are the default. CMake and a C++ compiler are enough.
# In the place of a sanitizer: aarch64, a cross build whose tests of the arithmetic QEMU runs, and clang, which compiles
# the kernels only. Of both, the inner loops are looked at. Without the programs for them, they say so and do nothing.
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
aarch64_tests=(every_isa_runs_its_own_code parity_float32 parity_float64 parity_float16 parity_bfloat16
  parity_option_by_option a_misaligned_array_gives_the_same_bits how_x_lies_in_memory_does_not_matter
  masked_timesteps_are_never_read bits_on_threads_of_the_callers_own)

# Whether all of some programs are there; says which is not.
have() {
  local program
  for program; do
    command -v "$program" > /dev/null || { echo "Left out: $program is not installed."; return 1; }
  done
}

# Builds a target in the folder build/NAME with options of CMake.
build() {
  local folder=build/$1 target=$2
  shift 2
  cmake -S . -B "$folder" -DLSTM_FAST_NATIVE_TESTS=ON -DLSTM_FAST_PYTHON=OFF -DLSTM_FAST_WERROR=ON \
    -DCMAKE_BUILD_TYPE=Release -DLSTM_FAST_SANITIZE= "$@" > /dev/null
  cmake --build "$folder" --parallel "$(nproc)" --target "$target" > "$folder/build.log" 2>&1 ||
    { cat "$folder/build.log"; return 1; }
}

kernels=CMakeFiles/kernels.dir/csrc/cpu

aarch64() {
  # Debian, Ubuntu: g++-aarch64-linux-gnu, qemu-user-static
  have aarch64-linux-gnu-g++ aarch64-linux-gnu-objdump qemu-aarch64-static python3 || return 0
  build native-aarch64 native_tests -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
  python3 tests/inner_loops.py --objdump aarch64-linux-gnu-objdump "build/native-aarch64/$kernels/neon.cc.o"
  # Emulation is slow: only what depends on the arithmetic. It cannot start the program from within it, so each test is
  # started from here.
  local test failed=0
  for test in "${aarch64_tests[@]}"; do
    qemu-aarch64-static -L /usr/aarch64-linux-gnu build/native-aarch64/tests/native/native_tests --alone "$test" || failed=1
  done
  return "$failed"
}

clang() {
  have clang++ objdump python3 || return 0
  build native-clang kernels -DCMAKE_CXX_COMPILER=clang++
  local file files=()
  for file in build/native-clang/$kernels/{avx2,avx512}.cc.o; do [ ! -f "$file" ] || files+=("$file"); done
  [ ${#files[@]} -eq 0 ] || python3 tests/inner_loops.py "${files[@]}"
}

for sanitizers; do
  case $sanitizers in
    aarch64 | clang)
      printf '\nNative kernels: %s\n' "$sanitizers"
      "$sanitizers"
      continue
      ;;
  esac
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
