// Where threads come from. A kernel's work is a list of independent tasks; who runs them is the caller's choice.
#ifndef LSTM_FAST_PARALLEL_H_
#define LSTM_FAST_PARALLEL_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <type_traits>

#include "lstm_fast/lstm.h"
#include "lstm_fast/subnormals.h"

namespace lstm_fast {

class Parallel {
 public:
  virtual ~Parallel() = default;

  virtual int threads() const = 0;

  // Calls task(context, i) once for every i in [0, count), in any order and on any thread, and returns when all calls
  // have returned. Tasks must not throw.
  virtual void Run(int64_t count, void (*task)(void* context, int64_t index), void* context) = 0;

  // Calls task(context, rank, size) once for every rank in [0, size), all at the same time and each on a thread of its
  // own, so that they may wait for each other; returns when all have returned. 1 <= size <= wanted: as many threads as
  // have come when the caller's patience ends, or all that can come have. Tasks must not throw.
  virtual void RunTogether(int wanted, std::chrono::microseconds patience,
                           void (*task)(void* context, int rank, int size), void* context) = 0;

  // The same with a function object. Subnormal numbers are zero in it, in any thread.
  template <class Function>
  void For(int64_t count, Function&& function) {
    Run(
        count,
        [](void* context, int64_t index) {
          const SubnormalsAreZero scope;
          (*static_cast<std::remove_reference_t<Function>*>(context))(index);
        },
        &function);
  }

  template <class Function>
  void Together(int wanted, std::chrono::microseconds patience, Function&& function) {
    RunTogether(
        wanted, patience,
        [](void* context, int rank, int size) {
          const SubnormalsAreZero scope;
          (*static_cast<std::remove_reference_t<Function>*>(context))(rank, size);
        },
        &function);
  }
};

// The package's own threads, shared by every caller of the process. They are started on first use, sleep when idle
// (after some microseconds on the lookout for another task), and are started anew in a child after fork(). Several
// callers may run at once: together they keep at most ThreadCount() threads busy, besides the callers themselves.
// ThreadCount() is LSTM_FAST_NUM_THREADS, or else OMP_NUM_THREADS, or else the number of processors that the process's
// first thread might use when this library was loaded, or fewer where a control group limits processor time
// (containers). The threads run on these, whatever the thread is bound to whose call starts them; where the system
// wakes them up on the processor of their caller, on the others.
LSTM_FAST_EXPORT Parallel& OwnThreads();

// Throw std::invalid_argument for a count that is not from 1 to 4096, and for such an LSTM_FAST_NUM_THREADS.
LSTM_FAST_EXPORT int ThreadCount();
// What decided: the name of the variable, "processors", "CPU quota", "lstm_fast.config" after SetThreadCount(), or the
// source of FollowThreadCount().
LSTM_FAST_EXPORT const char* ThreadCountSource();
// Without a count: the initial one again, with the environment as it is now.
LSTM_FAST_EXPORT void SetThreadCount(std::optional<int> count);
// Says how many threads the caller's framework uses; 0: that is not known. Where that is fewer it counts, unless
// LSTM_FAST_NUM_THREADS or SetThreadCount() has said otherwise. `source` is its name, and stays with the pool.
LSTM_FAST_EXPORT void FollowThreadCount(int count, const char* source);

}  // namespace lstm_fast

#endif  // LSTM_FAST_PARALLEL_H_
