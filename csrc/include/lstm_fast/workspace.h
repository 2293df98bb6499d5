// Memory of a call, and the reserve buffers that outlive it. Released buffers are kept for the next call, up to a
// limit: fresh pages cost more to touch than to compute on.
#ifndef LSTM_FAST_WORKSPACE_H_
#define LSTM_FAST_WORKSPACE_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "lstm_fast/lstm.h"

namespace lstm_fast {

class LSTM_FAST_EXPORT Workspace {
 public:
  // At least `bytes` bytes, 64-byte aligned, not cleared. Throws std::bad_alloc.
  explicit Workspace(std::size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  T* data() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  std::size_t bytes_;
};

// Bytes of released buffers that are kept for the next call, and the most that are: LSTM_FAST_KEEP_MIB, or else 512
// MiB. Both throw std::invalid_argument for an LSTM_FAST_KEEP_MIB that is not a number of mebibytes.
LSTM_FAST_EXPORT int64_t KeptBytes();
LSTM_FAST_EXPORT int64_t KeptBytesLimit();

// Sets the limit, without a number to the initial one again; gives back what is beyond it. Throws std::invalid_argument
// for a negative number.
LSTM_FAST_EXPORT void SetKeptBytesLimit(std::optional<int64_t> bytes);

// Gives the kept buffers back to the system; returns their bytes.
LSTM_FAST_EXPORT int64_t Trim();

}  // namespace lstm_fast

#endif  // LSTM_FAST_WORKSPACE_H_
