// Where in the reserve the gates of a row's computed timesteps are, or its checkpoints, and what tells of the timesteps
// that it has skipped. Computed timesteps are counted on their own, as entries.
//
// Where no row repeats its inputs, entries follow each other. Otherwise nobody knows how many there will be: they go
// into blocks, which tiles take from the front of the memory as they need them, and a row has a table of its blocks.
#ifndef LSTM_FAST_CPU_RESERVE_INL_
#define LSTM_FAST_CPU_RESERVE_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/math.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

template <class Real>
struct Entries {
  Real* first;
  const int32_t* blocks;  // by kBlockSteps entries, the number of their block; null: they follow each other
  int64_t size;           // of an entry

  Real* At(int64_t entry) const {
    const int64_t place = blocks ? blocks[entry / kBlockSteps] * kBlockSteps + entry % kBlockSteps : entry;
    return first + place * size;
  }
};

template <class Real>
int32_t* TableOf(const Direction<Real>& d, const Row& row) {
  return row.table_elements > 0 ? reinterpret_cast<int32_t*>(d.reserve + row.reserve_offset) : nullptr;
}

// A row's gates, [P][5][L] in an entry, or its checkpoints, [2][Hp].
template <class Real>
Entries<Real> EntriesOf(const Direction<Real>& d, const Row& row) {
  const int64_t size = (d.reserve_mode == Reserve::kGates ? 5 : 2) * Sizes<Real>(d).units;
  const int32_t* table = TableOf(d, row);
  return {table ? d.blocks : d.reserve + row.reserve_offset, table, size};
}

// Finds memory for the entries [begin, end) of a row, which has it for those before.
template <class Real>
void TakeBlocks(const Direction<Real>& d, const Row& row, int64_t begin, int64_t end) {
  int32_t* table = TableOf(d, row);
  if (!table) return;
  for (int64_t block = CeilDivide(begin, kBlockSteps); block * kBlockSteps < end; ++block) {
    table[block] = static_cast<int32_t>(__atomic_fetch_add(d.next_block, 1, __ATOMIC_RELAXED));
  }
}

// `steps` real timesteps that follow the first `entry` computed ones and repeat the last `period` of these.
struct Skip {
  int32_t entry, period, steps;
};

// The skips of a row, in the order of the forward pass: at the end of its table or, if it has none, in the entries that
// they have left free at the end of its part. Last stands how many there are, after a number that neither a gate nor a
// state can be; the skips lie before it.
template <class Real>
class Skips {
 public:
  Skips(const Direction<Real>& d, const Row& row) {
    if (row.table_elements > 0) {
      char* end = reinterpret_cast<char*>(d.reserve + row.reserve_offset + row.table_elements);
      end_ = end - sizeof(Real) - sizeof(int32_t);
    } else if (d.repeats && row.count >= kLeastSkip && d.reserve_mode != Reserve::kNone) {
      const bool gates = d.reserve_mode == Reserve::kGates;
      end_ = reinterpret_cast<char*>(
          EntriesOf(d, row).At((gates ? row.count : CeilDivide(row.count, kCheckpointInterval)) - 1));
    }
  }

  int64_t Count() const {
    if (!end_) return 0;
    Real first;
    int32_t count;
    __builtin_memcpy(&first, end_, sizeof first);
    __builtin_memcpy(&count, end_ + sizeof first, sizeof count);
    return first == kMark ? count : 0;
  }

  Skip Get(int64_t n) const {
    Skip skip;
    __builtin_memcpy(&skip, end_ - (n + 1) * kSize, sizeof skip);
    return skip;
  }

  // Is given the number of skips before it.
  void Put(int64_t n, const Skip& skip) const {
    if (!end_) return;
    PutCount(n + 1);
    __builtin_memcpy(end_ - (n + 1) * kSize, &skip, sizeof skip);
  }

  void PutCount(int64_t n) const {
    if (!end_) return;
    const Real first = kMark;
    const int32_t count = static_cast<int32_t>(n);
    __builtin_memcpy(end_, &first, sizeof first);
    __builtin_memcpy(end_ + sizeof first, &count, sizeof count);
  }

 private:
  static constexpr Real kMark = 2;
  static constexpr int64_t kSize = static_cast<int64_t>(sizeof(Skip));
  char* end_ = nullptr;
};

// The states before a row's entry of that number, of which only every kCheckpointInterval-th is kept.
template <class Real>
void KeepCheckpoint(const Direction<Real>& d, const Row& row, int64_t entry, const Real* h, const Real* c) {
  const int64_t padded = Sizes<Real>(d).units;
  Real* kept = EntriesOf(d, row).At(entry / kCheckpointInterval);
  for (int64_t j = 0; j < padded; ++j) {
    kept[j] = h[j];
    kept[padded + j] = c[j];
  }
}

template <class Real>
void ReadCheckpoint(const Direction<Real>& d, const Row& row, int64_t entry, Real* h, Real* c) {
  const int64_t padded = Sizes<Real>(d).units;
  const Real* kept = EntriesOf(d, row).At(entry / kCheckpointInterval);
  for (int64_t j = 0; j < padded; ++j) {
    h[j] = kept[j];
    c[j] = kept[padded + j];
  }
}

// h after a step, from the gates of it that were kept.
template <class Real>
void StateAfter(const Sizes<Real>& sizes, const Real* gates, Real* h) {
  constexpr int64_t kL = kLanes<Real>;
  for (int64_t p = 0; p < sizes.panels; ++p) {
    const Real* kept = gates + p * 5 * kL;
    Store(h + p * kL, Load(kept + 3 * kL) * TanhOf<Real>(Load(kept + 4 * kL)));
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_RESERVE_INL_
