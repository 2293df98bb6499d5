#undef _FORTIFY_SOURCE  // its longjmp takes a jump to another stack for an error
#include "fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace lstm_fast::emulation {
namespace {

// AddressSanitizer has to know which stack is in use.
void AnnounceSwitch([[maybe_unused]] void** save, [[maybe_unused]] const void* stack,
                    [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(save, stack, bytes);
#endif
}
void AnnounceArrival([[maybe_unused]] void* saved, [[maybe_unused]] const void** stack,
                     [[maybe_unused]] std::size_t* bytes) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(saved, stack, bytes);
#endif
}

std::size_t PageBytes() { return static_cast<std::size_t>(sysconf(_SC_PAGESIZE)); }

// A launch that was given up leaves its frames behind.
void AnnounceEmpty([[maybe_unused]] const void* stack, [[maybe_unused]] std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(stack, bytes);
#endif
}

}  // namespace

Stacks::~Stacks() {
  for (unsigned char* slab : slabs_) munmap(slab, PageBytes() + kBytes);
}

unsigned char* Stacks::Get(std::size_t index) {
  while (slabs_.size() <= index) {
    void* slab = mmap(nullptr, PageBytes() + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slab == MAP_FAILED) throw std::bad_alloc();
    mprotect(slab, PageBytes(), PROT_NONE);
    slabs_.push_back(static_cast<unsigned char*>(slab));
  }
  return slabs_[index] + PageBytes();
}

void Fiber::Prepare(unsigned char* stack, std::size_t index, void (*entry)()) {
  AnnounceEmpty(stack, Stacks::kBytes);
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  // Stacks end at different places in their pages, or all would use the same few sets of the cache.
  context_.uc_stack.ss_size = Stacks::kBytes - index % 16 * 256;
  stack_ = stack;
  bytes_ = context_.uc_stack.ss_size;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
  started_ = false;
}

void Fiber::Begin(Fiber* from) {
  if (from == nullptr) {
    AnnounceArrival(nullptr, nullptr, nullptr);
  } else {
    AnnounceArrival(nullptr, &from->stack_, &from->bytes_);
  }
}

// setcontext() asks the kernel for the signal mask each time; _longjmp() does not.
void Fiber::SwitchTo(Fiber& next) {
  void* saved = nullptr;
  AnnounceSwitch(&saved, next.stack_, next.bytes_);
  if (_setjmp(jump_) != 0) {
    AnnounceArrival(saved, nullptr, nullptr);
    return;
  }
  if (next.started_) _longjmp(next.jump_, 1);
  next.started_ = true;
  setcontext(&next.context_);
}

}  // namespace lstm_fast::emulation
