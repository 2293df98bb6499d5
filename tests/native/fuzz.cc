// Cases from bytes: shapes, strides, dtypes, options, bytes of masks, NaN and infinity, threads, instruction sets,
// allocations that fail, forks. Each must agree with the reference, and give the same bits whatever is asked besides.
//
//   fuzz [--seconds N] [--seed N]   random bytes until the time is over; a last line counts what was done
//   fuzz --case HEX                 one case again
//
// Compiled by clang with -fsanitize=fuzzer, the bytes are libFuzzer's, which follows the branches of the code.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "check.h"
#include "faults.h"
#include "lstm_fast/isa.h"
#include "lstm_fast/workspace.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

struct Counts {
  int64_t cases = 0, passes = 0, failing_allocations = 0, forks = 0;
} counts;

// Zeros when there are no more.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  int64_t Next() { return next_ < size_ ? data_[next_++] : 0; }
  int64_t Below(int64_t limit) { return Next() % limit; }
  bool OneOf(int64_t count) { return Below(count) == 0; }
  template <class Enum>
  Enum Any() {
    return static_cast<Enum>(Below(static_cast<int64_t>(Enum::kCount)));
  }

 private:
  const uint8_t* data_;
  size_t size_, next_ = 0;
};

// Up to `most`; every other size is one where the kernels change what they do.
int64_t Size(Bytes& bytes, int64_t least, int64_t most) {
  constexpr std::array<int64_t, 16> kEdges = {0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40};
  const int64_t byte = bytes.Next();
  const int64_t size = byte % 2 ? kEdges[static_cast<size_t>(byte / 2 % 16)] : byte / 2;
  return least + size % (most - least + 1);
}

struct Trial {
  Options options;
  std::string isa;
  int threads, other_threads;
  int64_t failing;  // the allocation that fails; 0 for none
  bool trims, forks;
};

Trial Decode(Bytes bytes) {
  Trial trial;
  Options& o = trial.options;
  o.dtype = static_cast<DType>(bytes.Below(4));
  const std::vector<std::string> isas = AvailableIsas();
  trial.isa = isas[static_cast<size_t>(bytes.Next()) % isas.size()];
  trial.threads = 1 + static_cast<int>(bytes.Below(5));
  trial.other_threads = 1 + static_cast<int>(bytes.Below(8));
  trial.failing = bytes.OneOf(2) ? 1 + bytes.Below(40) : 0;
  trial.trims = bytes.OneOf(4);
  trial.forks = bytes.OneOf(32) && !kUnderTsan;
  o.batch = Size(bytes, 0, 20);
  o.time = Size(bytes, 0, 20);
  o.input = Size(bytes, 0, 40);
  o.units = Size(bytes, 1, 40);
  const bool large = bytes.OneOf(32);  // enough for threads to share a tile
  if (large) {
    o.batch = 1 + o.batch % 4;
    o.units = 65 + o.units % 16;
    o.time = 20 + o.time;
  }
  if (bytes.OneOf(16)) {  // long enough for timesteps to be left out
    o.batch = o.batch % 4;
    o.time = 160 + 8 * o.time;
    o.input %= 8;
    if (!large) o.units = 1 + o.units % 20;
    o.repeated = bytes.Any<Repeated>();
    o.vanishing = bytes.OneOf(2);
  }
  o.directions = 1 + static_cast<int>(bytes.Below(2));
  o.projected = bytes.OneOf(4);
  o.reserve = static_cast<Reserve>(bytes.Below(3));
  const int64_t flags = bytes.Next(), more_flags = bytes.Next(), rare = bytes.Next();
  o.go_backwards = flags & 1;
  o.return_sequences = flags & 2;
  o.zero_output_for_mask = flags & 4;
  o.reserve_by_row = flags & 8;
  o.bias = flags & 16;
  o.h0 = flags & 32;
  o.c0 = flags & 64;
  o.nan_in_padding = flags & 128;
  o.input_dropout = (more_flags & 3) == 0;
  o.recurrent_dropout = (more_flags & 12) == 0;
  o.dh_n = more_flags & 16;
  o.dc_n = more_flags & 32;
  o.dy = more_flags & 192;
  o.dx = (rare & 3) != 0;
  o.dweights = (rare & 12) != 0;
  o.dbias = (rare & 48) != 0;
  o.dstates = (rare & 192) != 0;
  o.layout = bytes.Any<Layout>();
  o.shift = static_cast<int>(bytes.Below(4));
  o.masked = bytes.Any<Masked>();
  o.real_byte = static_cast<uint8_t>(bytes.Next());
  if (bytes.OneOf(4)) {
    o.spoiled = bytes.Any<Spoiled>();
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    o.spoiler = bytes.OneOf(2) ? std::nan("") : bytes.OneOf(2) ? kInfinity : -kInfinity;
  }
  o.seed = static_cast<uint64_t>(bytes.Next() * 256 + bytes.Next());
  return trial;
}

Outputs RunCounted(const Case& problem, Outputs outputs) {
  outputs.Run(problem);
  counts.passes += 2;
  return outputs;
}

// In the child of a fork(), whose threads are its own.
void RunInChild(const Case& problem, const Outputs& expected) {
  ++counts.forks;
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    try {
      Outputs outputs(problem);
      outputs.Run(problem);
      outputs.ExpectSameBits(expected, "in a child");
    } catch (const std::exception&) {
      _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  Expect(status == 0, "a child has other bits, crashes or hangs: status " + std::to_string(status));
}

void Try(const uint8_t* data, size_t size) {
  const Trial trial = Decode(Bytes(data, size));
  ++counts.cases;
  SetIsa(trial.isa);
  SetThreadCount(trial.threads);
  if (trial.trims) Trim();  // what a call computes with is then new, and NaN
  const Case problem(trial.options);
  const Outputs expected = RunCounted(problem, Outputs(problem));
  expected.ExpectWhole();
  expected.ExpectClose(problem, Solve(problem));

  SetThreadCount(trial.other_threads);
  RunCounted(problem, Outputs(problem)).ExpectSameBits(expected, "with other threads");
  if (trial.options.real_byte != 1 && trial.options.masked != Masked::kNo) {
    Options ones = trial.options;
    ones.real_byte = 1;
    const Case same(ones);
    RunCounted(same, Outputs(same)).ExpectSameBits(expected, "where real is 1");
  }
  if (problem.SpoiledRow() >= 0) {
    Options finite = trial.options;
    finite.spoiled = Spoiled::kNo;
    const Case clean(finite);
    RunCounted(clean, Outputs(clean)).ExpectSameBits(expected, "in other rows", problem.SpoiledRow());
  }
  if (trial.failing > 0) {
    if (trial.trims) Trim();
    Outputs outputs(problem);
    bool done = false;
    try {
      const FailingAllocation failing(trial.failing);
      outputs.Run(problem);
      done = true;
      counts.failing_allocations += failing.failed();  // which it could do without
    } catch (const std::bad_alloc&) {
      ++counts.failing_allocations;
    }
    if (done) outputs.ExpectSameBits(expected, "done without an allocation");
    RunCounted(problem, std::move(outputs)).ExpectSameBits(expected, "after a failing allocation");
  }
  if (trial.forks) RunInChild(problem, expected);
}

}  // namespace
}  // namespace lstm_fast::testing

#if defined(LSTM_FAST_LIBFUZZER)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    lstm_fast::testing::Try(data, size);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "FAILED: %s\n", error.what());
    std::abort();
  }
  return 0;
}

#else

// Of every sanitizer's library; null where there is none.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*function)());

namespace lstm_fast::testing {
namespace {

constexpr size_t kCaseBytes = 32;
char current[2 * kCaseBytes + 1];  // in hexadecimal

// Says which case it was when the process dies of it: no memory, no locks.
void SayCase() {
  constexpr char kText[] = "FAILED, again with: fuzz --case ";
  static_cast<void>(!write(1, kText, sizeof kText - 1));
  static_cast<void>(!write(1, current, std::strlen(current)));
  static_cast<void>(!write(1, "\n", 1));
}

void Die(int signal) {
  SayCase();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

bool Passes(const std::vector<uint8_t>& bytes) {
  for (size_t i = 0; i < bytes.size() && i < kCaseBytes; ++i) std::snprintf(current + 2 * i, 3, "%02x", bytes[i]);
  alarm(120);  // a case that hangs fails
  try {
    Try(bytes.data(), bytes.size());
    return true;
  } catch (const std::exception& error) {
    std::printf("%s\n%s\n", error.what(), Describe(Decode(Bytes(bytes.data(), bytes.size())).options).c_str());
    std::fflush(stdout);
    SayCase();
    return false;
  }
}

int Main(int count, char** arguments) {
  double seconds = 30;
  uint64_t seed = 1;
  std::vector<uint8_t> bytes;
  for (int i = 1; i < count; i += 2) {
    const std::string option = arguments[i], value = i + 1 < count ? arguments[i + 1] : "";
    if (option == "--seconds" && !value.empty()) {
      seconds = std::atof(value.c_str());
    } else if (option == "--seed" && !value.empty()) {
      seed = std::strtoull(value.c_str(), nullptr, 10);
    } else if (option == "--case" && !value.empty()) {
      for (size_t at = 0; at + 1 < value.size() && bytes.size() < kCaseBytes; at += 2) {
        bytes.push_back(static_cast<uint8_t>(std::strtoul(value.substr(at, 2).c_str(), nullptr, 16)));
      }
    } else {
      std::fprintf(stderr, "expected --seconds N, --seed N or --case HEX; found %s %s\n", option.c_str(),
                   value.c_str());
      return 2;
    }
  }
  for (const int signal : {SIGABRT, SIGALRM, SIGFPE, SIGILL}) std::signal(signal, Die);
  if (__sanitizer_set_death_callback) {
    __sanitizer_set_death_callback(SayCase);
  } else {
    std::signal(SIGSEGV, Die);
    std::signal(SIGBUS, Die);
  }

  if (!bytes.empty()) return Passes(bytes) ? 0 : 1;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  Random random(seed);
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  bool passes = true;
  while (passes && std::chrono::steady_clock::now() < end) {
    bytes.clear();
    for (size_t i = 0; i < kCaseBytes; ++i) bytes.push_back(static_cast<uint8_t>(random.Bits() >> 56));
    passes = Passes(bytes);
  }
  std::printf("%lld cases, %lld passes, %lld failing allocations, %lld forks: %s\n",
              static_cast<long long>(counts.cases), static_cast<long long>(counts.passes),
              static_cast<long long>(counts.failing_allocations), static_cast<long long>(counts.forks),
              passes ? "passed" : "FAILED");
  return passes ? 0 : 1;
}

}  // namespace
}  // namespace lstm_fast::testing

int main(int count, char** arguments) { return lstm_fast::testing::Main(count, arguments); }

#endif
