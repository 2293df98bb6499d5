// Gates that the forward pass has not kept: the backward pass computes them again, from checkpoints.
#ifndef LSTM_FAST_CPU_RECOMPUTE_INL_
#define LSTM_FAST_CPU_RECOMPUTE_INL_

#include <cstdint>

#include "cpu/backward_scratch.inl"
#include "cpu/chunk.inl"
#include "cpu/kernel.h"
#include "cpu/project.inl"
#include "cpu/recurrence.inl"
#include "cpu/reserve.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// Makes the gates of some timesteps, from the checkpoints: each member of the team those of some rows.
template <class Real>
void RecomputeGates(const Direction<Real>& d, const Chunk& chunk, const Row* rows, BackwardScratch<Real>& s,
                    const Team& team) {
  const Sizes<Real> sizes(d);
  const Share all_units(d, kAlone);
  Recurrence<Real>& state = s.state;
  const int64_t begin = team.First(chunk.rows), end = team.Last(chunk.rows);
  for (int64_t position = begin; position < end; ++position) {
    const int64_t r = chunk.row[position];
    ReadCheckpoint(d, rows[r], s.part[r].entry, state.h + r * sizes.units, state.c + r * sizes.units);
    for (int64_t step = 0; step < chunk.count[position]; ++step) {
      state.kept[chunk.Pair(step, position)] = s.part[r].entries.At(step);
    }
  }
  s.input.Gather(chunk, rows, begin, end);
  team.Wait();
  ProjectChunk(d, chunk, rows, s.input.operand(), begin, end, team.First(chunk.inputs), team.Last(chunk.inputs),
               state.z, all_units);
  team.Wait();
  RunChunk(d, chunk, begin, end, state, all_units, [](int64_t) {});
}

// The chunk whose gates are to be recomputed, where rows may be in skips: of these, one period.
template <class Real>
void ChunkToRecompute(BackwardScratch<Real>& s) {
  s.again.Clear();
  for (int64_t position = 0; position < s.chunk.rows; ++position) {
    const int64_t r = s.chunk.row[position], period = s.part[r].period;
    s.again.Add(r, s.chunk.from[position], period > 0 ? period : s.chunk.count[position]);
  }
  s.again.Close();
  s.again.Publish();
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_RECOMPUTE_INL_
