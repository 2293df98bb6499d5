// The forward pass of one tile of rows in one direction. A chunk of timesteps is projected, z = x W + b, while it is in
// cache, or copied where x is projected already; then the recurrence runs over it. Padded timesteps are never touched:
// rows run over their real timesteps only.
#ifndef LSTM_FAST_CPU_FORWARD_INL_
#define LSTM_FAST_CPU_FORWARD_INL_

#include <cstddef>
#include <cstdint>

#include "cpu/chunk.inl"
#include "cpu/convert.inl"
#include "cpu/input.inl"
#include "cpu/kernel.h"
#include "cpu/project.inl"
#include "cpu/recurrence.inl"
#include "cpu/repeats.inl"
#include "cpu/reserve.inl"
#include "cpu/scratch.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// Fills the masked timesteps of y: zero, or a copy of the previous output in processing order.
template <class Real>
void FillMaskedOutputs(const Direction<Real>& d, const Row& row) {
  int64_t k = 0, previous = -1;
  for (int64_t n = 0; n < d.time; ++n) {
    const int64_t t = d.reversed ? d.time - 1 - n : n;
    const int64_t offset = OffsetOf(d.y, row, OutputTime(d, t));
    if (k < row.count && TimeOf(d, row, k) == t) {
      previous = offset;
      ++k;
    } else if (d.zero_output_for_mask || previous < 0) {
      ZeroRow(d.dtype, d.y.data, offset, d.units);
    } else {
      const int64_t size = SizeOf(d.dtype);
      char* data = static_cast<char*>(d.y.data);
      __builtin_memcpy(data + offset * size, data + previous * size, static_cast<size_t>(d.units * size));
    }
  }
}

// The row has taken its last step: h and c are its final states.
template <class Real>
void StoreFinal(const Direction<Real>& d, const Row& row, const Real* h, const Real* c) {
  if (d.h_n) StoreRow(d.dtype, d.h_n, row.batch * d.units, d.units, h);
  if (d.c_n) StoreRow(d.dtype, d.c_n, row.batch * d.units, d.units, c);
  if (!d.y.data) return;
  if (d.return_sequences) {
    if (row.count < d.time) FillMaskedOutputs(d, row);
  } else if (LastStepIsReal(d, row) || (row.count > 0 && !d.zero_output_for_mask)) {
    StoreRow(d.dtype, d.y.data, OffsetOf(d.y, row, 0), d.units, h);
  } else {
    ZeroRow(d.dtype, d.y.data, OffsetOf(d.y, row, 0), d.units);
  }
}

template <class Real>
struct ForwardScratch {
  ForwardScratch(Real* base, const Direction<Real>& d, int64_t row_count)
      : scratch(base),
        chunk(TakeChunk(scratch, d, row_count)),
        input(scratch, d, row_count),
        state(scratch, d, row_count),
        orbits(scratch, d, row_count) {
    done = scratch.template Take<int64_t>(row_count);
    entry = scratch.template Take<int64_t>(row_count);
  }
  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Recurrence<Real> state;
  Orbits<Real> orbits;
  int64_t* done;   // by row: real timesteps that are done
  int64_t* entry;  // by row: those of them that were computed
};

template <class Real>
int64_t ForwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return ForwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

// Chooses what the rows do in the next chunk, and takes it off what they have to do.
template <class Real>
void NextForwardChunk(const Direction<Real>& d, const Row* rows, int64_t row_count, ForwardScratch<Real>& s,
                      const Team& team) {
  const int64_t padded = Sizes<Real>(d).units;
  Chunk& chunk = s.chunk;
  chunk.Clear();
  for (int64_t r = 0; r < row_count; ++r) {
    const Row& row = rows[r];
    if (s.done[r] == row.count) continue;
    const Real *h = s.state.h + r * padded, *c = s.state.c + r * padded;
    if (const int64_t skipped = s.orbits.Leave(row, r, s.done[r], s.entry[r], team)) {
      s.done[r] += skipped;
      if (d.reserve_mode == Reserve::kRecompute) KeepCheckpoint(d, row, s.entry[r], h, c);
      if (s.done[r] == row.count) {
        StoreFinal(d, row, h, c);
        continue;
      }
    }
    const int64_t left = row.count - s.done[r], count = Least(left, d.chunk_steps);
    if (d.reserve_mode == Reserve::kRecompute) KeepCheckpoint(d, row, s.entry[r], h, c);  // chunks lie between two
    chunk.Add(r, s.done[r], count);
    s.done[r] += count;
    s.entry[r] += count;
  }
  chunk.Close();
  NumberInputs(d, rows, chunk, [](int64_t) { return false; });
  s.orbits.Watch(rows, chunk, s.state.h, s.state.c);
  for (int64_t position = 0; position < chunk.rows; ++position) {
    const int64_t r = chunk.row[position], entry = s.entry[r] - chunk.count[position];
    const bool keeps = d.reserve_mode == Reserve::kGates;
    if (keeps) TakeBlocks(d, rows[r], entry, s.entry[r]);
    const Entries<Real> entries = EntriesOf(d, rows[r]);
    for (int64_t step = 0; step < chunk.count[position]; ++step) {
      s.state.kept[chunk.Pair(step, position)] = keeps ? entries.At(entry + step) : nullptr;
    }
  }
  s.input.Gather(chunk, rows, 0, chunk.rows);
  chunk.Publish();
}

template <class Real>
void ForwardTile(const Direction<Real>& d, const Row* rows, int64_t row_count, Real* scratch_memory, const Team& team) {
  ForwardScratch<Real> scratch(scratch_memory, d, row_count);
  Chunk& chunk = scratch.chunk;
  Recurrence<Real>& state = scratch.state;
  const int64_t padded = Sizes<Real>(d).units;
  const bool leads = team.rank == 0;
  const Share share(d, team);

  if (leads) {
    scratch.input.LoadMasks(rows, 0, row_count);
    if (d.recurrent_dropout) LoadRecurrentMasks(d, rows, row_count, state.masks);
    LoadState(d, d.h0, rows, row_count, state.h);
    LoadState(d, d.c0, rows, row_count, state.c);
    scratch.orbits.Start();
    for (int64_t r = 0; r < row_count; ++r) {
      scratch.done[r] = scratch.entry[r] = 0;
      if (rows[r].table_elements > 0) Skips<Real>(d, rows[r]).PutCount(0);
      if (rows[r].count == 0) StoreFinal(d, rows[r], state.h + r * padded, state.c + r * padded);
    }
  }

  for (;;) {
    if (leads) NextForwardChunk(d, rows, row_count, scratch, team);
    team.Wait();
    chunk.Read();
    if (chunk.rows == 0) return;
    ProjectChunk(d, chunk, rows, scratch.input.operand(), 0, chunk.rows, 0, chunk.inputs, state.z, share);
    RunChunk(d, chunk, 0, chunk.rows, state, share, [&](int64_t step) {
      const int64_t active = chunk.active[step];
      for (int64_t position = 0; position < active && d.return_sequences && d.y.data; ++position) {
        const int64_t r = chunk.row[position];
        const int64_t time = OutputTime(d, TimeOf(d, rows[r], chunk.from[position] + step));
        const int64_t offset = OffsetOf(d.y, rows[r], time) + share.first_unit;
        StoreRow(d.dtype, d.y.data, offset, share.units, state.h_next + r * padded + share.first_unit);
      }
      scratch.orbits.Compare(chunk, step, state.h_next, state.c, share, team);
      team.Wait();
      for (int64_t position = 0; position < active && leads; ++position) {  // a finished row's h and c stay as they are
        const int64_t r = chunk.row[position];
        if (chunk.from[position] + step + 1 < rows[r].count) continue;
        StoreFinal(d, rows[r], state.h_next + r * padded, state.c + r * padded);
      }
    });
  }
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_FORWARD_INL_
