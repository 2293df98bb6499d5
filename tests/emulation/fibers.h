// Fibers: stacks of their own that take turns on the thread of the processor that made them.
#ifndef LSTM_FAST_TESTS_EMULATION_FIBERS_H_
#define LSTM_FAST_TESTS_EMULATION_FIBERS_H_

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <vector>

namespace lstm_fast::emulation {

// Memory for stacks, each below a page that may not be touched. Kept from one launch to the next.
class Stacks {
 public:
  static constexpr std::size_t kBytes = std::size_t{64} << 10;

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks();

  // The lowest byte of stack `index`.
  unsigned char* Get(std::size_t index);

 private:
  std::vector<unsigned char*> slabs_;
};

class Fiber {
 public:
  // Calls `entry` when first switched to. It must not return, but switch to another fiber for good.
  void Prepare(unsigned char* stack, std::size_t index, void (*entry)());
  // Goes on with `next` until something switches back. A Fiber that was not prepared stands for the caller's own stack.
  void SwitchTo(Fiber& next);

  // What `entry` has to do first; `from` is the fiber that it is the first to be switched to from, if not null.
  static void Begin(Fiber* from);

 private:
  ucontext_t context_;
  jmp_buf jump_;
  bool started_ = true;
  const void* stack_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_FIBERS_H_
