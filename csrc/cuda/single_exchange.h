// What the warps that have a row in kernels of single.h tell each other, in one block or in a cluster: through shared
// memory, of which every block has a copy.
#ifndef LSTM_FAST_CUDA_SINGLE_EXCHANGE_H_
#define LSTM_FAST_CUDA_SINGLE_EXCHANGE_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/layout.h"

namespace lstm_fast::cuda {

template <int kBlocks>
class SingleExchange {
 public:
  // A barrier for all threads that have the row, in two parts: what is stored in global memory in between holds nobody
  // up.
  static LSTM_FAST_DEVICE void Arrive() {
    if constexpr (kBlocks == 1) {
      SyncBlock();
    } else {
      ArriveAtCluster();
    }
  }
  static LSTM_FAST_DEVICE void Await() {
    if constexpr (kBlocks > 1) AwaitCluster();
  }

  // Stores a value in every block's shared memory.
  template <class V>
  static LSTM_FAST_DEVICE void Send(Shared<V> to, V value) {
    if constexpr (kBlocks == 1) {
      *to = value;
    } else {
      LSTM_FAST_UNROLL
      for (int rank = 0; rank < kBlocks; ++rank) *Remote(to, rank) = value;
    }
  }

  // Whether all threads agree. It takes a barrier, and so does the next; `memory` is that of SingleSharedBytes().
  static LSTM_FAST_DEVICE bool AllAgree(int64_t memory, bool agrees) {
    const Shared<int32_t> votes = Place(memory, kVotes);
    const bool all = Ballot(agrees) == kAllLanes;
    if (Thread() % 32 == 0) Send<int32_t>(votes + WarpOfRow(), all ? 1 : 0);
    Arrive();
    Await();
    const int lane = Thread() % 32;
    return Ballot(lane >= Warps() || votes[lane] != 0) == kAllLanes;
  }

  // The least of all threads' numbers.
  static LSTM_FAST_DEVICE int Least(int64_t memory, int number) {
    const Shared<int32_t> numbers = Place(memory, kNumbers);
    number = LeastOfWarp(number);
    if (Thread() % 32 == 0) Send<int32_t>(numbers + WarpOfRow(), number);
    Arrive();
    Await();
    return LeastOfWarp(numbers[Thread() % Warps()]);
  }

 private:
  static constexpr uint32_t kAllLanes = 0xffffffffu;
  // Each has its own memory: some warp may still read one when others write the other.
  enum { kVotes, kNumbers };

  static LSTM_FAST_DEVICE Shared<int32_t> Place(int64_t memory, int part) {
    return InShared<int32_t>(memory + part * kSingleMostWarps * int64_t{sizeof(int32_t)}, kSingleMostWarps);
  }
  static LSTM_FAST_DEVICE int Warps() { return kBlocks * Threads() / 32; }
  static LSTM_FAST_DEVICE int WarpOfRow() { return (Block() % kBlocks * Threads() + Thread()) / 32; }
  static LSTM_FAST_DEVICE int LeastOfWarp(int number) {
    LSTM_FAST_UNROLL
    for (int half = 16; half > 0; half /= 2) {
      const int other = ShuffleXor(number, half);
      number = other < number ? other : number;
    }
    return number;
  }
};

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SINGLE_EXCHANGE_H_
