// The backward pass of one tile of rows in one direction: chunks of timesteps from the last to the first. Within a
// chunk the recurrence in reverse gives dz; the products with W^T, x^T and h^T follow while dz is in cache. Where x is
// projected already, W has no rows, so that its two products come to nothing, and dx is dz.
namespace lstm_fast {
namespace {

// Columns of a left operand that are packed side by side: a few register tiles, so that packing copies vectors.
constexpr int64_t kGroup = 12;
static_assert(kGroup % kMicroRows == 0);

template <class Real>
struct BackwardScratch {
  BackwardScratch(Real* base, const Direction<Real>& d, int64_t row_count)
      : scratch(base),
        chunk(TakeChunk(scratch, d)),
        input(scratch, d, row_count),
        state(scratch, d, d.reserve_mode == Reserve::kRecompute ? row_count : 0) {
    const Sizes<Real> sizes(d);
    const int64_t pairs = row_count * d.chunk_steps;
    dz = scratch.template Take<Real>(pairs * sizes.panels * sizes.width);
    dh = scratch.template Take<Real>(row_count * sizes.units);
    dc = scratch.template Take<Real>(row_count * sizes.units);
    h_start = scratch.template Take<Real>(row_count * sizes.units);
    c_start = scratch.template Take<Real>(row_count * sizes.units);
    gates = scratch.template Take<const Real*>(row_count);
    dy = scratch.template Take<Real>(sizes.units);
    const int64_t h_gates = d.recurrent_dropout ? 4 : 1;
    h_before.rows = scratch.template Take<const Real*>(pairs);
    h_before.gate_stride = pairs * sizes.units;
    h_before.per_gate = d.recurrent_dropout != nullptr;
    h_rows = scratch.template Take<Real>(h_gates * h_before.gate_stride);
    if (d.recurrent_dropout) masks = scratch.template Take<Real>(row_count * 4 * sizes.units);
    const int64_t packed_x = CeilDivide(d.input, kGroup) * (d.input_dropout ? 4 : 1);
    const int64_t packed_h = CeilDivide(d.units, kGroup) * h_gates;
    pair_row = scratch.template Take<int64_t>(pairs);
    pair_offset = scratch.template Take<int64_t>(pairs);
    packed = scratch.template Take<Real>((packed_x > packed_h ? packed_x : packed_h) * pairs * kGroup);
    if (d.reserve_mode == Reserve::kRecompute) {
      recomputed = scratch.template Take<Real>(pairs * 5 * sizes.units);
    }
  }

  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Recurrence<Real> state;   // for recomputing gates
  Real* dz;                 // gate rows of the chunk
  Real *dh, *dc;            // [rows][Hp], flowing back from the step after
  Real *h_start, *c_start;  // [rows][Hp], before the chunk's first step
  const Real** gates;       // per row: where its gates lie, from its first step on, or the chunk's if recomputed
  Real* dy;                 // [Hp]
  Operand<Real> h_before;   // h before each (step, row) pair, times the dropout masks
  Real* h_rows;
  Real* masks = nullptr;            // [rows][4][Hp]
  int64_t *pair_row, *pair_offset;  // the row of each pair, and where its dx goes
  Real* packed;                     // [gates][groups][pairs][kGroup]
  Real* recomputed = nullptr;
};

template <class Real>
int64_t BackwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return BackwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

// Adds the gradient that y's consumers send to a row's step k, whose h is y at its own time and, unless masked outputs
// are zero, at the masked timesteps that follow it; for `units` units from first_unit on, where dh points.
template <class Real>
void AddOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, int64_t first_unit, int64_t units,
                       Real* scratch, Real* dh) {
  if (!d.dy.data) return;
  const auto add = [&](int64_t time) {
    const int64_t offset = row.batch * d.dy.batch_stride + time * d.dy.time_stride + first_unit;
    const Real* values = scratch;
    if (IsReal<Real>(d.dtype)) {
      values = static_cast<const Real*>(d.dy.data) + offset;
    } else {
      LoadRow(d.dtype, d.dy.data, offset, units, scratch);
    }
    for (int64_t j = 0; j < units; ++j) dh[j] += values[j];
  };
  if (!d.return_sequences) {
    if (k + 1 == row.count && (!d.zero_output_for_mask || LastStepIsReal(d, row))) add(0);
    return;
  }
  const int64_t t = TimeOf(d, row, k), direction = d.reversed ? -1 : 1;
  int64_t end = t + direction;
  if (d.masked && !d.zero_output_for_mask) {
    const int64_t after = d.reversed ? -1 : d.time;
    end = k + 1 < row.count ? TimeOf(d, row, k + 1) : after;
  }
  for (int64_t s = t; s != end; s += direction) add(OutputTime(d, s));
}

// Rows of dy lie as far apart as whole sequences, and are read backward: no processor foresees it.
template <class Real>
LSTM_FAST_INLINE void PrefetchOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, const Share& share) {
  if (!d.dy.data || !d.return_sequences || !IsReal<Real>(d.dtype)) return;
  const int64_t time = OutputTime(d, TimeOf(d, row, k));
  const int64_t offset = row.batch * d.dy.batch_stride + time * d.dy.time_stride + share.first_unit;
  Prefetch(static_cast<const Real*>(d.dy.data), offset, share.units);
}

// One row, one step back: dh and dc of this step give dz and the dc of the step before. h = o * tanh(c) is computed
// again rather than kept; `h` receives it.
template <class Real>
LSTM_FAST_INLINE void StepBack(const Sizes<Real>& sizes, const Share& share, int64_t units, const Real* gates,
                               const Real* c_before, int64_t c_before_stride, const Real* dh, Real* dc, Real* dz,
                               int64_t dz_stride, Real* h) {
  constexpr int64_t kL = kLanes<Real>;
  const Vector<Real> one = Broadcast(Real(1));
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* kept = gates + p * 5 * kL;
    // Two steps ahead, as c of the step before is read in this one; before the first: no harm.
    Prefetch(kept, -10 * sizes.units, 5 * kL);
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

// out = dz times kVectors vectors of a column panel of a transposed matrix, whose rows are `width` wide, for the pairs
// left[i] points to; sums over the gate panels [first, last) are added to those over the panels before.
template <class Real, int kRows, int kVectors>
LSTM_FAST_INLINE void MultiplyTransposed(const Sizes<Real>& sizes, int64_t first, int64_t last,
                                         const Real* const (&left)[kRows], int64_t left_stride, const Real* panel,
                                         int64_t width, Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  // Summed in blocks of at most 32 terms. One running sum over all gates gave the gradient of h0 1.3 times the error
  // that Keras's has; blocks of 64 gave 1.15.
  constexpr int64_t kBlock = 4 * kL < 32 ? 4 * kL : 32;
  const Extent extent = {1, kBlock, 0, 0, width};
  for (int64_t p = first; p < last; ++p) {
    for (int64_t term = 0; term < sizes.width; term += kBlock) {
      const Real* block[kRows];
      Vector<Real> sums[kRows][kVectors];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        block[i] = left[i] + p * left_stride + term;
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
      }
      MultiplyPanel<Real, kRows, kVectors, 1, false>(block, 0, extent, panel + (p * sizes.width + term) * width, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        LSTM_FAST_UNROLL
        for (int v = 0; v < kVectors; ++v) {
          Real* to = out + (i * 4 + v) * kL;
          Store(to, p + term == 0 ? sums[i][v] : Load(to) + sums[i][v]);
        }
      }
    }
  }
}

// The same over all gate panels, each gate's part multiplied by its own row of mask, which starts at
// mask[i] + gate * mask_stride.
template <class Real, int kRows, int kVectors>
LSTM_FAST_INLINE void MultiplyTransposedMasked(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                               int64_t left_stride, const Real* panel, int64_t width,
                                               const Real* const (&mask)[kRows], int64_t mask_stride, int64_t valid,
                                               Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  constexpr int64_t kWidth = kVectors * kL;
  const Extent extent = {sizes.panels, kL, left_stride, sizes.width * width, width};
  for (int64_t gate = 0; gate < 4; ++gate) {
    const Real* gate_left[kRows];
    Vector<Real> sums[kRows][kVectors];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      gate_left[i] = left[i] + gate * kL;
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) sums[i][v] = Vector<Real>{};
    }
    MultiplyPanel<Real, kRows, kVectors, 1, false>(gate_left, 0, extent, panel + gate * kL * width, sums);
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      Real part[kWidth];
      LSTM_FAST_UNROLL
      for (int v = 0; v < kVectors; ++v) Store(part + v * kL, sums[i][v]);
      Real* to = out + i * 4 * kL;
      for (int64_t j = 0; j < valid; ++j) to[j] = (gate == 0 ? 0 : to[j]) + mask[i][gate * mask_stride + j] * part[j];
    }
  }
}

// The same for kColumns columns of the transpose, which are rows of the matrix [K, 4H] as it was given. Each gate is
// summed by itself, in the lanes of a vector; `mask` is null where there is none.
template <class Real, int kRows, int kColumns>
LSTM_FAST_INLINE void MultiplyTransposedInPlace(const Sizes<Real>& sizes, const Real* const (&left)[kRows],
                                                int64_t left_stride, const Real* matrix,
                                                const Real* const (&mask)[kRows], int64_t mask_stride, Real* out) {
  constexpr int64_t kL = kLanes<Real>;
  for (int64_t gate = 0; gate < 4; ++gate) {
    Vector<Real> sums[kRows][kColumns];
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) sums[i][v] = Vector<Real>{};
    }
    for (int64_t p = 0; p < sizes.panels; ++p) {
      Vector<Real> dz[kRows];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) dz[i] = Load(left[i] + p * left_stride + gate * kL);
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        Vector<Real> term = Load(matrix + (v * 4 + gate) * sizes.units + p * kL);
        KeepInRegister(term);
        LSTM_FAST_UNROLL
        for (int i = 0; i < kRows; ++i) sums[i][v] = MultiplyAdd(dz[i], term, sums[i][v]);
      }
    }
    LSTM_FAST_UNROLL
    for (int i = 0; i < kRows; ++i) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < kColumns; ++v) {
        Real lanes[kL];
        Store(lanes, sums[i][v]);
        for (int64_t half = kL / 2; half > 0; half /= 2) {
          for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
        }
        Real& to = out[i * 4 * kL + v];
        to = (gate == 0 ? 0 : to) + (mask[i] ? mask[i][gate * mask_stride + v] * lanes[0] : lanes[0]);
      }
    }
  }
}

// For `count` pairs from gate row `first` on: dz times columns [first_column, last_column) of a transposed matrix with
// `columns` columns, in transposed panels or in place; first_column is a multiple of L. store(pair, column, values,
// valid) takes up to 4L values of a pair. mask_of(pair) gives its [4][mask_stride] masks.
template <class Real, bool kMasked, class MaskOf, class StoreValues>
LSTM_FAST_INLINE void ForTransposedProduct(const Direction<Real>& d, const Real* dz, int64_t total, int64_t first,
                                           int64_t count, const Real* transposed, int64_t columns, int64_t first_column,
                                           int64_t last_column, const MaskOf& mask_of, int64_t mask_stride,
                                           const StoreValues& store) {
  constexpr int64_t kL = kLanes<Real>;
  // The sums of so many pairs are kept at once, and so many gate panels of the matrix stay in L1 while they pass.
  constexpr int64_t kPairs = 8 * kMicroRows, kPanels = 128 / (4 * kL);
  const Sizes<Real> sizes(d);
  const int64_t depth = sizes.panels * sizes.width, stride = total * sizes.width;
  const int64_t step = kMasked ? sizes.panels : kPanels;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  for (int64_t column = first_column; column < last_column;) {
    const int64_t panel_begin = column / sizes.width * sizes.width;
    const int64_t valid = least(panel_begin + sizes.width, last_column) - column;
    const int64_t width = least(sizes.width, CeilDivide(columns - panel_begin, kL) * kL);
    const Real* panel = transposed + panel_begin * depth + (column - panel_begin);
    for (int64_t begin = 0; begin < count; begin += kPairs) {
      const int64_t pairs = least(kPairs, count - begin);
      alignas(64) Real out[kPairs * 4 * kL];
      const auto operands = [&](int64_t offset, int64_t from_column, auto& left, auto& mask) {
        int64_t pair = begin + offset;
        for (auto& row : left) row = dz + (first + pair++) * sizes.width;
        pair = begin + offset;
        for (auto& row : mask) row = kMasked ? mask_of(pair++) + from_column : nullptr;
      };
      for (int64_t j = 0; d.in_place && j < valid; j += 4) {
        ForRowTiles(pairs, [&](auto tile, int64_t offset) {
          constexpr int kRows = decltype(tile)::value;
          const Real *left[kRows], *mask[kRows];
          operands(offset, column + j, left, mask);
          CallWithVectors(valid - j, [&](auto vectors) {
            MultiplyTransposedInPlace<Real, kRows, decltype(vectors)::value>(
                sizes, left, stride, transposed + (column + j) * 4 * d.units, mask, mask_stride,
                out + offset * 4 * kL + j);
          });
        });
      }
      for (int64_t p = 0; !d.in_place && p < sizes.panels; p += step) {
        ForRowTiles(pairs, [&](auto tile, int64_t offset) {
          constexpr int kRows = decltype(tile)::value;
          const Real *left[kRows], *mask[kRows];
          operands(offset, column, left, mask);
          Real* sums = out + offset * 4 * kL;
          const auto multiply = [&](auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            if constexpr (kMasked) {
              MultiplyTransposedMasked<Real, kRows, kVectors>(sizes, left, stride, panel, width, mask, mask_stride,
                                                              valid, sums);
            } else {
              MultiplyTransposed<Real, kRows, kVectors>(sizes, p, least(p + step, sizes.panels), left, stride, panel,
                                                        width, sums);
            }
          };
          CallWithVectors(CeilDivide(valid, kL), multiply);
        });
      }
      for (int64_t i = 0; i < pairs; ++i) store(begin + i, column, out + i * 4 * kL, valid);
    }
    column += valid;
  }
}

// Turns the rows of an operand into groups of columns: [groups][pairs][kGroup].
template <class Real>
void PackColumns(const Operand<Real>& rows, int64_t gate, int64_t total, int64_t columns, Real* packed,
                 const Team& team) {
  const int64_t whole = columns / kGroup * kGroup;
  for (int64_t pair = team.First(total); pair < team.Last(total); ++pair) {
    const Real* from = rows.rows[pair] + gate * rows.gate_stride;
    Real* to = packed + pair * kGroup;
    for (int64_t column = 0; column < whole; column += kGroup) {
      __builtin_memcpy(to, from + column, sizeof(Real) * kGroup);
      to += total * kGroup;
    }
    for (int64_t i = whole; i < columns; ++i) to[i - whole] = from[i];
  }
}

// Where element (k, gate, unit) of a gradient lies, in gate panels of `columns` rows or in a matrix [columns, 4H].
struct Placement {
  template <class Real>
  Placement(const Sizes<Real>& sizes, bool in_place, int64_t columns)
      : panel(in_place ? kLanes<Real> : columns * sizes.width),
        column(in_place ? 4 * sizes.units : sizes.width),
        gate(in_place ? sizes.units : kLanes<Real>) {}
  int64_t panel, column, gate;  // elements from one to the next
};

// gradient += left^T dz, where `packed` holds the columns of left. Each block of pairs is summed by itself and then
// added: one running sum over thousands of timesteps would lose digits that Keras, which adds a product per timestep,
// keeps.
template <class Real, bool kPerGate>
void AccumulateGradient(const Direction<Real>& d, const Share& share, const Real* packed, int64_t columns,
                        const Real* dz, int64_t total, bool fresh, bool in_place, Real* gradient) {
  // Pairs summed at once: dz of so many pairs stays in L1 while all columns pass.
  constexpr int64_t kBlock = 128;
  const Sizes<Real> sizes(d);
  const Placement at(sizes, in_place, columns);
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  // In place, the columns pass over so many panels at once: a part of a line in a page of its own is slow to write.
  const int64_t panels = in_place ? 1 + kBlock / total : 1;
  for (int64_t group = share.first; group < share.last; group += panels) {
    const int64_t group_end = group + panels < share.last ? group + panels : share.last;
    for (int64_t begin = 0; begin < total; begin += kBlock) {
      const Extent extent = {1, total - begin < kBlock ? total - begin : kBlock, 0, 0, sizes.width};
      for (int64_t column = 0; column < columns; column += kMicroRows) {
        const int64_t offset = column % kGroup;
        const Real* block = packed + (column - offset) * total + begin * kGroup + offset;
        for (int64_t p = group; p < group_end; ++p) {
          const Real* panel = dz + (p * total + begin) * sizes.width;
          Real* to = gradient + p * at.panel + column * at.column;
          const auto accumulate = [&](auto tile, int64_t first) {
            constexpr int kRows = decltype(tile)::value;
            const Real* left[kRows];
            Vector<Real> sums[kRows][4];
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              left[i] = block + first + i;
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) sums[i][v] = Vector<Real>{};
            }
            MultiplyPanel<Real, kRows, 4, kGroup, kPerGate>(left, gate_stride, extent, panel, sums);
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < 4; ++v) {
                Real* sum = to + (first + i) * at.column + v * at.gate;
                Store(sum, fresh && begin == 0 ? sums[i][v] : Load(sum) + sums[i][v]);
              }
            }
          };
          ForRowTiles(columns - column < kMicroRows ? columns - column : kMicroRows, accumulate);
        }
      }
    }
  }
}

template <class Real>
void AccumulateMatrix(const Direction<Real>& d, const Share& share, const Operand<Real>& rows, int64_t columns,
                      const Real* dz, int64_t total, Real* packed, bool fresh, bool in_place, Real* gradient,
                      const Team& team) {
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  for (int64_t gate = 0; gate < (rows.per_gate ? 4 : 1); ++gate) {
    PackColumns(rows, gate, total, columns, packed + gate * gate_stride, team);
  }
  team.Wait();
  rows.per_gate ? AccumulateGradient<Real, true>(d, share, packed, columns, dz, total, fresh, in_place, gradient)
                : AccumulateGradient<Real, false>(d, share, packed, columns, dz, total, fresh, in_place, gradient);
  team.Wait();  // before `packed` is written again
}

template <class Real>
void AccumulateBias(const Sizes<Real>& sizes, const Share& share, const Real* dz, int64_t total, bool fresh,
                    bool in_place, Real* gradient) {
  constexpr int64_t kL = kLanes<Real>;
  const Placement at(sizes, in_place, 1);
  for (int64_t p = share.first; p < share.last; ++p) {
    Vector<Real> sums[4];
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) sums[v] = Vector<Real>{};
    for (int64_t pair = 0; pair < total; ++pair) {
      LSTM_FAST_UNROLL
      for (int v = 0; v < 4; ++v) sums[v] += Load(dz + (p * total + pair) * sizes.width + v * kL);
    }
    LSTM_FAST_UNROLL
    for (int v = 0; v < 4; ++v) {
      Real* sum = gradient + p * at.panel + v * at.gate;
      Store(sum, fresh ? sums[v] : Load(sum) + sums[v]);
    }
  }
}

// Zeros this member's share of the gradient of `columns` rows of weights: of either layout an even part.
template <class Real>
void ClearGradient(const Sizes<Real>& sizes, const Share& share, int64_t columns, Real* gradient) {
  const int64_t size = columns * sizes.width;
  if (size == 0) return;  // then there may be no memory for it, which memset() must not be given
  __builtin_memset(gradient + share.first * size, 0,
                   static_cast<size_t>((share.last - share.first) * size) * sizeof(Real));
}

// Makes the chunk's gates, and h and c before its first step, available: from the reserve, or by running forward again
// from the checkpoint.
template <class Real>
void PrepareGates(const Direction<Real>& d, const Row* rows, int64_t row_count, BackwardScratch<Real>& s) {
  const Sizes<Real> sizes(d);
  const int64_t step_size = 5 * sizes.units, active = s.chunk.active[0];
  if (d.reserve_mode == Reserve::kRecompute) {
    Recurrence<Real>& state = s.state;
    state.kept_from = s.chunk.begin;
    for (int64_t r = 0; r < active; ++r) {
      const Real* kept = d.reserve + rows[r].reserve_offset + s.chunk.begin / kCheckpointInterval * 2 * sizes.units;
      for (int64_t j = 0; j < sizes.units; ++j) {
        state.h[r * sizes.units + j] = s.h_start[r * sizes.units + j] = kept[j];
        state.c[r * sizes.units + j] = s.c_start[r * sizes.units + j] = kept[sizes.units + j];
      }
      state.gates[r] = s.recomputed + r * d.chunk_steps * step_size;
      s.gates[r] = state.gates[r];
    }
    RunChunk(d, s.chunk, rows, s.input.operand(), state, Share(d, {0, 1, nullptr, nullptr}), [](int64_t, int64_t) {});
    return;
  }
  for (int64_t r = 0; r < active; ++r) s.gates[r] = d.reserve + rows[r].reserve_offset;
  if (s.chunk.begin == 0) {
    LoadState(d, d.h0, rows, row_count, s.h_start);
    LoadState(d, d.c0, rows, row_count, s.c_start);
    return;
  }
  constexpr int64_t kL = kLanes<Real>;
  for (int64_t r = 0; r < active; ++r) {
    for (int64_t p = 0; p < sizes.panels; ++p) {
      const Real* kept = s.gates[r] + (s.chunk.begin - 1) * step_size + p * 5 * kL;
      const Vector<Real> c = Load(kept + 4 * kL);
      Store(s.c_start + r * sizes.units + p * kL, c);
      Store(s.h_start + r * sizes.units + p * kL, Load(kept + 3 * kL) * TanhOf<Real>(c));
    }
  }
}

// dh of the step before: dz U^T, for the rows that are active in step k.
template <class Real>
void PropagateState(const Direction<Real>& d, const Share& share, int64_t k, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  const auto mask_of = [&](int64_t r) { return s.masks + r * 4 * padded; };
  const auto store = [&](int64_t r, int64_t column, const Real* values, int64_t valid) {
    Real* to = s.dh + r * padded + column;
    for (int64_t j = 0; j < valid; ++j) to[j] = values[j];
  };
  const int64_t first = s.chunk.first[k - s.chunk.begin], count = s.chunk.active[k - s.chunk.begin];
  if (d.recurrent_dropout) {
    ForTransposedProduct<Real, true>(d, s.dz, s.chunk.total, first, count, d.recurrent_kernel_transposed, d.units,
                                     share.first_unit, share.first_unit + share.units, mask_of, padded, store);
  } else {
    ForTransposedProduct<Real, false>(d, s.dz, s.chunk.total, first, count, d.recurrent_kernel_transposed, d.units,
                                      share.first_unit, share.first_unit + share.units, mask_of, padded, store);
  }
}

// dx = dz W^T for the whole chunk, each member of the team for its share of the pairs.
template <class Real>
void StoreInputGradient(const Direction<Real>& d, const Row* rows, BackwardScratch<Real>& s, const Team& team) {
  if (team.rank == 0) {
    for (int64_t k = s.chunk.begin; k < s.chunk.end; ++k) {
      for (int64_t r = 0; r < s.chunk.active[k - s.chunk.begin]; ++r) {
        const int64_t offset = rows[r].batch * d.dx.batch_stride + TimeOf(d, rows[r], k) * d.dx.time_stride;
        s.pair_row[s.chunk.first[k - s.chunk.begin] + r] = r;
        s.pair_offset[s.chunk.first[k - s.chunk.begin] + r] = offset;
      }
    }
  }
  team.Wait();
  const int64_t first = team.First(s.chunk.total), count = team.Last(s.chunk.total) - first;
  const auto mask_of = [&](int64_t pair) { return s.input.mask(s.pair_row[first + pair], 0); };
  const auto store = [&](int64_t pair, int64_t column, const Real* values, int64_t valid) {
    const int64_t offset = s.pair_offset[first + pair] + column;
    if (!d.dx_accumulates) {
      StoreRow(d.dx_dtype, d.dx.data, offset, valid, values);
      return;
    }
    Real* to = static_cast<Real*>(d.dx.data) + offset;
    for (int64_t j = 0; j < valid; ++j) to[j] += values[j];
  };
  if (d.input_dropout) {
    ForTransposedProduct<Real, true>(d, s.dz, s.chunk.total, first, count, d.kernel_transposed, d.input, 0, d.input,
                                     mask_of, d.input, store);
  } else {
    ForTransposedProduct<Real, false>(d, s.dz, s.chunk.total, first, count, d.kernel_transposed, d.input, 0, d.input,
                                      mask_of, d.input, store);
  }
}

// dx = dz, each member of the team for its own units.
template <class Real>
void StoreProjectedGradient(const Direction<Real>& d, const Row* rows, const BackwardScratch<Real>& s,
                            const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  ForPairsByRow(s.chunk, [&](int64_t r, int64_t k, int64_t pair) {
    const int64_t offset = rows[r].batch * d.dx.batch_stride + TimeOf(d, rows[r], k) * d.dx.time_stride;
    ForGateRuns<Real>(share, [&](int64_t gate, int64_t unit, int64_t count) {
      alignas(64) Real gathered[kRun<Real>];
      const Real* from = s.dz + (unit / kL * s.chunk.total + pair) * sizes.width + gate * kL;
      for (int64_t i = 0; i < count; i += kL) {
        Store(gathered + i, Load(from));
        from += s.chunk.total * sizes.width;
      }
      StoreRow(d.dx_dtype, d.dx.data, offset + gate * d.units + unit, count, gathered);
    });
  });
}

template <class Real>
void ZeroMaskedInputGradient(const Direction<Real>& d, const Row& row) {
  const int64_t features = d.projected ? 4 * d.units : d.input;
  int64_t next = 0;
  for (int64_t t = 0; t < d.time; ++t) {
    if (next < row.count && row.steps[next] == t) {
      ++next;
    } else {
      ZeroRow(d.dx_dtype, d.dx.data, row.batch * d.dx.batch_stride + t * d.dx.time_stride, features);
    }
  }
}

// h before each pair, times the dropout masks, becomes the left operand of the recurrent kernel's gradient.
template <class Real>
void PrepareStates(const Direction<Real>& d, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t k = s.chunk.begin; k < s.chunk.end; ++k) {
    for (int64_t r = 0; r < s.chunk.active[k - s.chunk.begin]; ++r) {
      const int64_t pair = s.chunk.first[k - s.chunk.begin] + r;
      Real* h = s.h_rows + pair * padded;
      s.h_before.rows[pair] = h;
      if (!d.recurrent_dropout) continue;
      for (int64_t gate = 3; gate >= 0; --gate) {  // gate 0, which overwrites h, last
        const Real* mask = s.masks + (r * 4 + gate) * padded;
        for (int64_t j = 0; j < padded; ++j) h[gate * s.h_before.gate_stride + j] = h[j] * mask[j];
      }
    }
  }
}

template <class Real>
void BackwardTile(const Direction<Real>& d, const Row* rows, int64_t row_count, const WeightGradient<Real>& gradient,
                  Real* scratch_memory, const Team& team) {
  BackwardScratch<Real> s(scratch_memory, d, row_count);
  Chunk& chunk = s.chunk;
  const Sizes<Real> sizes(d);
  const Share share(d, team);
  constexpr int64_t kL = kLanes<Real>;
  const bool leads = team.rank == 0;

  if (leads) {
    s.input.LoadMasks(rows, row_count);
    if (d.recurrent_dropout) {
      LoadRecurrentMasks(d, rows, row_count, s.masks);
      if (d.reserve_mode == Reserve::kRecompute) LoadRecurrentMasks(d, rows, row_count, s.state.masks);
    }
    LoadState(d, d.dh_n, rows, row_count, s.dh);
    LoadState(d, d.dc_n, rows, row_count, s.dc);
    for (int64_t r = 0; r < row_count; ++r) {
      if (d.dx.data && !d.dx_accumulates && rows[r].count < d.time) ZeroMaskedInputGradient(d, rows[r]);
    }
  }

  const int64_t steps = rows[0].count;
  bool fresh = gradient.fresh;
  if (steps == 0 && fresh) {
    ClearGradient(sizes, share, d.input, gradient.kernel);
    ClearGradient(sizes, share, d.units, gradient.recurrent_kernel);
    ClearGradient(sizes, share, 1, gradient.bias);
  }
  for (int64_t begin = CeilDivide(steps, d.chunk_steps) * d.chunk_steps - d.chunk_steps; begin >= 0;
       begin -= d.chunk_steps) {
    const int64_t end = begin + d.chunk_steps < steps ? begin + d.chunk_steps : steps;
    chunk.Span(begin, end);
    const int64_t kept_from = d.reserve_mode == Reserve::kRecompute ? begin : 0;
    const auto h_of = [&](int64_t k, int64_t r) {  // h before step k, unmasked
      return s.h_rows + (chunk.first[k - begin] + r) * sizes.units;
    };
    if (leads) {
      chunk.Fill(rows, row_count);
      chunk.Count();
      s.input.Gather(chunk, rows);
      PrepareGates(d, rows, row_count, s);
      for (int64_t r = 0; r < chunk.active[0]; ++r) {
        for (int64_t j = 0; j < sizes.units; ++j) h_of(begin, r)[j] = s.h_start[r * sizes.units + j];
      }
    }
    team.Wait();
    chunk.Count();
    for (int64_t k = end - 1; k >= begin; --k) {
      for (int64_t r = 0; r < chunk.active[k - begin]; ++r) {
        Real* dh = s.dh + r * sizes.units;
        AddOutputGradient(d, rows[r], k, share.first_unit, share.units, s.dy + share.first_unit, dh + share.first_unit);
        const Real* gates = s.gates[r] + (k - kept_from) * 5 * sizes.units;
        const bool first = k == begin;
        const Real* c_before = first ? s.c_start + r * sizes.units : gates - 5 * sizes.units + 4 * kL;
        const bool next_in_chunk = k + 1 < end && r < chunk.active[k + 1 - begin];
        if (k > 0) PrefetchOutputGradient(d, rows[r], k - 1, share);
        StepBack<Real>(sizes, share, d.units, gates, c_before, first ? kL : 5 * kL, dh, s.dc + r * sizes.units,
                       s.dz + (chunk.first[k - begin] + r) * sizes.width, chunk.total * sizes.width,
                       next_in_chunk ? h_of(k + 1, r) : nullptr);
      }
      team.Wait();  // for the whole of dz
      if (k > 0 || d.dh0) PropagateState(d, share, k, s);
    }

    if (leads) PrepareStates(d, s);
    AccumulateMatrix(d, share, s.input.operand(), d.input, s.dz, chunk.total, s.packed, fresh, gradient.in_place,
                     gradient.kernel, team);
    if (end > 1 || d.h0) {
      AccumulateMatrix(d, share, s.h_before, d.units, s.dz, chunk.total, s.packed, fresh, gradient.in_place,
                       gradient.recurrent_kernel, team);
    } else if (fresh) {  // a single step, from no state
      ClearGradient(sizes, share, d.units, gradient.recurrent_kernel);
    }
    AccumulateBias(sizes, share, s.dz, chunk.total, fresh, gradient.in_place, gradient.bias);
    fresh = false;
    if (d.dx.data) d.projected ? StoreProjectedGradient(d, rows, s, share) : StoreInputGradient(d, rows, s, team);
    team.Wait();  // before the next chunk overwrites this one, or the last dh is read
  }

  for (int64_t r = 0; r < row_count && leads; ++r) {
    const int64_t offset = rows[r].batch * d.units;
    if (d.dh0) StoreRow(d.dtype, d.dh0, offset, d.units, s.dh + r * sizes.units);
    if (d.dc0) StoreRow(d.dtype, d.dc0, offset, d.units, s.dc + r * sizes.units);
  }
}

}  // namespace
}  // namespace lstm_fast
