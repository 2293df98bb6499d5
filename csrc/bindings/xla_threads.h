// XLA's threads, for the duration of one call of a handler.
#ifndef LSTM_FAST_BINDINGS_XLA_THREADS_H_
#define LSTM_FAST_BINDINGS_XLA_THREADS_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "bindings/xla_ffi.h"
#include "lstm_fast/parallel.h"

namespace lstm_fast::xla {

// Measured against OwnThreads() under jax.jit with two threads: 0.95 to 1.02 times their time, forward and training, at
// B,T,D,H = 64,256,64,64 and 1,100,128,128. XLA's are used because they are those that the rest of the program runs on.
class XlaThreads final : public Parallel {
 public:
  XlaThreads(const Api* api, Context* context);

  // Whether the call offers threads at all.
  bool available() const { return threads_ > 0; }

  int threads() const override { return threads_; }
  void Run(int64_t count, void (*task)(void* context, int64_t index), void* context) override;
  void RunTogether(int wanted, std::chrono::microseconds patience, void (*task)(void* context, int rank, int size),
                   void* context) override;

 private:
  class Job;
  // Returns how many helpers it could be offered to.
  int Offer(const std::shared_ptr<Job>& job, int helpers);

  const Api* api_;
  Context* context_;
  int threads_ = 0;
};

}  // namespace lstm_fast::xla

#endif  // LSTM_FAST_BINDINGS_XLA_THREADS_H_
