// The machine that runs a grid: every thread is a fiber, and which of those that can go on does so is drawn at random,
// by a seed, whenever one waits. A state of the whole is kept for each thread of the host.
#ifndef LSTM_FAST_TESTS_EMULATION_MACHINE_H_
#define LSTM_FAST_TESTS_EMULATION_MACHINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/recurrence.h"
#include "fibers.h"
#include "memory.h"
#include "order.h"

namespace lstm_fast::emulation {

// Where a barrier or the like is called, for messages and to tell one from another.
struct Site {
  const char* file = "";
  int line = 0;

  static constexpr Site Here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }
};

struct Block;
struct Thread;

// Threads that wait for each other.
struct Meeting {
  int arrived = 0;
  const Thread* first = nullptr;  // that arrived
};

struct Warp {
  uint32_t index = 0;  // in the grid
  Block* block = nullptr;
  Knowledge knowledge;  // that all lanes have
  Meeting meeting;
  const Thread* at_barrier = nullptr;  // some lane that waits for the block or the cluster
  int finished = 0;
  Thread* lanes[kLanes] = {};
  void* arguments[kLanes] = {};
  uint32_t ready = 0;     // lanes that can go on
  std::size_t place = 0;  // of this in the list of warps that have some

  explicit Warp(std::size_t warps) : knowledge(warps) {}
};

struct Cluster {
  int threads = 0;
  Meeting meeting;
  int finished = 0;  // threads
  std::vector<Block*> blocks;
  std::vector<Warp*> warps;
};

struct Block {
  int index = 0;
  Cluster* cluster = nullptr;
  SharedMemory shared;
  Meeting meeting;
  int finished = 0;  // threads
  std::vector<Warp*> warps;

  Block(int at, int64_t shared_bytes, uint32_t threads) : index(at), shared(at, shared_bytes, threads) {}
};

struct Thread : Actor {
  Fiber fiber;
  int index = 0;  // in the block
  Block* block = nullptr;
  Warp* warp = nullptr;
  std::unique_ptr<Knowledge> acquired;  // more than the warp's, from a signal
  bool met_cluster = false;             // has passed a barrier of the cluster
  bool arrived = false;                 // at one that it has not waited for yet
  bool finished = false;
  const char* waits_for = nullptr;  // what it called last that waits
  Site site;
};

struct Grid {
  int blocks, threads;
  int cluster;  // blocks of a cluster, which are consecutive; 1: none
  bool cooperative;
  int64_t shared_bytes;
};

// The device that kernels find; a compute capability of 9.0 unless set.
const cuda::Device& GetDevice();
void SetDevice(const cuda::Device& device);
// Decides the order in which threads run.
void SetSeed(uint64_t seed);
// Barriers that blocks and clusters have passed since the last call.
int64_t TakeBarriers();

// Calls `body` as every thread of the grid. Raises std::runtime_error for what the grid or a thread does wrong.
void Run(const char* name, const Grid& grid, const std::function<void()>& body);
void Clear(void* pointer, int64_t bytes);

// What follows is for threads of a grid.

const Thread& Current();
int Threads();
int Blocks();
[[noreturn]] void Fail(const std::string& message);
// Raises what there is, of an access of `what` to the memory.
void Check(const Conflict& conflict, const char* access, const std::string& memory);

SharedPlace InShared(int64_t offset, int64_t bytes);
SharedPlace Remote(const SharedPlace& place, int rank);

void SyncBlock(Site site);
void SyncWarp(Site site);
void ArriveAtCluster(Site site);
void AwaitCluster(Site site);
// Waits for all lanes of the warp, then calls `together` once with the arguments of all. Orders nothing in memory.
void MeetWarp(const char* what, Site site, void (*together)(void* const (&arguments)[kLanes]), void* argument);

void Signal(const GlobalPlace& counter);
void AwaitAtLeast(const GlobalPlace& counter, uint32_t value, Site site);

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_MACHINE_H_
