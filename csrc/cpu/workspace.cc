#include "lstm_fast/workspace.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace lstm_fast {
namespace {

struct Buffer {
  void* data;
  std::size_t bytes;
};

// Kept for reuse; a larger buffer goes back to the system at once.
constexpr std::size_t kKeptBytes = std::size_t{512} << 20;
constexpr std::size_t kKeptBuffers = 64;

struct Cache {
  std::mutex mutex;
  std::vector<Buffer> buffers;
  std::size_t bytes = 0;
};

Cache& GetCache() {
  static Cache* cache = new Cache;  // never destroyed: calls may outlive static destruction
  return *cache;
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

Workspace::Workspace(std::size_t bytes) : data_(nullptr), bytes_(Rounded(bytes)) {
  if (bytes_ == 0) return;
  {
    Cache& cache = GetCache();
    const std::lock_guard<std::mutex> lock(cache.mutex);
    // The smallest that is large enough, and not so large that it would be missed.
    auto best = cache.buffers.end();
    for (auto it = cache.buffers.begin(); it != cache.buffers.end(); ++it) {
      if (it->bytes >= bytes_ && it->bytes / 4 <= bytes_ && (best == cache.buffers.end() || it->bytes < best->bytes)) {
        best = it;
      }
    }
    if (best != cache.buffers.end()) {
      data_ = best->data;
      bytes_ = best->bytes;
      cache.bytes -= bytes_;
      cache.buffers.erase(best);
      return;
    }
  }
  data_ = std::aligned_alloc(64, bytes_);
  if (!data_) throw std::bad_alloc();
  AdviseLargePages(data_, bytes_);
}

Workspace::~Workspace() {
  if (!data_) return;
  std::vector<Buffer> evicted;
  {
    Cache& cache = GetCache();
    const std::lock_guard<std::mutex> lock(cache.mutex);
    if (bytes_ <= kKeptBytes) {
      cache.buffers.push_back({data_, bytes_});
      cache.bytes += bytes_;
    } else {
      evicted.push_back({data_, bytes_});
    }
    while (cache.bytes > kKeptBytes || cache.buffers.size() > kKeptBuffers) {
      evicted.push_back(cache.buffers.front());  // the least recently used
      cache.bytes -= cache.buffers.front().bytes;
      cache.buffers.erase(cache.buffers.begin());
    }
  }
  for (const Buffer& buffer : evicted) std::free(buffer.data);
}

}  // namespace lstm_fast
