#include "cpu/processors.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cerrno>
#include <thread>
#include <vector>

#include "lstm_fast/parallel.h"

namespace lstm_fast {
namespace {

#if defined(__linux__)
// A set of processors of any size: cpu_set_t ends at 1,024.
class ProcessorSet {
 public:
  static constexpr int kMost = 1 << 20;

  explicit ProcessorSet(int size) : words_(CPU_ALLOC_SIZE(size) / sizeof(cpu_set_t) + 1) {}

  cpu_set_t* data() { return words_.data(); }
  size_t bytes() const { return words_.size() * sizeof(cpu_set_t); }
  int count() { return CPU_COUNT_S(bytes(), data()); }
  void Add(int processor) { CPU_SET_S(static_cast<size_t>(processor), bytes(), data()); }
  // Returns whether it was in the set.
  bool Remove(int processor) {
    if (processor < 0 || !CPU_ISSET_S(static_cast<size_t>(processor), bytes(), data())) return false;
    CPU_CLR_S(static_cast<size_t>(processor), bytes(), data());
    return true;
  }

 private:
  std::vector<cpu_set_t> words_;  // zeros
};

// Those of the process's first thread, which is not the one that happens to call: that may be bound to a single one.
ProcessorSet OfThisProcess() {
  for (int size = CPU_SETSIZE; size <= ProcessorSet::kMost; size *= 2) {
    ProcessorSet set(size);
    if (sched_getaffinity(getpid(), set.bytes(), set.data()) == 0) return set;
    if (errno != EINVAL) break;  // EINVAL: the system has more of them than the set
  }
  return ProcessorSet(1);
}

// Read when the library is loaded, since threads may be bound later on.
ProcessorSet& Processors() {
  static auto* const set = new ProcessorSet(OfThisProcess());  // never destroyed: helpers outlive static destruction
  return *set;
}
[[maybe_unused]] const ProcessorSet& at_load = Processors();

// Copies to change, made at once as well: threads that need them have nobody to tell that memory has run out.
struct Copies {
  ProcessorSet wanted, found;
};
Copies& ForHelpers() {
  static auto* const copies = new Copies{Processors(), Processors()};
  return *copies;
}
[[maybe_unused]] const Copies& for_helpers_at_load = ForHelpers();
#endif

}  // namespace

int ProcessorCount() {
#if defined(__linux__)
  if (const int count = Processors().count()) return count;
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int CurrentProcessor() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

void RunOnProcessorsBut(int processor, std::thread::native_handle_type thread) {
#if defined(__linux__)
  ProcessorSet& set = ForHelpers().wanted;
  const bool removed = set.Remove(processor);
  if (set.count()) static_cast<void>(pthread_setaffinity_np(thread, set.bytes(), set.data()));
  if (removed) set.Add(processor);
#else
  static_cast<void>(processor);
  static_cast<void>(thread);
#endif
}

bool RunsOnProcessorsBut(int processor, std::thread::native_handle_type thread) {
#if defined(__linux__)
  auto& [set, found] = ForHelpers();
  const bool removed = set.Remove(processor);
  const bool same = pthread_getaffinity_np(thread, found.bytes(), found.data()) == 0 &&
                    CPU_EQUAL_S(set.bytes(), set.data(), found.data());
  if (removed) set.Add(processor);
  return same;
#else
  static_cast<void>(processor);
  static_cast<void>(thread);
  return true;
#endif
}

}  // namespace lstm_fast
