// What a process runs out of: memory and threads, exactly when a test says so.
#ifndef LSTM_FAST_TESTS_NATIVE_FAULTS_H_
#define LSTM_FAST_TESTS_NATIVE_FAULTS_H_

#include <cstdint>

namespace lstm_fast::testing {

// While it exists, the n-th allocation from now on fails, on whichever thread, counted from 1: operator new and what
// the library asks the C library for. And all that follow, if `for_good`.
class FailingAllocation {
 public:
  explicit FailingAllocation(int64_t n, bool for_good = false);
  ~FailingAllocation();

  bool failed() const;
};

// While it exists, the first `n` threads can be started, and no more.
class FailingThreads {
 public:
  explicit FailingThreads(int64_t n);
  ~FailingThreads();

  bool failed() const;
};

}  // namespace lstm_fast::testing

#endif  // LSTM_FAST_TESTS_NATIVE_FAULTS_H_
