// The blocks that run the same rows of the batch together, and how they meet.
#ifndef LSTM_FAST_CUDA_GROUP_H_
#define LSTM_FAST_CUDA_GROUP_H_

#include "cuda/device.h"
#include "cuda/recurrence.h"

namespace lstm_fast::cuda {

// This block's place in its group. Blocks of a group, and so of a cluster, are neighbours in the grid.
class Group {
 public:
  LSTM_FAST_DEVICE Group(const Cut& cut, unsigned* counters)
      : index(Block() / cut.blocks),
        rank(Block() % cut.blocks),
        blocks(cut.blocks),
        exchange(cut.exchange),
        counter_(InGlobal<unsigned>(counters)) {}

  const int index, rank, blocks;
  const Exchange exchange;

  // What any thread of the group stored before, all see after; in global memory only what went through L2.
  LSTM_FAST_DEVICE void Sync() {
    Arrive();
    Await();
  }

  // The two parts of it. What is stored in global memory in between, and for others than the group, holds nobody up.
  LSTM_FAST_DEVICE void Arrive() {
    if (exchange == Exchange::kCluster) {
      ArriveAtCluster();
      return;
    }
    SyncBlock();
    if (exchange == Exchange::kGrid) {
      target_ += static_cast<unsigned>(blocks);
      if (Thread() == 0) Signal(counter_ + index);
    }
  }
  LSTM_FAST_DEVICE void Await() {
    if (exchange == Exchange::kCluster) AwaitCluster();
    if (exchange == Exchange::kGrid) {
      if (Thread() == 0) AwaitAtLeast(counter_ + index, target_);
      SyncBlock();
    }
  }

 private:
  Global<unsigned> counter_;
  unsigned target_ = 0;
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_GROUP_H_
