// Replaces operator new, aligned_alloc (by the linker's --wrap) and pthread_create.
#include "faults.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace lstm_fast::testing {
namespace {

// Allocations and threads since the counting began.
std::atomic<bool> counts_allocations{false}, counts_threads{false}, fails_for_good{false};
std::atomic<int64_t> allocations_seen{0}, threads_seen{0};
std::atomic<int64_t> failing_allocation{0}, most_threads{0};

bool AllocationFails() {
  if (!counts_allocations.load()) return false;
  const int64_t number = allocations_seen.fetch_add(1) + 1, failing = failing_allocation.load();
  return number == failing || (number > failing && fails_for_good.load());
}

}  // namespace

FailingAllocation::FailingAllocation(int64_t n, bool for_good) {
  allocations_seen = 0;
  failing_allocation = n;
  fails_for_good = for_good;
  counts_allocations = true;
}
FailingAllocation::~FailingAllocation() { counts_allocations = false; }
bool FailingAllocation::failed() const { return allocations_seen >= failing_allocation; }

FailingThreads::FailingThreads(int64_t n) {
  threads_seen = 0;
  most_threads = n;
  counts_threads = true;
}
FailingThreads::~FailingThreads() { counts_threads = false; }
bool FailingThreads::failed() const { return threads_seen > most_threads; }

}  // namespace lstm_fast::testing

extern "C" {

void* __real_aligned_alloc(size_t alignment, size_t size);

// Fresh memory is NaN in every dtype, so that nothing can be right that was computed from it.
__attribute__((visibility("default"))) void* __wrap_aligned_alloc(size_t alignment, size_t size) {
  if (lstm_fast::testing::AllocationFails()) return nullptr;
  void* memory = __real_aligned_alloc(alignment, size);
  if (memory) std::memset(memory, 0xff, size);
  return memory;
}

__attribute__((visibility("default"))) int pthread_create(pthread_t* thread, const pthread_attr_t* attributes,
                                                          void* (*function)(void*), void* argument) {
  using namespace lstm_fast::testing;
  if (counts_threads.load() && threads_seen.fetch_add(1) + 1 > most_threads.load()) return EAGAIN;
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto next = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  return next(thread, attributes, function, argument);
}

}  // extern "C"

void* operator new(size_t size) {
  void* memory = lstm_fast::testing::AllocationFails() ? nullptr : std::malloc(size > 0 ? size : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void* operator new(size_t size, std::align_val_t alignment) {
  const auto unit = static_cast<size_t>(alignment);
  void* memory =
      lstm_fast::testing::AllocationFails() ? nullptr : __real_aligned_alloc(unit, (size + unit - 1) / unit * unit);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void* operator new[](size_t size) { return operator new(size); }
void* operator new[](size_t size, std::align_val_t alignment) { return operator new(size, alignment); }
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return lstm_fast::testing::AllocationFails() ? nullptr : std::malloc(size > 0 ? size : 1);
}
void* operator new[](size_t size, const std::nothrow_t& tag) noexcept { return operator new(size, tag); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
void operator delete[](void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
