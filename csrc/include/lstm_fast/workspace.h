// Memory of a call, and the reserve buffers that outlive it. Released buffers are kept for the next call, up to a
// limit: fresh pages cost more to touch than to compute on.
#ifndef LSTM_FAST_WORKSPACE_H_
#define LSTM_FAST_WORKSPACE_H_

#include <cstddef>

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

}  // namespace lstm_fast

#endif  // LSTM_FAST_WORKSPACE_H_
