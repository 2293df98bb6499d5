#include "lstm_fast/workspace.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu/environment.h"
#include "cpu/fork.h"

namespace lstm_fast {
namespace {

struct Buffer {
  void* data;
  std::size_t bytes;
};

constexpr int kKeptBuffers = 64;
constexpr int64_t kUsualMebibytes = 512;

int64_t InitialLimit() {
  return IntegerVariable("LSTM_FAST_KEEP_MIB", 0, int64_t{1} << 30).value_or(kUsualMebibytes) << 20;
}

// Released buffers, the least recently used first. Nothing here allocates: buffers are given back where no exception
// may leave, and when there is no memory.
class Cache {
 public:
  explicit Cache(int64_t limit) : limit_(limit) {}

  std::mutex& mutex() { return mutex_; }
  int64_t limit() const { return limit_; }
  int64_t bytes() const { return bytes_; }

  // The smallest buffer of at least so many bytes, and at most twice as many: a larger one would be missed. Null if
  // there is none.
  Buffer Take(std::size_t bytes) {
    int best = count_;
    for (int i = 0; i < count_; ++i) {
      const std::size_t size = buffers_[i].bytes;
      if (size >= bytes && size / 2 <= bytes && (best == count_ || size < buffers_[best].bytes)) best = i;
    }
    return best == count_ ? Buffer{nullptr, 0} : Remove(best);
  }

  // Keeps a buffer if the limit allows. Returns how many are to go for it, which it puts into `evicted`.
  int Keep(const Buffer& buffer, Buffer (&evicted)[kKeptBuffers + 1]) {
    int evictions = 0;
    if (static_cast<int64_t>(buffer.bytes) > limit_) {
      evicted[evictions++] = buffer;
      return evictions;
    }
    while (count_ == kKeptBuffers || (count_ > 0 && bytes_ + static_cast<int64_t>(buffer.bytes) > limit_)) {
      evicted[evictions++] = Remove(0);
    }
    buffers_[count_++] = buffer;
    bytes_ += static_cast<int64_t>(buffer.bytes);
    return evictions;
  }

  void SetLimit(int64_t limit) { limit_ = limit; }

  // Removes the oldest buffers until the others have at most `bytes`. Returns how many, which it puts into `evicted`.
  int Shrink(int64_t bytes, Buffer (&evicted)[kKeptBuffers + 1]) {
    int evictions = 0;
    while (bytes_ > bytes) evicted[evictions++] = Remove(0);
    return evictions;
  }

 private:
  Buffer Remove(int place) {
    const Buffer removed = buffers_[place];
    std::copy(buffers_ + place + 1, buffers_ + count_, buffers_ + place);
    --count_;
    bytes_ -= static_cast<int64_t>(removed.bytes);
    return removed;
  }

  std::mutex mutex_;
  int64_t limit_;
  Buffer buffers_[kKeptBuffers];
  int count_ = 0;
  int64_t bytes_ = 0;
};

// Never destroyed: calls may outlive static destruction.
std::atomic<Cache*> cache{nullptr};
std::mutex cache_mutex;

Cache& GetCache(int64_t (*first_limit)() = &InitialLimit) {
  if (Cache* c = cache.load(std::memory_order_acquire)) return *c;
  const std::lock_guard<std::mutex> lock(cache_mutex);
  if (!cache.load()) cache.store(new Cache(first_limit()), std::memory_order_release);
  return *cache.load();
}

int64_t Free(const Buffer* buffers, int count) {
  int64_t bytes = 0;
  for (int i = 0; i < count; ++i) {
    bytes += static_cast<int64_t>(buffers[i].bytes);
    std::free(buffers[i].data);
  }
  return bytes;
}

// Asks for large pages where a large buffer is about to be written for the first time. Advice only. It pays once per
// buffer; asked of memory that goes back to the system after each step it cost more than it gained.
void AdviseLargePages(void* data, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t kPage = std::size_t{1} << 21;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
  if (end > begin) static_cast<void>(madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE));
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

// Large sizes are rounded up to eighths of a power of two, so that batches of varying length find a buffer again.
std::size_t Rounded(std::size_t bytes) {
  std::size_t step = 64;
  while (step * 16 < bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

}  // namespace

void LockKeptBuffers() {
  cache_mutex.lock();
  if (Cache* c = cache.load()) c->mutex().lock();
}

void UnlockKeptBuffers() {
  if (Cache* c = cache.load()) c->mutex().unlock();
  cache_mutex.unlock();
}

int64_t KeptBytesLimit() {
  Cache& kept = GetCache();
  const std::lock_guard<std::mutex> lock(kept.mutex());
  return kept.limit();
}

void SetKeptBytesLimit(std::optional<int64_t> bytes) {
  const int64_t limit = bytes ? *bytes : InitialLimit();
  if (limit < 0) throw std::invalid_argument("bytes: expected at least 0; found " + std::to_string(limit));
  Cache& kept = GetCache([]() -> int64_t { return 0; });  // a bad variable does not matter where a limit is set
  Buffer evicted[kKeptBuffers + 1];
  int evictions = 0;
  {
    const std::lock_guard<std::mutex> lock(kept.mutex());
    kept.SetLimit(limit);
    evictions = kept.Shrink(limit, evicted);
  }
  Free(evicted, evictions);
}

int64_t KeptBytes() {
  Cache& kept = GetCache();
  const std::lock_guard<std::mutex> lock(kept.mutex());
  return kept.bytes();
}

int64_t Trim() {
  Cache& kept = GetCache();
  Buffer evicted[kKeptBuffers + 1];
  int evictions = 0;
  {
    const std::lock_guard<std::mutex> lock(kept.mutex());
    evictions = kept.Shrink(0, evicted);
  }
  return Free(evicted, evictions);
}

Workspace::Workspace(std::size_t bytes) : data_(nullptr), bytes_(Rounded(bytes)) {
  if (bytes_ == 0) return;
  Cache& kept = GetCache();
  {
    const std::lock_guard<std::mutex> lock(kept.mutex());
    const Buffer found = kept.Take(bytes_);
    if (found.data) {
      data_ = found.data;
      bytes_ = found.bytes;
      return;
    }
  }
  data_ = std::aligned_alloc(64, bytes_);
  if (!data_ && Trim() > 0) data_ = std::aligned_alloc(64, bytes_);
  if (!data_) throw std::bad_alloc();
  AdviseLargePages(data_, bytes_);
}

Workspace::~Workspace() {
  if (!data_) return;
  Cache& kept = GetCache();
  Buffer evicted[kKeptBuffers + 1];
  int evictions = 0;
  {
    const std::lock_guard<std::mutex> lock(kept.mutex());
    evictions = kept.Keep({data_, bytes_}, evicted);
  }
  Free(evicted, evictions);
}

}  // namespace lstm_fast
