#include "allocations.h"

#include <atomic>
#include <cstdlib>
#include <new>

namespace lstm_fast::test {
namespace {

std::atomic<bool> armed{false}, all_later{false};
std::atomic<int64_t> allocations{0}, failing{0};

bool Fails() {
  if (!armed.load(std::memory_order_relaxed)) return false;
  const int64_t n = ++allocations, nth = failing.load();
  return nth > 0 && (n == nth || (n > nth && all_later.load()));
}

}  // namespace

FailingAllocation::FailingAllocation(int64_t nth, bool for_good) {
  allocations = 0;
  failing = nth;
  all_later = for_good;
  armed = true;
}

FailingAllocation::~FailingAllocation() { armed = false; }

int64_t FailingAllocation::count() const { return allocations; }

}  // namespace lstm_fast::test

// By the linker's option --wrap, what the library calls.
extern "C" void* __real_aligned_alloc(size_t alignment, size_t bytes);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t bytes);
extern "C" void* __wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return lstm_fast::test::Fails() ? nullptr : __real_aligned_alloc(alignment, bytes);
}

void* operator new(size_t bytes) {
  void* data = lstm_fast::test::Fails() ? nullptr : std::malloc(bytes ? bytes : 1);
  if (!data) throw std::bad_alloc();
  return data;
}
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, size_t) noexcept { std::free(data); }
