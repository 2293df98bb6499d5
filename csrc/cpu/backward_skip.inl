// The backward pass of one row through timesteps that the forward pass has skipped. Their gates repeat, so that one
// step back is a fixed linear function, which is worth putting together first:
//
//   dc' = dc + dh b    dh_before = dc' G1 + dh G2    dc_before = dc' f    dx = dc' V1 + dh V2
//
// b, f and the factors a in dz = (dc' a_i, dc' a_f, dc' a_c, dh a_o) come from the gates, and G from U^T, V from W^T by
// a: half of the products of dz U^T and dz W^T, whatever else there is of dz only as a sum. A row reads matrices of its
// own, which is worth it as long as they stay in a cache; elsewhere the rows of a tile go through skips together.
#ifndef LSTM_FAST_CPU_BACKWARD_SKIP_INL_
#define LSTM_FAST_CPU_BACKWARD_SKIP_INL_

#include <cstdint>

#include "cpu/backward_scratch.inl"
#include "cpu/backward_zeros.inl"
#include "cpu/chunk.inl"
#include "cpu/gradient.inl"
#include "cpu/input_gradient.inl"
#include "cpu/kernel.h"
#include "cpu/math.inl"
#include "cpu/output_gradient.inl"
#include "cpu/product.inl"
#include "cpu/project.inl"
#include "cpu/recompute.inl"
#include "cpu/repeats.inl"
#include "cpu/reserve.inl"
#include "cpu/simd.inl"
#include "cpu/tile.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

// The factors of one step from its gates and c before it. In padding lanes they are 0.
template <class Real>
void MakeFactors(const Direction<Real>& d, const Real* gates, const Real* gates_before, Real* factors) {
  using S = SkipScratch<Real>;
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Vector<Real> one = Broadcast(Real(1));
  for (int64_t p = 0; p < sizes.panels; ++p) {
    const Real *kept = gates + p * 5 * kL, *before = gates_before + p * 5 * kL;
    const Vector<Real> in = Load(kept), forget = Load(kept + kL), candidate = Load(kept + 2 * kL);
    const Vector<Real> out = Load(kept + 3 * kL), tanh_c = TanhOf<Real>(Load(kept + 4 * kL));
    Real* to = factors + p * kL;
    Store(to + S::kIn * sizes.units, candidate * in * (one - in));
    Store(to + S::kForget * sizes.units, Load(before + 4 * kL) * forget * (one - forget));
    Store(to + S::kCandidate * sizes.units, in * (one - candidate * candidate));
    Store(to + S::kOut * sizes.units, tanh_c * out * (one - out));
    Store(to + S::kCell * sizes.units, out * (one - tanh_c * tanh_c));
    Store(to + S::kKept * sizes.units, forget);
  }
  for (int64_t factor = 0; factor < S::kFactors; ++factor) {
    for (int64_t j = d.units; j < sizes.units; ++j) factors[factor * sizes.units + j] = 0;
  }
}

// G or V of one step: of the transposed matrix [4H, columns] the rows of each unit's gates, times their factors, summed
// over the gates that dc' goes to, and over the one that dh goes to. mask: [4][mask_stride] multipliers of the columns,
// or null.
template <class Real>
void CombineGates(const Direction<Real>& d, const Real* factors, const Real* transposed, int64_t columns,
                  const Real* mask, int64_t mask_stride, Real* combined) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  for (int64_t first = 0; first < columns; first += sizes.width) {
    const int64_t padded = CeilDivide(columns - first, kL) * kL, width = Least(padded, sizes.width);
    for (int64_t k = 0; k < d.units; ++k) {
      const Real* rows = transposed + (k / kL * sizes.width + k % kL) * width;
      for (int64_t column = 0; column < width; column += kL) {
        Vector<Real> parts[4];
        LSTM_FAST_UNROLL
        for (int gate = 0; gate < 4; ++gate) {
          parts[gate] = Broadcast(factors[gate * sizes.units + k]) * Load(rows + gate * kL * width + column);
          if (mask) parts[gate] *= LoadPart(mask + gate * mask_stride + first + column, columns - first - column);
        }
        Store(combined + k * width + column, parts[0] + parts[1] + parts[2]);
        Store(combined + (sizes.units + k) * width + column, parts[3]);
      }
    }
    transposed += sizes.panels * sizes.width * width;
    combined += 2 * sizes.units * width;
  }
}

// dh before a step: dc' G1 + dh G2, each summed by itself, so that one need not wait for the other.
template <class Real>
void FlowBack(const Direction<Real>& d, const Real* flow, const Real* of_state, Real* dh) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  for (int64_t first = 0; first < d.units; first += sizes.width) {
    const int64_t width = Least(sizes.units - first, sizes.width);
    CallWithVectors(width / kL, [&](auto vectors) {
      constexpr int kVectors = decltype(vectors)::value;
      Vector<Real> of_cell[kVectors], of_output[kVectors];
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) of_cell[v] = of_output[v] = Vector<Real>{};
      const Real *cell_row = of_state, *output_row = of_state + sizes.units * width;
      for (int64_t k = 0; k < d.units; ++k) {
        const Vector<Real> dc = Broadcast(flow[k]), dh_k = Broadcast(flow[sizes.units + k]);
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          of_cell[v] = MultiplyAdd(dc, Load(cell_row + v * kL), of_cell[v]);
          of_output[v] = MultiplyAdd(dh_k, Load(output_row + v * kL), of_output[v]);
        }
        cell_row += width;
        output_row += width;
      }
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) Store(dh + first + v * kL, of_cell[v] + of_output[v]);
    });
    of_state += 2 * sizes.units * width;
  }
}

// dx of `count` timesteps that are `period` apart, from what flows back in them: rows of `flow`, [2][Hp] each, that far
// apart. store(n, column, values, valid) takes up to 4L values of the n-th.
template <class Real, class StoreValues>
void FlowToInput(const Direction<Real>& d, const Real* flow, int64_t period, int64_t count, const Real* of_input,
                 const StoreValues& store) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  for (int64_t column = 0; column < d.input; column += sizes.width) {
    const int64_t padded = CeilDivide(d.input - column, kL) * kL, width = Least(padded, sizes.width);
    const int64_t valid = Least(d.input - column, width);
    const Extent extent = {2, d.units, sizes.units, sizes.units * width, width};
    ForRegisterTiles(count, [&](auto register_tile, int64_t first) {
      constexpr int kRows = decltype(register_tile)::value;
      const Real* left[kRows];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) left[i] = flow + (first + i) * period * 2 * sizes.units;
      CallWithVectors(width / kL, [&](auto vectors) {
        constexpr int kVectors = decltype(vectors)::value;
        Vector<Real> sums[kRows][kVectors];
        LSTM_FAST_UNROLL
        for (int i = 0; i < kRows; ++i) {
          LSTM_FAST_UNROLL
          for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
        }
        MultiplyPanel<Real, kRows, kVectors, 1, false>(left, 0, extent, of_input, sums);
        LSTM_FAST_UNROLL
        for (int i = 0; i < kRows; ++i) {
          Real out[kVectors * kL];
          LSTM_FAST_UNROLL
          for (int v = 0; v < kVectors; ++v) Store(out + v * kL, sums[i][v]);
          store(first + i, column, out, valid);
        }
      });
    });
    of_input += 2 * sizes.units * width;
  }
}

// dx of a projected input is dz: gate after gate.
template <class Real, class StoreValues>
void FlowToProjected(const Direction<Real>& d, const Real* flow, const Real* factors, const StoreValues& store) {
  const int64_t padded = Sizes<Real>(d).units;
  Real values[kLanes<Real>];
  for (int64_t gate = 0; gate < 4; ++gate) {
    const Real *from = flow + (gate == 3 ? padded : 0), *factor = factors + gate * padded;
    for (int64_t j = 0; j < d.units; j += kLanes<Real>) {
      Store(values, Load(from + j) * Load(factor + j));
      store(gate * d.units + j, values, Least(d.units - j, kLanes<Real>));
    }
  }
}

// Makes what a row needs to go through a skip.
template <class Real>
void PrepareSkip(const Direction<Real>& d, const Row* rows, int64_t r, BackwardScratch<Real>& s) {
  const Sizes<Real> sizes(d);
  const int64_t padded = sizes.units;
  const Remaining& left = s.remaining[r];
  const int64_t period = left.skip.period;
  SkipScratch<Real>& skip = s.skip;
  const bool recompute = d.reserve_mode == Reserve::kRecompute;
  BackwardPart<Real>& part = s.part[r];
  part = {recompute ? s.RecomputedEntries(d, r) : EntriesOf(d, rows[r]), recompute ? 0 : left.entries - period,
          left.entries, period, 0};
  s.again.Clear();
  s.again.Add(r, left.timesteps - left.skipped, period);
  s.again.Close();
  if (recompute) {
    RecomputeGates(d, s.again, rows, s, kAlone);
  } else {
    s.input.Gather(s.again, rows, 0, 1);
  }
  for (int64_t phase = 0; phase < period; ++phase) {
    const Real* before = part.GatesBefore(phase);
    Real* factors = skip.factors + phase * SkipScratch<Real>::kFactors * padded;
    MakeFactors(d, part.Gates(phase), before, factors);
    CombineGates(d, factors, d.recurrent_kernel_transposed, d.units,
                 d.recurrent_dropout ? s.masks + r * 4 * padded : nullptr, padded,
                 skip.of_state + phase * skip.MatrixSize(d, d.units));
    if (d.dx.data && !d.projected) {
      CombineGates(d, factors, d.kernel_transposed, d.input, d.input_dropout ? s.input.mask(r, 0) : nullptr, d.input,
                   skip.of_input + phase * skip.MatrixSize(d, d.input));
    }
    Real* h = skip.states + phase * padded;
    StateAfter(sizes, before, h);
    s.h_before.rows[phase] = h;
    if (d.recurrent_dropout) MaskState(sizes, s.masks + r * 4 * padded, kMostPeriod * padded, h);
  }
  for (int64_t j = 0; j < period * 2 * padded; ++j) skip.sums[j] = 0;
}

// Takes a row back through `count` timesteps of a skip, of which `left` remain, and stores their dx.
template <class Real>
void StepsBackInSkip(const Direction<Real>& d, const Row& row, int64_t r, int64_t count, BackwardScratch<Real>& s) {
  using S = SkipScratch<Real>;
  const int64_t padded = Sizes<Real>(d).units;
  const Remaining& left = s.remaining[r];
  SkipScratch<Real>& skip = s.skip;
  Real *dh = s.dh + r * padded, *dc = s.dc + r * padded;
  const int64_t period = left.skip.period, first = left.skipped - count;
  const auto phase_of = [&](int64_t n) { return (first + n) % period; };
  const auto factors_of = [&](int64_t phase) { return skip.factors + phase * S::kFactors * padded; };
  for (int64_t n = count - 1; n >= 0; --n) {
    const int64_t k = left.timesteps - count + n, phase = phase_of(n);
    const Real* factors = factors_of(phase);
    Real *flow = skip.flow + n * 2 * padded, *sums = skip.sums + phase * 2 * padded;
    AddOutputGradient(d, row, k, 0, d.units, s.dy, dh);
    if (k > 0) PrefetchOutputGradient(d, row, k - 1, Share(d, kAlone));
    for (int64_t j = 0; j < padded; j += kLanes<Real>) {
      const Vector<Real> dh_j = Load(dh + j);
      const Vector<Real> dc_j = MultiplyAdd(dh_j, Load(factors + S::kCell * padded + j), Load(dc + j));
      Store(flow + j, dc_j);
      Store(flow + padded + j, dh_j);
      Store(sums + j, Load(sums + j) + dc_j);
      Store(sums + padded + j, Load(sums + padded + j) + dh_j);
      Store(dc + j, dc_j * Load(factors + S::kKept * padded + j));
    }
    FlowBack(d, flow, skip.of_state + phase * skip.MatrixSize(d, d.units), dh);
  }
  if (!d.dx.data) return;
  const auto offset_of = [&](int64_t n) { return OffsetOf(d.dx, row, TimeOf(d, row, left.timesteps - count + n)); };
  for (int64_t n = 0; n < count && d.projected; ++n) {
    FlowToProjected(d, skip.flow + n * 2 * padded, factors_of(phase_of(n)),
                    [&](int64_t column, const Real* values, int64_t valid) {
                      StoreInputGradientPart(d, offset_of(n) + column, valid, values);
                    });
  }
  for (int64_t start = 0; start < period && start < count && !d.projected; ++start) {
    FlowToInput(d, skip.flow + start * 2 * padded, period, CeilDivide(count - start, period),
                skip.of_input + phase_of(start) * skip.MatrixSize(d, d.input),
                [&](int64_t n, int64_t column, const Real* values, int64_t valid) {
                  StoreInputGradientPart(d, offset_of(start + n * period) + column, valid, values);
                });
  }
}

// Takes a row back through a skip, and adds its part of the gradients of the weights.
template <class Real>
void BackThroughSkip(const Direction<Real>& d, const Row* rows, int64_t r, BackwardScratch<Real>& s,
                     Gradients<Real>& gradients) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Share share(d, kAlone);
  PrepareSkip(d, rows, r, s);
  SkipScratch<Real>& skip = s.skip;
  Remaining& left = s.remaining[r];
  const int64_t period = left.skip.period, skips = left.skips;
  while (left.skips == skips) {
    PassZeros(d, rows[r], r, s);
    if (left.skips != skips) break;
    const int64_t count = Least(left.skipped, skip.kStepsAtOnce);
    StepsBackInSkip(d, rows[r], r, count, s);
    TakeSkipped(d, rows[r], count, left);
  }
  for (int64_t p = 0; p < sizes.panels; ++p) {
    for (int64_t phase = 0; phase < period; ++phase) {
      const Real* sums = skip.sums + phase * 2 * sizes.units + p * kL;
      const Real* factors = skip.factors + phase * skip.kFactors * sizes.units + p * kL;
      Real* to = skip.dz + (p * period + phase) * sizes.width;
      for (int64_t gate = 0; gate < 4; ++gate) {
        Store(to + gate * kL, Load(sums + (gate == 3 ? sizes.units : 0)) * Load(factors + gate * sizes.units));
        for (int64_t lane = 0; lane < kL; ++lane) {
          if (p * kL + lane >= d.units) to[gate * kL + lane] = 0;
        }
      }
    }
  }
  const Operand<Real> states = {s.h_before.rows, kMostPeriod * sizes.units, s.h_before.per_gate};
  PackOperand(s.input.operand(), d.input, period, s.packed, kAlone);
  AccumulateMatrix(d, s.input.operand().per_gate, s.packed, skip.dz, period, gradients.fresh, gradients.kernel, kAlone);
  PackOperand(states, d.units, period, s.packed, kAlone);
  AccumulateMatrix(d, states.per_gate, s.packed, skip.dz, period, gradients.fresh, gradients.recurrent_kernel, kAlone);
  AccumulateBias(sizes, share, skip.dz, period, gradients.fresh, gradients.bias);
  gradients.fresh = false;
}

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_BACKWARD_SKIP_INL_
