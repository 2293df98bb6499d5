#include "cpu/fork.h"

#include <pthread.h>

namespace lstm_fast {
namespace {

// Always in this order. Nobody holds the second while waiting for the first.
void BeforeFork() {
  LockPool();
  LockKeptBuffers();
}

void AfterForkInParent() {
  UnlockKeptBuffers();
  UnlockPool();
}

void AfterForkInChild() {
  UnlockKeptBuffers();
  RestartPool();
}

// When the library is loaded: whatever thread locks something first may be forked from by another.
[[maybe_unused]] const int registered = pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);

}  // namespace
}  // namespace lstm_fast
