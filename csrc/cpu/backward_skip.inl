// The backward pass of one row through timesteps that the forward pass has skipped. Their gates repeat, so that one
// step back is a fixed linear function, which is worth putting together first:
//
//   dc' = dc + dh b    dh_before = dc' G1 + dh G2    dc_before = dc' f    dx = dc' V1 + dh V2
//
// b, f and the factors a in dz = (dc' a_i, dc' a_f, dc' a_c, dh a_o) come from the gates, and G from U^T, V from W^T by
// a: half of the products of dz U^T and dz W^T, whatever else there is of dz only as a sum. A row reads matrices of its
// own, which is worth it as long as they stay in a cache; elsewhere the rows of a tile go through skips together.
namespace lstm_fast {
namespace {

template <class Real>
struct SkipScratch {
  static constexpr int64_t kBlock = 64;  // timesteps between two products with V

  SkipScratch(Scratch<Real>& scratch, const Direction<Real>& d) {
    if (!d.repeats || !d.skips_by_row) return;
    const Sizes<Real> sizes(d);
    factors = scratch.template Take<Real>(kMostPeriod * kFactors * sizes.units);
    of_state = scratch.template Take<Real>(kMostPeriod * MatrixSize(d, d.units));
    of_input = scratch.template Take<Real>(kMostPeriod * MatrixSize(d, d.input));
    flow = scratch.template Take<Real>(kBlock * 2 * sizes.units);
    sums = scratch.template Take<Real>(kMostPeriod * 2 * sizes.units);
    dz = scratch.template Take<Real>(kMostPeriod * sizes.panels * sizes.width);
    states = scratch.template Take<Real>(4 * kMostPeriod * sizes.units);
  }

  static int64_t MatrixSize(const Direction<Real>& d, int64_t columns) {
    return 2 * Sizes<Real>(d).units * CeilDivide(columns, kLanes<Real>) * kLanes<Real>;
  }

  enum Factor { kIn, kForget, kCandidate, kOut, kCell, kKept, kFactors };  // a_i, a_f, a_c, a_o, b, f

  Real* factors = nullptr;                        // [period][kFactors][Hp]
  Real *of_state = nullptr, *of_input = nullptr;  // G and V: [period][column panels][2][Hp][width]
  Real* flow = nullptr;                           // [kBlock][2][Hp]: dc' and dh
  Real* sums = nullptr;                           // [period][2][Hp]: of dc' and dh
  Real* dz = nullptr;                             // gate rows of a period: its sums
  Real* states = nullptr;                         // [4][period][Hp]: h before, times the dropout masks
};

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
    const int64_t padded = CeilDivide(columns - first, kL) * kL, width = padded < sizes.width ? padded : sizes.width;
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
    const int64_t width = sizes.units - first < sizes.width ? sizes.units - first : sizes.width;
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
    const int64_t padded = CeilDivide(d.input - column, kL) * kL, width = padded < sizes.width ? padded : sizes.width;
    const int64_t valid = d.input - column < width ? d.input - column : width;
    const Extent extent = {2, d.units, sizes.units, sizes.units * width, width};
    ForRowTiles(count, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
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
      store(gate * d.units + j, values, d.units - j < kLanes<Real> ? d.units - j : kLanes<Real>);
    }
  }
}

}  // namespace
}  // namespace lstm_fast
