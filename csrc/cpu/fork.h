// What fork() must find unlocked. A child has only the thread that called fork(): whatever another thread had locked at
// that moment stays locked in it for ever. So the locks are taken before, and given back after, in fork.cc.
#ifndef LSTM_FAST_CPU_FORK_H_
#define LSTM_FAST_CPU_FORK_H_

namespace lstm_fast {

// thread_pool.cc. In the child RestartPool() takes the place of UnlockPool().
void LockPool();
void UnlockPool();
void RestartPool();

// crowd.cc
void LockCrowd();
void UnlockCrowd();

// workspace.cc
void LockKeptBuffers();
void UnlockKeptBuffers();

}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_FORK_H_
