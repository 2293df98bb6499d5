// Scratch memory of a call. Released buffers are kept for the next call, since fresh pages cost more to touch than to
// compute on.
#ifndef LSTM_FAST_CPU_WORKSPACE_H_
#define LSTM_FAST_CPU_WORKSPACE_H_

#include <cstddef>

namespace lstm_fast {

class Workspace {
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

// Asks for large pages where a large buffer is about to be written for the first time: most of the cost of touching
// fresh memory is per page. Advice only; does nothing for small buffers and where the system has no such call.
void AdviseLargePages(void* data, std::size_t bytes);

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_WORKSPACE_H_
