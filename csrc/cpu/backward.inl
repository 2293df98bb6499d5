// The backward pass of one tile of rows in one direction: chunks of timesteps from the last to the first. Within a
// chunk the recurrence in reverse gives dz; the products with W^T, x^T and h^T follow while dz is in cache. Where x is
// projected already, W has no rows, so that its two products come to nothing, and dx is dz.
//
// Timesteps that the forward pass skipped have the gates of those that they repeat. dz differs from one to the next,
// but x and h do not, or only with the period: there dz is summed first, and multiplied once in a chunk.
#ifndef LSTM_FAST_CPU_BACKWARD_INL_
#define LSTM_FAST_CPU_BACKWARD_INL_

#include <cstdint>

#include "cpu/backward_scratch.inl"
#include "cpu/backward_skip.inl"
#include "cpu/backward_zeros.inl"
#include "cpu/chunk.inl"
#include "cpu/convert.inl"
#include "cpu/gradient.inl"
#include "cpu/input_gradient.inl"
#include "cpu/kernel.h"
#include "cpu/math.inl"
#include "cpu/output_gradient.inl"
#include "cpu/recompute.inl"
#include "cpu/repeats.inl"
#include "cpu/reserve.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "cpu/transposed.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// One row, one step back: dh and dc of this step give dz and the dc of the step before. h = o * tanh(c) is computed
// again rather than kept; `h` receives it. The gates of the steps that come soon lie `ahead` elements on.
template <class Real>
LSTM_FAST_INLINE void StepBack(const Sizes<Real>& sizes, const Share& share, int64_t units, const Real* gates,
                               int64_t ahead, const Real* c_before, int64_t c_before_stride, const Real* dh, Real* dc,
                               Real* dz, int64_t dz_stride, Real* h) {
  constexpr int64_t kL = kLanes<Real>;
  const Vector<Real> one = Broadcast(Real(1));
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* kept = gates + p * 5 * kL;
    Prefetch(kept, ahead, 5 * kL);  // before the first: no harm
    const Vector<Real> in = Load(kept), forget = Load(kept + kL), candidate = Load(kept + 2 * kL);
    const Vector<Real> out = Load(kept + 3 * kL), tanh_c = TanhOf<Real>(Load(kept + 4 * kL));
    const Vector<Real> dh_p = Load(dh + p * kL);
    if (h) Store(h + p * kL, out * tanh_c);
    const Vector<Real> d_out = dh_p * tanh_c;
    const Vector<Real> d_c = MultiplyAdd(dh_p * out, one - tanh_c * tanh_c, Load(dc + p * kL));
    const Vector<Real> d_in = d_c * candidate, d_candidate = d_c * in;
    const Vector<Real> d_forget = d_c * Load(c_before + p * c_before_stride);
    Real* to = dz + p * dz_stride;
    Store(dc + p * kL, d_c * forget);
    Store(to, d_in * in * (one - in));
    Store(to + kL, d_forget * forget * (one - forget));
    Store(to + 2 * kL, d_candidate * (one - candidate * candidate));
    Store(to + 3 * kL, d_out * out * (one - out));
  }
  // Padding lanes are summed over later: an infinity there must not become NaN.
  if (share.last < sizes.panels) return;
  Real* last = dz + (sizes.panels - 1) * dz_stride;
  for (int64_t lane = units - (sizes.panels - 1) * kL; lane < kL; ++lane) {
    for (int64_t gate = 0; gate < 4; ++gate) last[gate * kL + lane] = 0;
  }
}

// Chooses what the rows do in the next chunk, which is in no row more than a skip or what lies between two, and takes
// it off what they have to do. Rows that go through skips by themselves do so here.
template <class Real>
void NextBackwardChunk(const Direction<Real>& d, const Row* rows, int64_t row_count, BackwardScratch<Real>& s,
                       Gradients<Real>& gradients) {
  const bool recompute = d.reserve_mode == Reserve::kRecompute;
  Chunk& chunk = s.chunk;
  chunk.Clear();
  int64_t rows_left = 0;
  for (int64_t r = 0; r < row_count; ++r) rows_left += s.remaining[r].timesteps > 0 ? 1 : 0;
  const int64_t most_steps = StepsOfChunk(d, row_count, rows_left);
  for (int64_t r = 0; r < row_count; ++r) {
    const Row& row = rows[r];
    Remaining& left = s.remaining[r];
    PassZeros(d, row, r, s);
    if (left.InSkip() && d.skips_by_row) {
      BackThroughSkip(d, rows, r, s, gradients);
      PassZeros(d, row, r, s);
    }
    if (left.timesteps == 0) continue;
    BackwardPart<Real>& part = s.part[r];
    const int64_t timesteps = left.timesteps;
    part = {recompute ? s.RecomputedEntries(d, r) : EntriesOf(d, row), 0, left.entries, 0, 0};
    if (left.InSkip()) {
      const int64_t count = Least(most_steps, left.skipped);
      part.period = left.skip.period;
      part.phase = (left.skipped - count) % part.period;
      if (!recompute) part.first = left.entries - part.period;
      TakeSkipped(d, row, count, left);
    } else {
      int64_t count = Least(most_steps, left.entries - left.skip.entry);
      if (recompute) count = Least(count, (left.entries - 1) % kCheckpointInterval + 1);
      left.timesteps -= count;
      left.entries -= count;
      part.entry = left.entries;
      if (!recompute) part.first = part.entry;
    }
    chunk.Add(r, left.timesteps, timesteps - left.timesteps);
  }
  chunk.Close();
  NumberInputs(d, rows, chunk, [&](int64_t position) { return s.part[chunk.row[position]].period > 0; });
  NumberStates(d, chunk, [&](int64_t position) { return s.part[chunk.row[position]].period; });
  if (recompute && d.repeats) ChunkToRecompute(s);
  chunk.Publish();
}

// Makes h and c before the first step of the chunk available for the rows at the positions [begin, end); their gates
// are.
template <class Real>
void PrepareStart(const Direction<Real>& d, const Row* rows, int64_t begin, int64_t end, BackwardScratch<Real>& s) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const bool recompute = d.reserve_mode == Reserve::kRecompute;
  for (int64_t position = begin; position < end; ++position) {
    const int64_t r = s.chunk.row[position];
    const BackwardPart<Real>& part = s.part[r];
    Real *h = s.h_rows + s.chunk.StateOf(position) * sizes.units, *c = s.c_start + r * sizes.units;
    if (part.period == 0 && part.entry == 0) {
      LoadState(d, d.h0, rows + r, 1, h);
      LoadState(d, d.c0, rows + r, 1, c);
      continue;
    }
    if (recompute && part.period == 0) {
      ReadCheckpoint(d, rows[r], part.entry, h, c);
      continue;
    }
    const Real* gates = part.GatesBefore(0);
    StateAfter(sizes, gates, h);
    for (int64_t p = 0; p < sizes.panels; ++p) Store(c + p * kL, Load(gates + (p * 5 + 4) * kL));
  }
}

// Makes what the chunk's steps and products need, each member of the team for some rows.
template <class Real>
void PrepareChunk(const Direction<Real>& d, const Row* rows, BackwardScratch<Real>& s, const Team& team) {
  const bool recompute = d.reserve_mode == Reserve::kRecompute;
  const int64_t begin = team.First(s.chunk.rows), end = team.Last(s.chunk.rows);
  if (recompute && d.repeats) {
    s.again.Read();
    RecomputeGates(d, s.again, rows, s, team);
    team.Wait();  // its rows are in another order
  } else if (recompute) {
    RecomputeGates(d, s.chunk, rows, s, team);
  }
  PrepareStart(d, rows, begin, end, s);
  if (!recompute || d.repeats) s.input.Gather(s.chunk, rows, begin, end);
  ForPairsByRow(s.chunk, begin, d.dx.data && !d.projected ? end : begin, [&](int64_t r, int64_t k, int64_t pair) {
    s.pair_row[pair] = r;
    s.pair_offset[pair] = OffsetOf(d.dx, rows[r], TimeOf(d, rows[r], k));
  });
  if (team.groups < team.size) team.Wait();  // the members of a group go on with what others have made
}

// dh of the step before: dz U^T, for the rows at the positions [begin, end).
template <class Real>
void PropagateState(const Direction<Real>& d, const Share& share, int64_t step, int64_t begin, int64_t end,
                    BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  const int64_t* row = s.chunk.row + begin;
  const auto mask_of = [&](int64_t n) { return s.masks + row[n] * 4 * padded; };
  const auto store = [&](int64_t n, int64_t column, const Real* values, int64_t valid) {
    Real* to = s.dh + row[n] * padded + column;
    for (int64_t j = 0; j < valid; ++j) to[j] = values[j];
  };
  ForTransposedProduct(d, d.recurrent_kernel_transposed, d.recurrent_dropout != nullptr,
                       {s.dz, s.chunk.total, s.chunk.Pair(step, begin), end - begin, d.units, share.first_unit,
                        share.first_unit + share.units, padded},
                       mask_of, store);
}

// h before each pair of the rows at the positions [begin, end), times the dropout masks, becomes the left operand of
// the recurrent kernel's gradient.
template <class Real>
void PrepareStates(const Direction<Real>& d, int64_t begin, int64_t end, BackwardScratch<Real>& s) {
  const Sizes<Real> sizes(d);
  for (int64_t step = 0; step < s.chunk.steps; ++step) {
    for (int64_t position = begin; position < end && position < s.chunk.active[step]; ++position) {
      const int64_t r = s.chunk.row[position], period = s.part[r].period;
      if (period > 0 && step >= period) continue;  // a state that the row has had in this chunk
      const int64_t n = s.chunk.StateOf(s.chunk.Pair(step, position));
      Real* h = s.h_rows + n * sizes.units;
      s.h_before.rows[n] = h;
      if (d.recurrent_dropout) MaskState(sizes, s.masks + r * 4 * sizes.units, s.h_before.gate_stride, h);
    }
  }
}

// Whether a step of the chunk is not the first timestep of a row, of those at the positions [begin, end).
inline bool AnyFollows(const Chunk& chunk, int64_t step, int64_t begin, int64_t end) {
  for (int64_t position = begin; position < end; ++position) {
    if (chunk.from[position] + step > 0) return true;
  }
  return false;
}

// Goes back through the steps of a chunk with the rows of this member's group.
template <class Real>
void StepsBack(const Direction<Real>& d, const Row* rows, BackwardScratch<Real>& s, const Team& team) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Team group = team.Group();
  const Share share(d, group);
  const Chunk& chunk = s.chunk;
  const int64_t begin = team.FirstOfGroup(chunk.rows), end = team.LastOfGroup(chunk.rows);
  Real* dy = s.dy + begin * sizes.units + share.first_unit;
  for (int64_t step = chunk.steps - 1; step >= 0; --step) {
    const int64_t active = Least(chunk.active[step], end);
    if (active <= begin) continue;
    for (int64_t position = begin; position < active; ++position) {
      const int64_t r = chunk.row[position], k = chunk.from[position] + step;
      const BackwardPart<Real>& part = s.part[r];
      Real* dh = s.dh + r * sizes.units;
      AddOutputGradient(d, rows[r], k, share.first_unit, share.units, dy, dh + share.first_unit);
      if (k > 0) PrefetchOutputGradient(d, rows[r], k - 1, share);
      const bool from_start = step == 0 && part.period == 0;
      const Real* c_before = from_start ? s.c_start + r * sizes.units : part.GatesBefore(step) + 4 * kL;
      // This step's h is the state before the next one. In a skip, that of a later period is the same.
      const int64_t next = step + 1;
      const bool wanted = next < chunk.count[position] && (part.period == 0 || next < part.period);
      // c of the step before is read in this one.
      const Real *gates = part.Gates(step), *soon = step < 2 || part.period > 0 ? gates : part.Gates(step - 2);
      StepBack<Real>(sizes, share, d.units, gates, soon - gates, c_before, from_start ? kL : 5 * kL, dh,
                     s.dc + r * sizes.units, s.dz + chunk.Pair(step, position) * sizes.width, chunk.total * sizes.width,
                     wanted ? s.h_rows + chunk.StateOf(chunk.Pair(next, position)) * sizes.units : nullptr);
    }
    group.Wait();  // for the whole of dz
    if (d.dh0 || AnyFollows(chunk, step, begin, active)) PropagateState(d, share, step, begin, active, s);
  }
  if (group.rank == 0) PrepareStates(d, begin, end, s);
  if (d.dx.data && d.projected) StoreProjectedGradient(d, rows, begin, end, s, share);
}

// Adds the chunk's part of the gradients of the weights. `any_state`: a step of it has a state before it.
template <class Real>
void AccumulateWeights(const Direction<Real>& d, BackwardScratch<Real>& s, bool any_state, Gradients<Real>& gradients,
                       const Team& team) {
  const Sizes<Real> sizes(d);
  const Share share(d, team);
  const Chunk& chunk = s.chunk;
  const Operand<Real>& inputs = s.input.operand();
  const bool fresh = gradients.fresh;
  gradients.fresh = false;
  // A team packs both operands before it meets. A single thread has the second in a cache when it needs it.
  const bool both = team.size > 1 && !chunk.SharesStates();
  Real* packed_states = both ? s.packed_states : s.packed;
  const Real* of_inputs = SumByNumber(sizes, share, chunk, chunk.input_of, chunk.inputs, s.dz, s.dz_sums);
  PackOperand(inputs, d.input, chunk.inputs, s.packed, team);
  if (any_state && both) PackOperand(s.h_before, d.units, chunk.states, packed_states, team);
  team.Wait();
  AccumulateMatrix(d, inputs.per_gate, s.packed, of_inputs, chunk.inputs, fresh, gradients.kernel, team);
  AccumulateBias(sizes, share, of_inputs, chunk.inputs, fresh, gradients.bias);
  if (!any_state) {  // a single step, from no state
    if (fresh) ClearGradient(sizes, share, gradients.recurrent_kernel);
    return;
  }
  const Real* of_states = s.dz;
  if (!both) {
    team.Wait();  // before `packed` and the sums are overwritten
    of_states = SumByNumber(sizes, share, chunk, chunk.state_of, chunk.states, s.dz, s.dz_sums);
    PackOperand(s.h_before, d.units, chunk.states, packed_states, team);
    team.Wait();
  }
  AccumulateMatrix(d, s.h_before.per_gate, packed_states, of_states, chunk.states, fresh, gradients.recurrent_kernel,
                   team);
}

template <class Real>
void BackwardTile(const Direction<Real>& d, const Row* rows, int64_t row_count, const WeightGradient<Real>& gradient,
                  Real* scratch_memory, const Team& team) {
  BackwardScratch<Real> s(scratch_memory, d, row_count);
  Chunk& chunk = s.chunk;
  const Sizes<Real> sizes(d);
  const int64_t begin = team.First(row_count), end = team.Last(row_count), count = end - begin;

  s.input.LoadMasks(rows, begin, end);
  if (d.recurrent_dropout) {
    const int64_t offset = begin * 4 * sizes.units;
    LoadRecurrentMasks(d, rows + begin, count, s.masks + offset);
    if (d.reserve_mode == Reserve::kRecompute) LoadRecurrentMasks(d, rows + begin, count, s.state.masks + offset);
  }
  LoadState(d, d.dh_n, rows + begin, count, s.dh + begin * sizes.units);
  LoadState(d, d.dc_n, rows + begin, count, s.dc + begin * sizes.units);
  for (int64_t r = begin; r < end; ++r) {
    Remaining& left = s.remaining[r];
    left = {rows[r].count, rows[r].count, Skips<Real>(d, rows[r]).Count(), {}, 0};
    for (int64_t n = 0; n < left.skips; ++n) left.entries -= Skips<Real>(d, rows[r]).Get(n).steps;
    LoadSkip(d, rows[r], left);
    if (d.dx.data && !d.dx_accumulates && rows[r].count < d.time) ZeroMaskedInputGradient(d, rows[r]);
  }
  team.Wait();

  Gradients<Real> gradients(d, gradient);
  for (;;) {
    if (team.rank == 0) NextBackwardChunk(d, rows, row_count, s, gradients);
    team.Wait();
    chunk.Read();
    if (chunk.rows == 0) break;
    PrepareChunk(d, rows, s, team);
    StepsBack(d, rows, s, team);
    const bool any_state = chunk.steps > 1 || d.h0 || AnyFollows(chunk, 0, 0, chunk.active[0]);
    team.Wait();  // for dz and h; the leader may overwrite the chunk's lists from here on
    AccumulateWeights(d, s, any_state, gradients, team);
    if (d.dx.data && !d.projected) StoreInputGradient(d, s, team);
    if (d.repeats) team.Wait();  // the leader may then overwrite the packed operands, and the chunk's numbers
  }
  if (gradients.fresh) {  // no row has a timestep
    const Share share(d, team);
    ClearGradient(sizes, share, gradients.kernel);
    ClearGradient(sizes, share, gradients.recurrent_kernel);
    ClearGradient(sizes, share, gradients.bias);
  }

  for (int64_t r = begin; r < end; ++r) {
    const int64_t offset = rows[r].batch * d.units;
    if (d.dh0) StoreRow(d.dtype, d.dh0, offset, d.units, s.dh + r * sizes.units);
    if (d.dc0) StoreRow(d.dtype, d.dc0, offset, d.units, s.dc + r * sizes.units);
  }
  team.Wait();  // before the next tile overwrites the states
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_BACKWARD_INL_
