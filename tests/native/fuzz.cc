// Problems from random bytes, until the time is over: fuzz [--seconds N] [--seed N], or fuzz --case HEX for one that
// failed. Compiled by clang with -fsanitize=fuzzer, the bytes come from libFuzzer, which follows the code's branches.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "allocations.h"
#include "lstm_fast/workspace.h"
#include "run.h"
#include "test.h"

namespace lstm_fast::test {
namespace {

constexpr Sizes kMost = {20, 20, 40, 40};

struct Counts {
  int64_t problems = 0, passes = 0, failed_allocations = 0, forks = 0;
} counts;

// Throws Failure where the library is wrong.
void Try(const std::vector<uint8_t>& raw) {
  Bytes bytes(raw);
  const bool forks = bytes.Next() == 7 && !LSTM_FAST_TSAN;
  const int64_t failing = bytes.Next() % 2 ? 1 + bytes.Next() % 64 : 0;
  const Case c = MakeCase(bytes, kMost);
  ++counts.problems;
  const Outputs outputs = Run(c);
  counts.passes += 2;
  Compare(c, outputs);
  if (failing > 0) {
    try {
      const FailingAllocation failure(failing);
      Run(c);
    } catch (const std::bad_alloc&) {
      ++counts.failed_allocations;
    }
    Check(Run(c, 0xff) == outputs, "other bits after an allocation failed");
    counts.passes += 4;
  }
  if (forks) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      _exit(Run(c) == outputs ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    Check(status == 0, "a forked child hung or computed something else");
    ++counts.forks;
  }
}

}  // namespace
}  // namespace lstm_fast::test

#if defined(LSTM_FAST_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  lstm_fast::test::Try({data, data + size});
  return 0;
}

#else

namespace lstm_fast::test {
namespace {

std::vector<uint8_t> FromHex(const char* text) {
  std::vector<uint8_t> bytes;
  for (unsigned byte = 0; std::sscanf(text, "%2x", &byte) == 1; text += 2) bytes.push_back(static_cast<uint8_t>(byte));
  return bytes;
}

// Tries a problem in a process of its own only when it is tried again: a crash is then told by the line before it.
bool Passes(const std::vector<uint8_t>& bytes) {
  try {
    Try(bytes);
    return true;
  } catch (const std::exception& error) {
    std::string hex;
    for (const uint8_t byte : bytes) {
      char digits[3];
      std::snprintf(digits, sizeof digits, "%02x", byte);
      hex += digits;
    }
    std::printf("FAILED: %s\nagain: fuzz --case %s\n", error.what(), hex.c_str());
    return false;
  }
}

}  // namespace
}  // namespace lstm_fast::test

int main(int count, char** arguments) {
  using namespace lstm_fast::test;
  double seconds = 30;
  uint64_t seed = 1;
  for (int i = 1; i < count; i += 2) {
    const char* value = i + 1 < count ? arguments[i + 1] : "";
    if (!std::strcmp(arguments[i], "--seconds") && *value) {
      seconds = std::atof(value);
    } else if (!std::strcmp(arguments[i], "--seed") && *value) {
      seed = std::strtoull(value, nullptr, 10);
    } else if (!std::strcmp(arguments[i], "--case") && *value) {
      return Passes(FromHex(value)) ? 0 : 1;
    } else {
      std::fprintf(stderr, "expected --seconds N, --seed N or --case HEX; found %s %s\n", arguments[i], value);
      return 2;
    }
  }
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  int failed = 0;
  for (uint64_t n = 0; Clock::now() < end && failed == 0; ++n) failed += !Passes(BytesOfSeed(seed * 1'000'003 + n));
  std::printf("%lld problems, %lld passes, %lld failed allocations, %lld forks, %d failed\n",
              static_cast<long long>(counts.problems), static_cast<long long>(counts.passes),
              static_cast<long long>(counts.failed_allocations), static_cast<long long>(counts.forks), failed);
  return failed > 0;
}

#endif
