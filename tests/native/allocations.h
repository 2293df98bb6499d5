// Memory that runs out where a test wants it to: the process's operator new and the library's aligned_alloc.
#ifndef LSTM_FAST_TESTS_NATIVE_ALLOCATIONS_H_
#define LSTM_FAST_TESTS_NATIVE_ALLOCATIONS_H_

#include <cstdint>

namespace lstm_fast::test {

// While this lives, the nth allocation of all threads fails, and every later one if `for_good`. 0: none, it only
// counts.
class FailingAllocation {
 public:
  explicit FailingAllocation(int64_t nth, bool for_good = false);
  ~FailingAllocation();
  int64_t count() const;  // allocations so far, that one included
};

}  // namespace lstm_fast::test

#endif  // LSTM_FAST_TESTS_NATIVE_ALLOCATIONS_H_
