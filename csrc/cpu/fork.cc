#include "cpu/fork.h"

#include <pthread.h>

namespace lstm_fast {
namespace {

// Always in this order. Nobody holds one while waiting for another.
void BeforeFork() {
  LockPool();
  LockCrowd();
  LockKeptBuffers();
}

void AfterForkInParent() {
  UnlockKeptBuffers();
  UnlockCrowd();
  UnlockPool();
}

void AfterForkInChild() {
  UnlockKeptBuffers();
  UnlockCrowd();
  RestartPool();
}

// When the library is loaded: whatever thread locks something first may be forked from by another.
[[maybe_unused]] const int registered = pthread_atfork(BeforeFork, AfterForkInParent, AfterForkInChild);

}  // namespace
}  // namespace lstm_fast
