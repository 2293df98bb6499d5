// Runs the kernels on a case, into guarded arrays, and compares what they wrote.
#ifndef LSTM_FAST_TESTS_NATIVE_RUN_H_
#define LSTM_FAST_TESTS_NATIVE_RUN_H_

#include <functional>
#include <string>
#include <vector>

#include "case.h"
#include "guarded.h"
#include "lstm_fast/parallel.h"
#include "reference.h"

namespace lstm_fast::testing {

// All outputs of both passes.
class Outputs {
 public:
  explicit Outputs(const Case& problem);

  // Both passes, of which each throws what the kernels throw. Whatever was written before is forgotten.
  void Run(const Case& problem, Parallel& parallel = OwnThreads(), const std::function<void()>& between = [] {});

  // That nothing outside of the arrays was written, and everything inside.
  void ExpectWhole() const;

  // That values agree with the exact ones within the tolerances, and are not finite just where those are not.
  void ExpectClose(const Case& problem, const Solution& exact) const;

  // That all bytes are the same; `row`, if any, is left out, and with it the gradients of the weights, to which every
  // row contributes. The reserve, which padding leaves unwritten, is not compared.
  void ExpectSameBits(const Outputs& other, const std::string& when, int64_t but_row = -1) const;

  // The same of what the forward pass puts out.
  void ExpectSameForwardBits(const Outputs& other, const std::string& when) const;

  int64_t reserve_bytes() const { return reserve_.bytes(); }
  // At the end of the reserve, how many bytes nobody has written.
  int64_t untouched_reserve_bytes() const;

 private:
  struct Named {
    std::string name;
    Guarded array;
    bool by_row;      // [B, ...]
    bool of_weights;  // a gradient to which every row contributes
    // Which part of the exact solution and of the tolerances it is.
    std::function<const std::vector<double>&(const Solution&)> exact;
    std::function<double(const struct Tolerance&)> tolerance;
  };

  const Options options_;
  Guarded reserve_;
  std::vector<Named> arrays_;
  ForwardOutput forward_{};
  BackwardOutput backward_{};
};

// Runs the case and expects what must hold for every one; returns what was written. The reference may be shared by
// cases that differ in what does not change the result.
Outputs RunAndCheck(const Case& problem, const Solution& exact);

// The same for problems with each number that is not finite, in each place where there may be one.
void CheckSpoiled(Options options);

// How many timesteps the kernels have left out so far in this process, as they repeat others.
int64_t SkippedTimesteps();
int64_t TimestepsWithoutGradient();  // of backward passes

// Options of a run that are the library's: put back at the end of the scope.
class Settings {
 public:
  Settings();
  ~Settings();

 private:
  std::string isa_;
  int threads_;
  bool skips_repeats_;
};

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_RUN_H_
