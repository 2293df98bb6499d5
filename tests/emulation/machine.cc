#include "machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace lstm_fast::emulation {
namespace {

// So many threads are resident at once where blocks do not wait for each other.
constexpr int kResidentThreads = 2048;
constexpr int kMostThreads = 1024, kMostCluster = 16;

// A word in global memory that threads signal on.
struct Counter {
  uint32_t start = 0;              // what it was before the first signal
  std::vector<Knowledge> history;  // what each signal and those before it released
  std::vector<std::pair<Thread*, uint32_t>> waiting;
};

class Launch {
 public:
  Launch(const char* kernel, const Grid& grid, const std::function<void()>& body, uint32_t first)
      : kernel_(kernel), grid_(grid), body_(body), first_(first) {}

  void Run();

  const char* kernel() const { return kernel_; }
  const Grid& grid() const { return grid_; }
  Thread& current() { return *current_; }
  Counter& counter(const void* pointer) { return counters_[pointer]; }

  Thread& ThreadOf(uint32_t id);
  std::string Describe(uint32_t id) const;

  void MakeReady(Thread& thread);
  // The current thread waits until it is made ready.
  void Pause(const char* what, Site site);
  // The current thread takes part. True, with the meeting over, if it is the last of `size`.
  bool Arrive(Meeting& meeting, int size, int finished, const char* what, Site site);
  // What any of the warps did until now is known to all of them.
  void Order(const std::vector<Warp*>& warps);

 private:
  void Build(int first_block, int blocks);
  static void Enter();
  void Body();
  void Leave();
  Thread* Next();
  std::string Deadlock() const;
  [[noreturn]] void Return();

  const char* kernel_;
  const Grid& grid_;
  const std::function<void()>& body_;
  uint32_t first_;  // thread id

  Fiber host_;
  bool started_ = false;                          // some thread has
  std::vector<std::unique_ptr<Thread>> threads_;  // that are resident, and so are all these
  std::vector<std::unique_ptr<Warp>> warps_;
  std::vector<std::unique_ptr<Block>> blocks_;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<Warp*> ready_;  // have lanes that are
  Thread* current_ = nullptr;
  std::string error_;
  std::unordered_map<const void*, Counter> counters_;
};

struct Machine {
  cuda::Device device = {9, 0, 132, 232448, 90};
  uint64_t random = 1;
  uint32_t next_thread = kFirstThread;
  Stacks stacks;
  Launch* launch = nullptr;
  int64_t barriers = 0;
};

Machine& TheMachine() {
  static thread_local Machine machine;
  return machine;
}

Launch& TheLaunch() { return *TheMachine().launch; }

// splitmix64
uint64_t Random() {
  uint64_t x = TheMachine().random += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

std::string At(Site site) {
  const std::string file = site.file;
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(site.line);
}

// Of two that would have to wait in the same place.
[[noreturn]] void FailDiverged(const Thread& other, const char* what, Site site) {
  Fail(std::string("diverges: it is in ") + what + " (" + At(site) + "), and thread " + std::to_string(other.index) +
       " of block " + std::to_string(other.block->index) + " waits for it in " + other.waits_for + " (" +
       At(other.site) + ")");
}

void Launch::Run() {
  int resident = grid_.blocks;
  if (!grid_.cooperative) {
    const int clusters = std::max(1, kResidentThreads / (grid_.threads * grid_.cluster));
    resident = std::min(resident, clusters * grid_.cluster);
  }
  for (int block = 0; block < grid_.blocks; block += resident) {
    Build(block, std::min(resident, grid_.blocks - block));
    current_ = Next();
    host_.SwitchTo(current_->fiber);
    if (!error_.empty()) throw std::runtime_error(error_);
  }
}

void Launch::Build(int first_block, int blocks) {
  current_ = nullptr;  // of the blocks before
  threads_.clear();
  warps_.clear();
  blocks_.clear();
  clusters_.clear();
  ready_.clear();
  const auto warps_of_block = static_cast<uint32_t>(grid_.threads) / kLanes;
  for (int b = first_block; b < first_block + blocks; ++b) {
    if (b % grid_.cluster == 0) {
      clusters_.push_back(std::make_unique<Cluster>());
      clusters_.back()->threads = grid_.cluster * grid_.threads;
    }
    Cluster& cluster = *clusters_.back();
    blocks_.push_back(std::make_unique<Block>(b, grid_.shared_bytes, static_cast<uint32_t>(grid_.threads)));
    Block& block = *blocks_.back();
    block.cluster = &cluster;
    cluster.blocks.push_back(&block);
    for (uint32_t w = 0; w < warps_of_block; ++w) {
      warps_.push_back(std::make_unique<Warp>(static_cast<std::size_t>(grid_.blocks) * warps_of_block));
      Warp& warp = *warps_.back();
      warp.index = static_cast<uint32_t>(b) * warps_of_block + w;
      warp.block = &block;
      block.warps.push_back(&warp);
      cluster.warps.push_back(&warp);
      for (uint32_t lane = 0; lane < kLanes; ++lane) {
        const std::size_t i = threads_.size();
        threads_.push_back(std::make_unique<Thread>());
        Thread& thread = *threads_.back();
        thread.id = first_ + warp.index * kLanes + lane;
        thread.first = first_;
        thread.knowledge = &warp.knowledge;
        thread.index = static_cast<int>(w * kLanes + lane);
        thread.block = &block;
        thread.warp = &warp;
        thread.fiber.Prepare(TheMachine().stacks.Get(i), i, &Launch::Enter);
        warp.lanes[lane] = &thread;
        MakeReady(thread);
      }
    }
  }
}

void Launch::Enter() { TheLaunch().Body(); }

void Launch::Body() {
  Fiber::Begin(started_ ? nullptr : &host_);
  started_ = true;
  try {
    body_();
    Leave();
  } catch (const std::exception& error) {
    error_ = error.what();
  }
  if (!error_.empty()) Return();
  Thread& self = *current_;
  Thread* next = Next();
  if (next == nullptr) {
    const bool all = std::all_of(threads_.begin(), threads_.end(), [](const auto& t) { return t->finished; });
    if (!all) error_ = Deadlock();
    Return();
  }
  current_ = next;
  self.fiber.SwitchTo(next->fiber);
}

void Launch::Return() {
  current_->fiber.SwitchTo(host_);
  std::abort();  // a finished thread does not go on
}

// A thread has returned from the kernel.
void Launch::Leave() {
  Thread& self = *current_;
  Block& block = *self.block;
  for (const Meeting* meeting : {&self.warp->meeting, &block.meeting, &block.cluster->meeting}) {
    if (meeting->arrived == 0) continue;
    const Thread& first = *meeting->first;
    Fail("returns while thread " + std::to_string(first.index) + " of block " + std::to_string(first.block->index) +
         " waits for it in " + first.waits_for + " (" + At(first.site) + ")");
  }
  self.finished = true;
  ++self.warp->finished;
  ++block.cluster->finished;
  if (++block.finished < grid_.threads) return;

  Order(block.warps);
  block.shared.ended = true;
  for (const auto& [id, clock] : block.shared.visitors) {
    if (self.IsAfter({id, clock})) continue;
    Fail("ends its block, whose shared memory " + Describe(id) + " accesses with no barrier of the cluster after it");
  }
}

std::string Launch::Describe(uint32_t id) const {
  const uint32_t index = id - first_;
  const auto threads = static_cast<uint32_t>(grid_.threads);
  return "thread " + std::to_string(index % threads) + " of block " + std::to_string(index / threads);
}

void Launch::MakeReady(Thread& thread) {
  Warp& warp = *thread.warp;
  if (warp.ready == 0) {
    warp.place = ready_.size();
    ready_.push_back(&warp);
  }
  warp.ready |= uint32_t{1} << (static_cast<uint32_t>(thread.index) % kLanes);
}

// Mostly a lane of the same warp, whose stacks are in the cache.
Thread* Launch::Next() {
  if (ready_.empty()) return nullptr;
  const uint64_t random = Random();
  std::size_t at = 0;
  if (current_ != nullptr && current_->warp->ready != 0 && random % 128 != 0) {
    at = current_->warp->place;
  } else {
    at = static_cast<std::size_t>((random >> 8) % ready_.size());
  }
  Warp& warp = *ready_[at];
  auto lane = static_cast<uint32_t>(random >> 56) % kLanes;
  while ((warp.ready >> lane & 1) == 0) lane = (lane + 1) % kLanes;
  warp.ready &= ~(uint32_t{1} << lane);
  if (warp.ready == 0) {
    ready_[at] = ready_.back();
    ready_[at]->place = at;
    ready_.pop_back();
  }
  return warp.lanes[lane];
}

void Launch::Pause(const char* what, Site site) {
  Thread& self = *current_;
  self.waits_for = what;
  self.site = site;
  Thread* next = Next();
  if (next == nullptr) throw std::runtime_error(Deadlock());
  current_ = next;
  if (next != &self) self.fiber.SwitchTo(next->fiber);
}

std::string Launch::Deadlock() const {
  std::map<std::tuple<int, std::string, std::string>, std::vector<int>> waiting;
  for (const auto& thread : threads_) {
    if (!thread->finished)
      waiting[{thread->block->index, thread->waits_for, At(thread->site)}].push_back(thread->index);
  }
  std::string text = std::string("kernel ") + kernel_ + ": deadlock: all threads wait";
  for (const auto& [where, threads] : waiting) {
    const auto& [block, what, site] = where;
    text += "\n  block " + std::to_string(block) + ": " + std::to_string(threads.size()) +
            " of its threads, the first " + std::to_string(threads.front()) + ", in " + what + " (" + site + ")";
  }
  return text;
}

bool Launch::Arrive(Meeting& meeting, int size, int finished, const char* what, Site site) {
  Thread& self = *current_;
  if (finished > 0) Fail(std::string("waits in ") + what + " (" + At(site) + ") for threads that have returned");
  if (meeting.arrived == 0) meeting.first = &self;
  const Thread& first = *meeting.first;
  const auto same = [](const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; };
  if (&first != &self &&
      !(first.site.line == site.line && same(first.site.file, site.file) && same(first.waits_for, what))) {
    FailDiverged(first, what, site);
  }
  self.waits_for = what;
  self.site = site;
  if (++meeting.arrived < size) return false;
  meeting.arrived = 0;
  return true;
}

void Launch::Order(const std::vector<Warp*>& warps) {
  Knowledge& joined = warps.front()->knowledge;
  for (Warp* warp : warps) {
    if (warp != warps.front()) joined.Join(warp->knowledge);
    uint32_t clock = 0;
    for (Thread* lane : warp->lanes) {
      if (lane->acquired != nullptr) joined.Join(*lane->acquired);
      lane->acquired.reset();
      lane->knowledge = &warp->knowledge;
      clock = std::max(clock, lane->clock + 1);
    }
    for (Thread* lane : warp->lanes) lane->clock = clock;
    joined.AddWarp(warp->index, clock);
  }
  joined.Tidy();
  for (Warp* warp : warps) {
    if (warp != warps.front()) warp->knowledge = joined;
  }
}

void CheckGrid(const char* name, const Grid& grid) {
  const cuda::Device& device = GetDevice();
  const auto fail = [&](const std::string& text) {
    throw std::runtime_error(std::string("kernel ") + name + ": " + text);
  };
  if (grid.blocks < 1 || grid.threads < 1 || grid.threads > kMostThreads) fail("no such grid");
  if (grid.threads % static_cast<int>(kLanes) != 0) fail("blocks of other than whole warps are not emulated");
  if (grid.shared_bytes < 0 || grid.shared_bytes > device.shared_bytes) fail("more shared memory than the device has");
  if (grid.cluster < 1 || grid.cluster > kMostCluster || grid.blocks % grid.cluster != 0) fail("no such cluster");
  if (grid.cluster > 1 && device.code < 90) fail("the device has no clusters");
  if (grid.cooperative && grid.blocks > device.multiprocessors) fail("the blocks are not all resident at once");
}

// All but the last of the block or the cluster wait; before it goes on, what they did is ordered.
void SyncAll(Meeting& meeting, int size, int finished, const std::vector<Warp*>& warps, const char* what, Site site) {
  Launch& launch = TheLaunch();
  Thread& self = launch.current();
  if (self.warp->meeting.arrived > 0) FailDiverged(*self.warp->meeting.first, what, site);
  if (launch.Arrive(meeting, size, finished, what, site)) {
    ++TheMachine().barriers;
    launch.Order(warps);
    for (Warp* warp : warps) {
      warp->at_barrier = nullptr;
      for (Thread* lane : warp->lanes) launch.MakeReady(*lane);
    }
  } else {
    self.warp->at_barrier = &self;
  }
  launch.Pause(what, site);
}

}  // namespace

const cuda::Device& GetDevice() { return TheMachine().device; }
void SetDevice(const cuda::Device& device) { TheMachine().device = device; }
void SetSeed(uint64_t seed) { TheMachine().random = seed; }
int64_t TakeBarriers() { return std::exchange(TheMachine().barriers, 0); }

void Run(const char* name, const Grid& grid, const std::function<void()>& body) {
  CheckGrid(name, grid);
  Machine& machine = TheMachine();
  Launch launch(name, grid, body, machine.next_thread);
  const auto threads = static_cast<uint32_t>(grid.blocks * grid.threads);
  if (threads > ~uint32_t{0} - machine.next_thread) throw std::runtime_error("no thread ids are left for a launch");
  machine.next_thread += threads;
  machine.launch = &launch;
  try {
    launch.Run();
  } catch (...) {
    machine.launch = nullptr;
    throw;
  }
  machine.launch = nullptr;
}

void Clear(void* pointer, int64_t bytes) {
  GlobalMemory* memory = GlobalMemory::Find(pointer);
  if (memory == nullptr || !memory->writable()) throw std::runtime_error("Clear() of no memory that can be written");
  const int64_t offset = static_cast<unsigned char*>(pointer) - memory->begin();
  if (offset + bytes > memory->bytes()) throw std::runtime_error("Clear() out of bounds of " + memory->name());
  std::memset(pointer, 0, static_cast<std::size_t>(bytes));
  memory->shadow().Define(offset, bytes);
}

const Thread& Current() { return TheLaunch().current(); }
int Threads() { return TheLaunch().grid().threads; }
int Blocks() { return TheLaunch().grid().blocks; }

void Fail(const std::string& message) {
  const Thread& self = Current();
  throw std::runtime_error(std::string("kernel ") + TheLaunch().kernel() + ", block " +
                           std::to_string(self.block->index) + ", thread " + std::to_string(self.index) + ": " +
                           message);
}

void Check(const Conflict& conflict, const char* access, const std::string& memory) {
  if (conflict.kind == Conflict::Kind::kNone) return;
  const std::string place = " at byte " + std::to_string(conflict.offset) + " of " + memory;
  if (conflict.kind == Conflict::Kind::kUndefined) Fail(std::string(access) + place + ", which was never written");
  const char* other = conflict.kind == Conflict::Kind::kAfterRead    ? "read"
                      : conflict.kind == Conflict::Kind::kAfterWrite ? "write"
                                                                     : "Signal";
  Fail(std::string("race: ") + access + place + ", and no barrier since the " + other + " by " +
       TheLaunch().Describe(conflict.other.thread));
}

SharedPlace InShared(int64_t offset, int64_t bytes) {
  SharedMemory& memory = Current().block->shared;
  if (offset < 0 || bytes < 0 || offset + bytes > memory.bytes()) {
    Fail("InShared() of " + std::to_string(bytes) + " bytes out of bounds: at byte " + std::to_string(offset) + " of " +
         std::to_string(memory.bytes()));
  }
  return {&memory, offset, offset, offset + bytes};
}

SharedPlace Remote(const SharedPlace& place, int rank) {
  const Thread& self = Current();
  const Cluster& cluster = *self.block->cluster;
  const auto blocks = static_cast<int>(cluster.blocks.size());
  if (rank < 0 || rank >= blocks) {
    Fail("Remote() of block " + std::to_string(rank) + " of a cluster of " + std::to_string(blocks));
  }
  SharedPlace remote = place;
  remote.memory = &cluster.blocks[static_cast<std::size_t>(rank)]->shared;
  return remote;
}

void SyncBlock(Site site) {
  Block& block = *Current().block;
  SyncAll(block.meeting, TheLaunch().grid().threads, block.finished, block.warps, "SyncBlock", site);
}

void ArriveAtCluster(Site site) {
  if (GetDevice().code < 90) return;  // as on the device
  Thread& self = TheLaunch().current();
  if (self.arrived) Fail("ArriveAtCluster (" + At(site) + ") again, and no AwaitCluster in between");
  self.arrived = true;
}

// The whole barrier: an access of shared memory since ArriveAtCluster, which it would order, is an error already.
void AwaitCluster(Site site) {
  if (GetDevice().code < 90) return;
  Thread& self = TheLaunch().current();
  if (!self.arrived) Fail("AwaitCluster (" + At(site) + ") without ArriveAtCluster");
  self.arrived = false;
  Cluster& cluster = *self.block->cluster;
  SyncAll(cluster.meeting, cluster.threads, cluster.finished, cluster.warps, "AwaitCluster", site);
  self.met_cluster = true;
}

void MeetWarp(const char* what, Site site, void (*together)(void* const (&arguments)[kLanes]), void* argument) {
  Launch& launch = TheLaunch();
  Thread& self = launch.current();
  Warp& warp = *self.warp;
  if (warp.at_barrier != nullptr) FailDiverged(*warp.at_barrier, what, site);
  warp.arguments[static_cast<uint32_t>(self.index) % kLanes] = argument;
  if (launch.Arrive(warp.meeting, static_cast<int>(kLanes), warp.finished, what, site)) {
    together(warp.arguments);
    for (Thread* lane : warp.lanes) launch.MakeReady(*lane);
  }
  launch.Pause(what, site);
}

void SyncWarp(Site site) {
  const auto order = [](void* const(&)[kLanes]) {
    Launch& launch = TheLaunch();
    launch.Order({launch.current().warp});
  };
  MeetWarp("SyncWarp", site, order, nullptr);
}

void Signal(const GlobalPlace& place) {
  Launch& launch = TheLaunch();
  Thread& self = launch.current();
  place.CheckInside(sizeof(uint32_t), alignof(uint32_t), "Signal");
  if (!place.memory->writable()) Fail("Signal on " + place.memory->name() + ", which is only to be read");
  unsigned char* word = place.memory->begin() + place.offset;
  uint32_t value = 0;
  std::memcpy(&value, word, sizeof(value));
  Counter& counter = launch.counter(word);
  if (counter.history.empty()) counter.start = value;
  Check(place.memory->shadow().Signal(self, place.offset), "Signal", place.memory->name());

  Knowledge released = *self.knowledge;
  released.AddThread(self.id - self.first, self.clock++);
  if (!counter.history.empty()) released.Join(counter.history.back());
  released.Tidy();
  counter.history.push_back(std::move(released));

  ++value;
  std::memcpy(word, &value, sizeof(value));
  auto& waiting = counter.waiting;
  for (std::size_t i = 0; i < waiting.size();) {
    if (static_cast<int32_t>(value - waiting[i].second) < 0) {
      ++i;
      continue;
    }
    launch.MakeReady(*waiting[i].first);
    waiting[i] = waiting.back();
    waiting.pop_back();
  }
}

// Of all signals that there may have been since, only those up to `value` can be relied upon.
void AwaitAtLeast(const GlobalPlace& place, uint32_t value, Site site) {
  Launch& launch = TheLaunch();
  Thread& self = launch.current();
  if (!launch.grid().cooperative) Fail("AwaitAtLeast (" + At(site) + ") in a launch that is not cooperative");
  place.CheckInside(sizeof(uint32_t), alignof(uint32_t), "AwaitAtLeast");
  const unsigned char* word = place.memory->begin() + place.offset;
  uint32_t seen = 0;
  std::memcpy(&seen, word, sizeof(seen));
  Counter& counter = launch.counter(word);
  if (static_cast<int32_t>(seen - value) < 0) {
    counter.waiting.emplace_back(&self, value);
    launch.Pause("AwaitAtLeast", site);
  }
  Check(place.memory->shadow().Await(self, place.offset), "AwaitAtLeast", place.memory->name());
  const auto signals = static_cast<int32_t>(value - counter.start);
  if (counter.history.empty() || signals <= 0) return;
  if (self.acquired == nullptr) self.acquired = std::make_unique<Knowledge>(*self.knowledge);
  self.acquired->Join(counter.history[static_cast<std::size_t>(signals) - 1]);
  self.knowledge = self.acquired.get();
}

}  // namespace lstm_fast::emulation
