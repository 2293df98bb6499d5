// Which instruction set runs: the best available one, or the one that is forced.
#include "lstm_fast/isa.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/environment.h"
#include "cpu/kernel.h"

namespace lstm_fast {
namespace {

struct Candidate {
  const Isa* isa;
  bool (*available)();
};

const std::vector<Candidate>& Candidates() {  // slowest first
  static const std::vector<Candidate> candidates = {
      {&kGenericIsa, [] { return true; }},
#if defined(LSTM_FAST_HAVE_X86)
      {&kAvx2Isa, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }},
      {&kAvx512Isa,
       [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
       }},
#endif
#if defined(LSTM_FAST_HAVE_NEON)
      {&kNeonIsa, [] { return true; }},  // part of AArch64
#endif
  };
  return candidates;
}

// Made when the library is loaded: a fork() from another thread in the middle of it would leave it unmade in the child.
[[maybe_unused]] const auto& at_load = Candidates();

std::string Join(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ", ") + name;
  return joined;
}

const Isa& Find(const std::string& name, const std::string& argument) {
  for (const Candidate& candidate : Candidates()) {
    if (candidate.isa->name != name) continue;
    if (candidate.available()) return *candidate.isa;
    throw std::invalid_argument(argument + ": this processor does not run '" + name +
                                "'; available: " + Join(AvailableIsas()));
  }
  throw std::invalid_argument(argument + ": expected one of " + Join(CompiledIsas()) + "; found '" + name + "'");
}

const Isa& InitialIsa() { return Find(Variable("LSTM_FAST_ISA").value_or(AvailableIsas().back()), "LSTM_FAST_ISA"); }

std::atomic<const Isa*> active_isa{nullptr};

}  // namespace

const Isa& GetActiveIsa() {
  const Isa* isa = active_isa.load(std::memory_order_acquire);
  if (!isa) {
    isa = &InitialIsa();
    active_isa.store(isa, std::memory_order_release);
  }
  return *isa;
}

int64_t MostPaddedUnits(DType dtype, int64_t units) {
  int64_t most = 0;
  for (const Candidate& candidate : Candidates()) {
    const int64_t lanes = dtype == DType::kFloat64 ? candidate.isa->float64->lanes : candidate.isa->float32->lanes;
    most = std::max(most, CeilDivide(units, lanes) * lanes);
  }
  return most;
}

std::vector<std::string> CompiledIsas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : Candidates()) names.emplace_back(candidate.isa->name);
  return names;
}

std::vector<std::string> AvailableIsas() {
  std::vector<std::string> names;
  for (const Candidate& candidate : Candidates()) {
    if (candidate.available()) names.emplace_back(candidate.isa->name);
  }
  return names;
}

std::string ActiveIsa() { return GetActiveIsa().name; }

void SetIsa(const std::optional<std::string>& name) {
  active_isa.store(name ? &Find(*name, "isa") : &InitialIsa(), std::memory_order_release);
}

void Sigmoid(DType dtype, const void* x, void* y, int64_t count) {
  dtype == DType::kFloat64
      ? GetActiveIsa().float64->sigmoid(static_cast<const double*>(x), static_cast<double*>(y), count)
      : GetActiveIsa().float32->sigmoid(static_cast<const float*>(x), static_cast<float*>(y), count);
}

void Tanh(DType dtype, const void* x, void* y, int64_t count) {
  dtype == DType::kFloat64 ? GetActiveIsa().float64->tanh(static_cast<const double*>(x), static_cast<double*>(y), count)
                           : GetActiveIsa().float32->tanh(static_cast<const float*>(x), static_cast<float*>(y), count);
}

}  // namespace lstm_fast
