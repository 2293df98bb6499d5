// Runs the case that the command line names, and prints "right", or what the emulation says against it. Most cases do
// one thing wrong; tests/test_emulation.py says what is to be found. All run under several orders of the threads.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/runtime.h"
#include "machine.h"
#include "memory.h"

namespace lstm_fast::cuda {
namespace {

using emulation::Access;
using emulation::GlobalMemory;

constexpr int kThreads = 128, kSteps = 6;

// No kernel needs it so far.
void SyncWarp(Site site = Site::Here()) { emulation::SyncWarp(site); }

void Expect(bool condition, const std::string& what) {
  if (!condition) throw std::logic_error("wrong: " + what);
}

struct Call {
  const void* in;
  void* out;
  void* counter;
  int choice;  // of what is wrong, or of a type
};

// Memory of a launch: `in` is 0, 1, 2..., `out` zero.
struct Memory {
  explicit Memory(int size, Access access = Access::kReadWrite)
      : in(static_cast<size_t>(size)),
        out(static_cast<size_t>(size)),
        in_memory(in.data(), size * 4, Access::kRead, "in"),
        out_memory(out.data(), size * 4, access, "out"),
        counter_memory(&counter, 4, Access::kReadWrite, "the counter") {
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  }

  Call call(int choice = 0) { return {in.data(), out.data(), &counter, choice}; }

  std::vector<float> in, out;
  unsigned counter = 0;
  GlobalMemory in_memory, out_memory, counter_memory;
};

Grid Blocks(int blocks, int cluster = 1, bool cooperative = false) {
  return {blocks, kThreads, cluster, cooperative, 4 * 1024};
}

// Sums of `in` over blocks. Choices: 1 no barrier after the write, 2 none before the next write.
void Sum(const Call call) {
  const auto in = InGlobal<const float>(call.in);
  const auto out = InGlobal<float>(call.out);
  const auto part = InShared<float>(0, Threads());
  for (int round = 0; round < 2; ++round) {
    part[Thread()] = in[Block() * Threads() + Thread()];
    if (call.choice != 1) SyncBlock();
    for (int half = Threads() / 2; half > 0; half /= 2) {
      if (Thread() < half) part[Thread()] += part[Thread() + half];
      SyncBlock();
    }
    if (Thread() == round + 1) out[2 * Block() + round] = part[0];
    if (call.choice != 2) SyncBlock();
  }
}

// As Sum, within warps, and between them through neighbouring elements of two bytes. Choice 1: no barrier.
void WarpSum(const Call call) {
  const auto out = InGlobal<float>(call.out);
  const auto shared = InShared<uint16_t>(256, Threads());
  float sum = InGlobal<const float>(call.in)[Thread()];
  for (int mask = 16; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
  shared[Thread()] = static_cast<uint16_t>(sum);
  if (call.choice == 1) {
    sum = ShuffleXor(sum, 1);  // orders nothing
  } else {
    SyncWarp();
  }
  const int other = shared[Thread() ^ 1];
  out[Thread()] = sum + static_cast<float>(other);
}

// Every block passes its number to all blocks of its cluster. Choices: 1 and 2 which barrier is missing, 3 an access
// that none follows, 4 to a block that is not there, 5 and 6 a part of a barrier too many, 7 an access within one.
void Exchange4(const Call call) {
  const auto out = InGlobal<float>(call.out);
  const auto inbox = InShared<float>(0, 4);
  const auto sync = [] {
    ArriveAtCluster();
    AwaitCluster();
  };
  if (call.choice != 1) sync();
  if (Thread() < 4) Remote(inbox, Thread())[Block() % 4] = static_cast<float>(Block() + 1);
  if (call.choice == 5) ArriveAtCluster();
  if (call.choice == 6) AwaitCluster();
  if (call.choice != 2) {
    ArriveAtCluster();
    if (call.choice == 7) inbox[3] = 0;
    AwaitCluster();
  } else {
    SyncBlock();
  }
  if (Thread() == 0) out[Block()] = inbox[0] + inbox[1] + inbox[2] + inbox[3];
  if ((call.choice == 3 || call.choice == 4) && Thread() == 1 && Block() == 0) out[4] = Remote(inbox, call.choice)[0];
}

// Two blocks pass a value back and forth. Choices: 1 no waiting, 2 waiting for too little, 3 for too much, 4 a signal
// before the barrier, 5 plain access to the counter.
void PingPong(const Call call) {
  const auto out = InGlobal<float>(call.out);
  const auto counter = InGlobal<unsigned>(call.counter);
  float value = static_cast<float>(Block());
  for (unsigned step = 0; step < kSteps; ++step) {
    const Global<float> mail = out + (step % 2) * 2 * Threads();
    StoreL2(mail + (Block() * Threads() + Thread()), value);
    if (call.choice == 4 && Thread() == 0) Signal(counter);
    SyncBlock();
    if (Thread() == 0) {
      if (call.choice != 4) Signal(counter);
      const unsigned all = 2 * (step + 1);
      if (call.choice != 1) AwaitAtLeast(counter, call.choice == 2 ? all - 1 : call.choice == 3 ? all + 1 : all);
      if (call.choice == 5) counter[0] = 0;
    }
    SyncBlock();
    value = 2 * LoadL2<float>(mail + ((1 - Block()) * Threads() + (Thread() + 1) % Threads())) + 1;
  }
  SyncBlock();
  if (Thread() == 0) out[4 * Threads() + Block()] = value;
}

// Each warp signals for itself, as lane 0 after a barrier of the warp or as every lane of its own.
void WarpSignals(const Call call) {
  const auto out = InGlobal<float>(call.out);
  const auto counter = InGlobal<unsigned>(call.counter);
  const bool lanes = call.choice == 1;
  if (Block() == 0) {
    out[Thread()] = 1;
    if (!lanes) SyncWarp();
    if (lanes || Thread() % 32 == 0) Signal(counter);
  } else {
    AwaitAtLeast(counter, static_cast<unsigned>(lanes ? Threads() : Threads() / 32));
    out[Threads() + Thread()] = out[Threads() - 1 - Thread()] + 1;
  }
}

// d = d + a b, with operands from `in` and the places of PTX's tables: a [16, K], b [K, 8], d [16, 8].
template <class T>
uint32_t Pack(Global<const float> at, int stride) {
  const uint32_t low = Rounded<T>(at[0]).bits, high = Rounded<T>(at[stride]).bits;
  return low | high << 16;
}
void Product(const Call call) {
  const auto in = InGlobal<const float>(call.in);
  const auto out = InGlobal<float>(call.out);
  const int lane = Thread(), group = lane / 4, in_group = lane % 4;
  const int depth = call.choice == 0 ? 8 : 16;
  const auto a = in, b = in + 16 * depth;
  float d[4];
  uint32_t a_words[4], b_words[2];
  for (int i = 0; i < 4; ++i) d[i] = out[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)];
  if (call.choice == 0) {
    for (int i = 0; i < 4; ++i) {
      const int row = i == 0 || i == 2 ? group : group + 8, column = i < 2 ? in_group : in_group + 4;
      a_words[i] = BitsOf(a[row * 8 + column]) | (lane & 1 ? 0x1fff : 0);  // bits that are not read
    }
    for (int i = 0; i < 2; ++i) b_words[i] = BitsOf(b[(i == 0 ? in_group : in_group + 4) * 8 + group]);
    MultiplyTf32(d, a_words, b_words);
  } else {
    for (int word = 0; word < 4; ++word) {
      const int i = 2 * word, row = (i >= 0 && i < 2) || (i >= 4 && i < 6) ? group : group + 8;
      const auto pair = a + (row * 16 + in_group * 2 + (i < 4 ? 0 : 8));
      a_words[word] = call.choice == 1 ? Pack<Half>(pair, 1) : Pack<BFloat16>(pair, 1);
    }
    for (int word = 0; word < 2; ++word) {
      const auto pair = b + ((in_group * 2 + 8 * word) * 8 + group);
      b_words[word] = call.choice == 1 ? Pack<Half>(pair, 8) : Pack<BFloat16>(pair, 8);
    }
    if (call.choice == 1) {
      MultiplyHalf(d, a_words, b_words);
    } else {
      MultiplyBFloat16(d, a_words, b_words);
    }
  }
  for (int i = 0; i < 4; ++i) out[(i < 2 ? group : group + 8) * 8 + in_group * 2 + (i & 1)] = d[i];
}

// Single wrong accesses, of thread 5 of block 1.
void Wrong(const Call call) {
  const auto in = InGlobal<const float>(call.in);
  const auto out = InGlobal<float>(call.out);
  if (Block() != 1 || Thread() != 5) return;
  switch (call.choice) {
    case 0:
      out[0] = in[4];
      break;
    case 1:
      out[0] = in[-1];
      break;
    case 2:
      out[4] = 1;
      break;
    case 3:
      InShared<float>(16, 4)[4] = 1;
      break;
    case 4:
      InShared<float>(4 * 1024 - 4, 2);
      break;
    case 5:
      out[0] = InShared<float>(16, 4)[1];
      break;
    case 6:
      InGlobal<float>(call.in)[0] = 1;
      break;
    case 7:
      Cast<Words>(out + 1)[0] = Words{};
      break;
    case 8:
      InShared<double>(4, 1)[0] = 1;
      break;
    case 9:
      out[0] = out[1];
      break;
    case 10:
      out[0] = Global<float>()[0];
      break;
    default:
      out[0] = InGlobal<const float>(&call)[0];
  }
}

// All blocks write the same place.
void SamePlace(const Call call) {
  if (Thread() == 0) InGlobal<float>(call.out)[0] = 1;
}
// Many threads read what one writes then.
void ReadersThenWriter(const Call call) {
  const auto shared = InShared<float>(0, 1);
  if (Thread() == 0) shared[0] = 1;
  SyncBlock();
  const float value = shared[0];
  SyncWarp();
  if (Thread() == call.choice) shared[0] = value + 1;
}
void Diverging(const Call call) {
  switch (call.choice) {
    case 0:  // some return
      if (Thread() != 3) SyncBlock();
      break;
    case 1:  // two barriers
      if (Thread() < 32) {
        SyncBlock();
      } else {
        SyncBlock();
      }
      break;
    case 2:  // part of a warp
      if (Thread() != 40) SyncWarp();
      SyncBlock();
      break;
    case 3:
      if (Thread() % 2 != 0) {
        ShuffleXor(1, 1);
      } else {
        Ballot(true);
      }
      break;
    default:  // part of a cluster
      if (Block() == 0) {
        ArriveAtCluster();
        AwaitCluster();
      }
  }
}

template <class Arguments>
void Start(void (*kernel)(Arguments), const Grid& grid, const Call& call) {
  Launch(kernel, "test", grid, call, nullptr);
}

void CheckSum() {
  Memory memory(2 * kThreads);
  Start(&Sum, Blocks(2), memory.call());
  for (size_t block = 0; block < 2; ++block) {
    const auto sum = static_cast<float>(kThreads * (kThreads - 1) / 2 + static_cast<int>(block) * kThreads * kThreads);
    Expect(memory.out[2 * block] == sum && memory.out[2 * block + 1] == sum, "sum of a block");
  }
}

void CheckWarpSum() {
  Memory memory(kThreads);
  Start(&WarpSum, Blocks(1), memory.call());
  for (int i = 0; i < kThreads; ++i) {
    Expect(memory.out[static_cast<size_t>(i)] == static_cast<float>(2 * (31 * 16 + i / 32 * 1024)), "sum of a warp");
  }
}

void CheckExchange() {
  Memory memory(8);
  Start(&Exchange4, Blocks(8, 4), memory.call());
  for (size_t i = 0; i < 8; ++i) Expect(memory.out[i] == (i < 4 ? 10 : 26), "sum over a cluster");
}

void CheckPingPong() {
  Memory memory(5 * kThreads);
  Start(&PingPong, Blocks(2, 1, true), memory.call());
  Expect(memory.out[4 * kThreads] == 63 && memory.out[4 * kThreads + 1] == 127, "value after passing it");
  Clear(&memory.counter, 4, nullptr);
  Start(&PingPong, Blocks(2, 1, true), memory.call());
  Expect(memory.counter == 2 * kSteps, "count of signals");
}

void CheckWarpSignals() {
  for (int choice = 0; choice < 2; ++choice) {
    Memory memory(2 * kThreads);
    Start(&WarpSignals, Blocks(2, 1, true), memory.call(choice));
    for (size_t i = 0; i < kThreads; ++i) Expect(memory.out[kThreads + i] == 2, "what was signalled");
  }
}

void CheckProducts() {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  const auto rounded = [](int choice, float value) -> double {
    return choice == 0   ? FloatOf(BitsOf(value) & 0xffffe000)
           : choice == 1 ? ToReal(Rounded<Half>(value))
                         : ToReal(Rounded<BFloat16>(value));
  };
  for (int choice = 0; choice < 3; ++choice) {
    const size_t depth = choice == 0 ? 8 : 16;
    Memory memory(16 * 16 + 16 * 8);
    for (float& value : memory.in) value = static_cast<float>(rounded(choice, uniform(random)));
    for (float& value : memory.out) value = uniform(random);
    const std::vector<float> before = memory.out;
    Start(&Product, {1, 32, 1, false, 0}, memory.call(choice));
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        double sum = before[row * 8 + column];
        for (size_t k = 0; k < depth; ++k) {
          sum += double{memory.in[row * depth + k]} * memory.in[16 * depth + k * 8 + column];
        }
        Expect(std::fabs(memory.out[row * 8 + column] - sum) < 1e-6, "product " + std::to_string(choice));
      }
    }
  }
}

// The result is nearer than its neighbours, or as near and even.
template <class T>
void CheckRounding(float value) {
  const uint16_t bits = Rounded<T>(value).bits;
  const auto error = [&](int away) {
    return std::fabs(double{ToReal(T{static_cast<uint16_t>(bits + away)})} - double{value});
  };
  const double own = error(0);
  for (int away : {-1, 1}) {
    if (away < 0 && (bits & 0x7fff) == 0) continue;
    if (std::isinf(ToReal(T{static_cast<uint16_t>(bits + away)}))) continue;
    Expect(own < error(away) || (own == error(away) && bits % 2 == 0), "rounding of " + std::to_string(value));
  }
}

void CheckConversions() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto narrow = static_cast<uint16_t>(bits);
    const float half = ToReal(Half{narrow}), bfloat = ToReal(BFloat16{narrow});
    Expect(std::isnan(half) ? (narrow & 0x7fff) > 0x7c00 : Rounded<Half>(half).bits == narrow, "Half and back");
    Expect(std::isnan(bfloat) ? (narrow & 0x7fff) > 0x7f80 : Rounded<BFloat16>(bfloat).bits == narrow,
           "BFloat16 and back");
  }
  const float infinity = HUGE_VALF;
  Expect(ToReal(Half{0x0001}) == 0x1p-24f && ToReal(Half{0x3c00}) == 1 && ToReal(Half{0x7bff}) == 65504, "Half");
  Expect(ToReal(Half{0xfc00}) == -infinity && ToReal(BFloat16{0x3f80}) == 1, "infinity");
  Expect(Rounded<Half>(65519.996f).bits == 0x7bff && Rounded<Half>(65520).bits == 0x7c00, "the largest Half");
  Expect(Rounded<Half>(0x1p-25f).bits == 0 && Rounded<Half>(-0x1.8p-25f).bits == 0x8001, "the smallest Half");
  Expect(Rounded<BFloat16>(3.4e38f).bits == 0x7f80 && Rounded<BFloat16>(NAN).bits == 0x7fff, "the largest BFloat16");
  Expect(FloatOf(RoundToTf32(1 + 0x1p-11f)) == 1 + 0x1p-10f && FloatOf(RoundToTf32(-1 - 0x1p-11f)) == -1 - 0x1p-10f &&
             FloatOf(RoundToTf32(1 + 0x1.ffcp-12f)) == 1 && FloatOf(RoundToTf32(infinity)) == infinity,
         "RoundToTf32");
  std::mt19937 random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto draw = static_cast<uint32_t>(random());
    const float value =
        FloatOf(draw & 0x800fffff) * FloatOf((127 - 26 + draw % 42) << 23) + FloatOf((127 - 26 + draw % 42) << 23);
    CheckRounding<Half>(value);
    CheckRounding<Half>(FloatOf(BitsOf(value) & 0xfffff000));  // many ties
    CheckRounding<BFloat16>(value);
    CheckRounding<BFloat16>(FloatOf(BitsOf(value) & 0xffff8000));
  }
}

// A kernel, its grid, and what it does wrong.
std::function<void()> Case(void (*kernel)(Call), const Grid& grid, int choice, int size = 8 * kThreads,
                           Access access = Access::kReadWrite) {
  return [=] {
    Memory memory(size, access);
    Start(kernel, grid, memory.call(choice));
  };
}

std::function<void()> OnOldDevice(const std::function<void()>& run) {
  return [run] {
    const Device device = GetDevice(0);
    Device old = device;
    old.code = 80;
    old.shared_bytes = 101376;
    emulation::SetDevice(old);
    try {
      run();
    } catch (...) {
      emulation::SetDevice(device);
      throw;
    }
    emulation::SetDevice(device);
  };
}

const std::map<std::string, std::function<void()>>& Cases() {
  static const Grid cooperative = Blocks(2, 1, true), cluster = Blocks(4, 4);
  static const std::map<std::string, std::function<void()>> cases = {
      {"sum", CheckSum},
      {"warp_sum", CheckWarpSum},
      {"exchange", CheckExchange},
      {"ping_pong", CheckPingPong},
      {"warp_signals", CheckWarpSignals},
      {"products", CheckProducts},
      {"conversions", CheckConversions},
      {"old_device", OnOldDevice(CheckSum)},
      {"no_sync_block", Case(&Sum, Blocks(1), 1)},
      {"no_sync_block_before_write", Case(&Sum, Blocks(1), 2)},
      {"no_sync_warp", Case(&WarpSum, Blocks(1), 1)},
      {"readers_then_writer", Case(&ReadersThenWriter, Blocks(1), 70)},
      {"no_first_cluster_barrier", Case(&Exchange4, cluster, 1)},
      {"no_cluster_barrier", Case(&Exchange4, cluster, 2)},
      {"remote_after_end", Case(&Exchange4, cluster, 3)},
      {"remote_rank", Case(&Exchange4, cluster, 4)},
      {"arrives_twice", Case(&Exchange4, cluster, 5)},
      {"awaits_without_arriving", Case(&Exchange4, cluster, 6)},
      {"access_within_barrier", Case(&Exchange4, cluster, 7)},
      {"no_await", Case(&PingPong, cooperative, 1)},
      {"await_too_little", Case(&PingPong, cooperative, 2)},
      {"await_too_much", Case(&PingPong, cooperative, 3)},
      {"early_signal", Case(&PingPong, cooperative, 4)},
      {"plain_counter", Case(&PingPong, cooperative, 5)},
      {"not_cooperative", Case(&PingPong, Blocks(2), 0)},
      {"global_read_beyond", Case(&Wrong, Blocks(2), 0, 4)},
      {"global_read_before", Case(&Wrong, Blocks(2), 1, 4)},
      {"global_write_beyond", Case(&Wrong, Blocks(2), 2, 4)},
      {"shared_beyond", Case(&Wrong, Blocks(2), 3)},
      {"in_shared_beyond", Case(&Wrong, Blocks(2), 4)},
      {"undefined_shared", Case(&Wrong, Blocks(2), 5)},
      {"read_only", Case(&Wrong, Blocks(2), 6)},
      {"misaligned_global", Case(&Wrong, Blocks(2), 7)},
      {"misaligned_shared", Case(&Wrong, Blocks(2), 8)},
      {"undefined_scratch", Case(&Wrong, Blocks(2), 9, 4, Access::kScratch)},
      {"null", Case(&Wrong, Blocks(2), 10)},
      {"unknown_memory", Case(&Wrong, Blocks(2), 11)},
      {"same_place", Case(&SamePlace, Blocks(2), 0)},
      {"same_place_in_turn", Case(&SamePlace, Blocks(64), 0)},
      {"returns_before_barrier", Case(&Diverging, Blocks(1), 0)},
      {"two_barriers", Case(&Diverging, Blocks(1), 1)},
      {"part_of_warp", Case(&Diverging, Blocks(1), 2)},
      {"two_collectives", Case(&Diverging, Blocks(1), 3)},
      {"part_of_cluster", Case(&Diverging, Blocks(2, 2), 4)},
      {"too_much_shared", Case(&Sum, {1, kThreads, 1, false, 232449}, 0)},
      {"cluster_on_old_device", OnOldDevice(Case(&Exchange4, cluster, 0))},
      {"uneven_cluster", Case(&Exchange4, Blocks(6, 4), 0)},
      {"too_many_blocks", Case(&PingPong, Blocks(133, 1, true), 0)},
  };
  return cases;
}

// One line for all seeds, or the first two that differ.
std::string RunCase(const std::string& name) {
  std::string first;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    emulation::SetSeed(seed);
    std::string said = "right";
    try {
      Cases().at(name)();
    } catch (const std::exception& error) {
      said = error.what();
    }
    if (seed == 0) first = said;
    if ((said == "right") != (first == "right")) return "seeds differ:\n" + first + "\n" + said;
  }
  return first;
}

}  // namespace
}  // namespace lstm_fast::cuda

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    std::printf("%s: %s\n", arguments[i], lstm_fast::cuda::RunCase(arguments[i]).c_str());
  }
  if (count == 1) {
    for (const auto& [name, run] : lstm_fast::cuda::Cases()) std::printf("%s\n", name.c_str());
  }
}
