// The backward pass of one tile of rows in one direction: chunks of timesteps from the last to the first. Within a
// chunk the recurrence in reverse gives dz; the products with W^T, x^T and h^T follow while dz is in cache. Where x is
// projected already, W has no rows, so that its two products come to nothing, and dx is dz.
//
// Timesteps that the forward pass skipped have the gates of those that they repeat. dz differs from one to the next,
// but x and h do not, or only with the period: there dz is summed first, and multiplied once in a chunk.
namespace lstm_fast {
namespace {

// Columns of a left operand that are packed side by side: a few register tiles, so that packing copies vectors.
constexpr int64_t kGroup = 12;
static_assert(kGroup % kMicroRows == 0);

// How far the backward pass has come in a row.
struct Remaining {
  int64_t timesteps;  // real ones, from the first on
  int64_t slots;      // those of them that were computed
  int64_t skips;      // where others were not
  Skip skip;          // the last of these; {} if there is none
  int64_t skipped;    // how many of its timesteps are left
  bool covered;       // a whole period of them has been gone through

  bool InSkip() const { return skipped > 0 && slots == skip.slot; }
};

// A row's part of a chunk.
template <class Real>
struct BackwardPart {
  Slots<Real> slots;  // its row's, or those recomputed for the chunk
  int64_t first;      // slot of its first step; in a skip, of the first step of the period
  int64_t slot;       // slot of its row; in a skip, of the step that would come next if nothing were skipped
  int64_t period;     // of the skip that it is in; 0: it is in none
  int64_t phase;      // of its first step in the period

  const Real* Gates(int64_t step) const { return slots.At(first + (period > 0 ? (phase + step) % period : step)); }
  // Of the step before; in a skip, or from its second step on.
  const Real* GatesBefore(int64_t step) const {
    return slots.At(first + (period > 0 ? (phase + step + period - 1) % period : step - 1));
  }
};

template <class Real>
struct BackwardScratch {
  BackwardScratch(Real* base, const Direction<Real>& d, int64_t row_count)
      : scratch(base),
        chunk(TakeChunk(scratch, d, row_count)),
        input(scratch, d, row_count),
        state(scratch, d, d.reserve_mode == Reserve::kRecompute ? row_count : 0),
        skip(scratch, d) {
    const Sizes<Real> sizes(d);
    const int64_t pairs = row_count * d.chunk_steps;
    remaining = scratch.template Take<Remaining>(row_count);
    part = scratch.template Take<BackwardPart<Real>>(row_count);
    dz = scratch.template Take<Real>(pairs * sizes.panels * sizes.width);
    dh = scratch.template Take<Real>(row_count * sizes.units);
    dc = scratch.template Take<Real>(row_count * sizes.units);
    c_start = scratch.template Take<Real>(row_count * sizes.units);
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
    if (d.repeats) dz_sums = scratch.template Take<Real>(pairs * sizes.panels * sizes.width);
    if (d.reserve_mode == Reserve::kRecompute) {
      recomputed = scratch.template Take<Real>(pairs * 5 * sizes.units);
    }
    if (d.repeats) again = TakeChunk(scratch, d, row_count);
    dy = scratch.template Take<Real>(row_count * sizes.units);
    packed_states = scratch.template Take<Real>(packed_h * pairs * kGroup);
  }

  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Remaining* remaining;      // by row
  BackwardPart<Real>* part;  // by row
  Recurrence<Real> state;    // for recomputing gates
  SkipScratch<Real> skip;
  Chunk again{};           // what is recomputed for the chunk, or for a skip
  Real* dz;                // gate rows of the chunk
  Real *dh, *dc;           // [rows][Hp], flowing back from the step after
  Real* c_start;           // [rows][Hp], before the first step of a part that is in no skip
  Real* dy;                // [rows][Hp]: of a group of a team, one of its rows
  Operand<Real> h_before;  // h before each (step, row) pair, times the dropout masks
  Real* h_rows;
  Real* masks = nullptr;            // [rows][4][Hp]
  int64_t *pair_row, *pair_offset;  // the row of each pair, and where its dx goes
  Real* packed;                     // [gates][groups][pairs][kGroup]: of x, then of h
  Real* packed_states;              // of h, where a team packs both at once
  int kernel_is_finite = -1;        // of W; -1: nobody has looked
  Real* dz_sums = nullptr;          // gate rows: dz, summed over the pairs with one input or state
  Real* recomputed = nullptr;       // [rows][chunk_steps][P][5][L]

  Slots<Real> RecomputedSlots(const Direction<Real>& d, int64_t r) const {
    const int64_t size = 5 * Sizes<Real>(d).units;
    return {recomputed + r * d.chunk_steps * size, nullptr, size};
  }
};

template <class Real>
int64_t BackwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return BackwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

// body(time) for each time of y that holds h of a row's step k: its own and, unless masked outputs are zero, the masked
// timesteps that follow it.
template <class Real, class Body>
LSTM_FAST_INLINE void ForOutputs(const Direction<Real>& d, const Row& row, int64_t k, const Body& body) {
  if (!d.return_sequences) {
    if (k + 1 == row.count && (!d.zero_output_for_mask || LastStepIsReal(d, row))) body(0);
    return;
  }
  const int64_t t = TimeOf(d, row, k), direction = d.reversed ? -1 : 1;
  int64_t end = t + direction;
  if (d.masked && !d.zero_output_for_mask) {
    const int64_t after = d.reversed ? -1 : d.time;
    end = k + 1 < row.count ? TimeOf(d, row, k + 1) : after;
  }
  for (int64_t s = t; s != end; s += direction) body(OutputTime(d, s));
}

// Adds the gradient that y's consumers send to a row's step k, for `units` units from first_unit on, where dh points.
template <class Real>
void AddOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, int64_t first_unit, int64_t units,
                       Real* scratch, Real* dh) {
  if (!d.dy.data) return;
  ForOutputs(d, row, k, [&](int64_t time) {
    const int64_t offset = row.batch * d.dy.batch_stride + time * d.dy.time_stride + first_unit;
    const Real* values = scratch;
    if (IsReal<Real>(d.dtype)) {
      values = static_cast<const Real*>(d.dy.data) + offset;
    } else {
      LoadRow(d.dtype, d.dy.data, offset, units, scratch);
    }
    for (int64_t j = 0; j < units; ++j) dh[j] += values[j];
  });
}

// Whether y's consumers send anything but zero to a row's step k.
template <class Real>
bool HasOutputGradient(const Direction<Real>& d, const Row& row, int64_t k, Real* scratch) {
  bool found = false;
  if (!d.dy.data) return found;
  ForOutputs(d, row, k, [&](int64_t time) {
    LoadRow(d.dtype, d.dy.data, row.batch * d.dy.batch_stride + time * d.dy.time_stride, d.units, scratch);
    for (int64_t j = 0; j < d.units; ++j) found = found || scratch[j] != 0;  // NaN is not zero
  });
  return found;
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

// gradient += left^T dz for some columns and panels, where `packed` holds the columns of left. Each block of pairs is
// summed by itself and then added: one running sum over thousands of timesteps would lose digits that Keras, which adds
// a product per timestep, keeps. The first column is a multiple of kMicroRows.
template <class Real, bool kPerGate>
void AccumulateBlock(const Direction<Real>& d, const Real* packed, int64_t columns, int64_t first_column,
                     int64_t last_column, int64_t first_panel, int64_t last_panel, const Real* dz, int64_t total,
                     bool fresh, bool in_place, Real* gradient) {
  // Pairs summed at once: dz of so many pairs stays in L1 while all columns pass.
  constexpr int64_t kBlock = 128;
  const Sizes<Real> sizes(d);
  const Placement at(sizes, in_place, columns);
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  // In place, the columns pass over so many panels at once: a part of a line in a page of its own is slow to write.
  const int64_t panels = in_place ? 1 + kBlock / total : 1;
  for (int64_t group = first_panel; group < last_panel; group += panels) {
    const int64_t group_end = group + panels < last_panel ? group + panels : last_panel;
    for (int64_t begin = 0; begin < total; begin += kBlock) {
      const Extent extent = {1, total - begin < kBlock ? total - begin : kBlock, 0, 0, sizes.width};
      for (int64_t column = first_column; column < last_column; column += kMicroRows) {
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
          ForRowTiles(last_column - column < kMicroRows ? last_column - column : kMicroRows, accumulate);
        }
      }
    }
  }
}

// The same for this member's part: whole panels in place, and otherwise register tiles of panels, of which there are
// more.
template <class Real, bool kPerGate>
void AccumulateGradient(const Direction<Real>& d, const Real* packed, int64_t columns, const Real* dz, int64_t total,
                        bool fresh, bool in_place, Real* gradient, const Team& team) {
  if (in_place || team.size == 1) {
    const Share share(d, team);
    AccumulateBlock<Real, kPerGate>(d, packed, columns, 0, columns, share.first, share.last, dz, total, fresh, in_place,
                                    gradient);
    return;
  }
  const int64_t tiles = CeilDivide(columns, kMicroRows), all = Sizes<Real>(d).panels * tiles, last = team.Last(all);
  for (int64_t tile = team.First(all); tile < last;) {
    const int64_t panel = tile / tiles, begin = tile % tiles;
    const int64_t end = begin + last - tile < tiles ? begin + last - tile : tiles;
    AccumulateBlock<Real, kPerGate>(d, packed, columns, begin * kMicroRows,
                                    end * kMicroRows < columns ? end * kMicroRows : columns, panel, panel + 1, dz,
                                    total, fresh, in_place, gradient);
    tile += end - begin;
  }
}

template <class Real>
void PackOperand(const Operand<Real>& rows, int64_t columns, int64_t total, Real* packed, const Team& team) {
  const int64_t gate_stride = CeilDivide(columns, kGroup) * total * kGroup;
  for (int64_t gate = 0; gate < (rows.per_gate ? 4 : 1); ++gate) {
    PackColumns(rows, gate, total, columns, packed + gate * gate_stride, team);
  }
}

template <class Real>
void AccumulateMatrix(const Direction<Real>& d, bool per_gate, int64_t columns, const Real* dz, int64_t total,
                      const Real* packed, bool fresh, bool in_place, Real* gradient, const Team& team) {
  per_gate ? AccumulateGradient<Real, true>(d, packed, columns, dz, total, fresh, in_place, gradient, team)
           : AccumulateGradient<Real, false>(d, packed, columns, dz, total, fresh, in_place, gradient, team);
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

// Writes some values of dx, or adds them to what the other direction wrote.
template <class Real>
LSTM_FAST_INLINE void StoreInputGradientPart(const Direction<Real>& d, int64_t offset, int64_t count,
                                             const Real* values) {
  if (!d.dx_accumulates) {
    StoreRow(d.dx_dtype, d.dx.data, offset, count, values);
    return;
  }
  Real* to = static_cast<Real*>(d.dx.data) + offset;
  for (int64_t j = 0; j < count; ++j) to[j] += values[j];
}

template <class Real>
void ZeroInputGradient(const Direction<Real>& d, const Row& row, int64_t time) {
  ZeroRow(d.dx_dtype, d.dx.data, row.batch * d.dx.batch_stride + time * d.dx.time_stride,
          d.projected ? 4 * d.units : d.input);
}

template <class Real>
void ZeroMaskedInputGradient(const Direction<Real>& d, const Row& row) {
  int64_t next = 0;
  for (int64_t t = 0; t < d.time; ++t) {
    if (next < row.count && row.steps[next] == t) {
      ++next;
    } else {
      ZeroInputGradient(d, row, t);
    }
  }
}

// Whether the gradients of a row's states, subnormal numbers aside, have come to nothing.
template <class Real>
bool Vanished(const Real* values, int64_t count) {
  constexpr Real kLeastNormal = sizeof(Real) == 8 ? Real(0x1p-1022) : Real(0x1p-126f);
  Real most = 0;
  bool ordered = true;
  for (int64_t j = 0; j < count; ++j) {
    const Real magnitude = values[j] < 0 ? -values[j] : values[j];
    ordered = ordered && magnitude == magnitude;
    most = magnitude > most ? magnitude : most;
  }
  return ordered && most < kLeastNormal;
}

template <class Real>
bool AllFinite(const Real* values, int64_t count) {
  Real sum = 0;
  for (int64_t j = 0; j < count; ++j) sum += values[j] * 0;  // NaN if one is not
  return sum == 0;
}

// Whether nothing of a row's input and of W is infinite or NaN, which no gradient may multiply unseen, zero or not.
template <class Real>
bool ProductsAreFinite(const Direction<Real>& d, const Row& row, int64_t k, BackwardScratch<Real>& s) {
  if (d.projected) return true;
  const int64_t offset = row.batch * d.x.batch_stride + TimeOf(d, row, k) * d.x.time_stride;
  Real* x = s.packed;  // which is not in use between chunks, and has room for a row
  LoadRow(d.dtype, d.x.data, offset, d.input, x);
  if (!AllFinite(x, d.input)) return false;
  if (s.kernel_is_finite < 0) {
    const Sizes<Real> sizes(d);
    const int64_t columns = d.in_place ? d.input : CeilDivide(d.input, kLanes<Real>) * kLanes<Real>;
    const int64_t count = columns * (d.in_place ? 4 * d.units : sizes.panels * sizes.width);
    s.kernel_is_finite = !d.dx.data || AllFinite(d.kernel_transposed, count) ? 1 : 0;
  }
  return s.kernel_is_finite > 0;
}

template <class Real>
void LoadSkip(const Direction<Real>& d, const Row& row, Remaining& left) {
  left.skip = left.skips > 0 ? Skips<Real>(d, row).Get(left.skips - 1) : Skip{};
  left.skipped = left.skip.steps;
  left.covered = false;
}

// Takes some of the last timesteps of a skip.
template <class Real>
void TakeSkipped(const Direction<Real>& d, const Row& row, int64_t count, Remaining& left) {
  left.timesteps -= count;
  left.skipped -= count;
  left.covered = left.covered || count >= left.skip.period;
  if (left.skipped > 0) return;
  --left.skips;
  LoadSkip(d, row, left);
}

// In a skip, once the gradients of the states have come to nothing, and as long as y's consumers send nothing, all
// gradients are zero: passes over these timesteps. Whatever is not finite in the states shows in a whole period.
template <class Real>
void PassZeros(const Direction<Real>& d, const Row& row, int64_t r, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  Remaining& left = s.remaining[r];
  Real *dh = s.dh + r * padded, *dc = s.dc + r * padded;
  if (!left.InSkip() || !left.covered || d.input_dropout || d.recurrent_dropout) return;
  if (!Vanished(dh, padded) || !Vanished(dc, padded) || !ProductsAreFinite(d, row, left.timesteps - 1, s)) return;
  int64_t count = 0;
  while (count < left.skipped && !HasOutputGradient(d, row, left.timesteps - count - 1, s.dy)) ++count;
  for (int64_t k = left.timesteps - count; k < left.timesteps && d.dx.data && !d.dx_accumulates; ++k) {
    ZeroInputGradient(d, row, TimeOf(d, row, k));
  }
  for (int64_t j = 0; j < padded; ++j) dh[j] = dc[j] = 0;
  if (count > 0) TakeSkipped(d, row, count, left);
}

// Makes the gates of some timesteps, from the checkpoints: each member of the team those of some rows.
template <class Real>
void RecomputeGates(const Direction<Real>& d, const Chunk& chunk, const Row* rows, BackwardScratch<Real>& s,
                    const Team& team) {
  const Sizes<Real> sizes(d);
  const Share all_units(d, {0, 1, nullptr, nullptr});
  Recurrence<Real>& state = s.state;
  const int64_t begin = team.First(chunk.rows), end = team.Last(chunk.rows);
  for (int64_t position = begin; position < end; ++position) {
    const int64_t r = chunk.row[position];
    const Real* kept = SlotsOf(d, rows[r]).At(s.part[r].slot / kCheckpointInterval);
    for (int64_t j = 0; j < sizes.units; ++j) {
      state.h[r * sizes.units + j] = kept[j];
      state.c[r * sizes.units + j] = kept[sizes.units + j];
    }
    for (int64_t step = 0; step < chunk.count[position]; ++step) {
      state.kept[chunk.Pair(step, position)] = s.part[r].slots.At(step);
    }
  }
  s.input.Gather(chunk, rows, begin, end);
  team.Wait();
  ProjectChunk(d, chunk, rows, s.input.operand(), begin, end, team.First(chunk.inputs), team.Last(chunk.inputs), state,
               all_units);
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
    if (part.period == 0 && part.slot == 0) {
      LoadState(d, d.h0, rows + r, 1, h);
      LoadState(d, d.c0, rows + r, 1, c);
      continue;
    }
    if (recompute && part.period == 0) {
      const Real* kept = SlotsOf(d, rows[r]).At(part.slot / kCheckpointInterval);
      for (int64_t j = 0; j < sizes.units; ++j) {
        h[j] = kept[j];
        c[j] = kept[sizes.units + j];
      }
      continue;
    }
    const Real* gates = part.GatesBefore(0);
    for (int64_t p = 0; p < sizes.panels; ++p) {
      const Vector<Real> c_p = Load(gates + (p * 5 + 4) * kL);
      Store(c + p * kL, c_p);
      Store(h + p * kL, Load(gates + (p * 5 + 3) * kL) * TanhOf<Real>(c_p));
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
  part = {recompute ? s.RecomputedSlots(d, r) : SlotsOf(d, rows[r]), recompute ? 0 : left.slots - period, left.slots,
          period, 0};
  s.again.Clear();
  s.again.Add(r, left.timesteps - left.skipped, period);
  s.again.Close();
  if (recompute) {
    RecomputeGates(d, s.again, rows, s, {0, 1, nullptr, nullptr});
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
    for (int64_t p = 0; p < sizes.panels; ++p) {
      const Real* kept = before + p * 5 * kLanes<Real>;
      Store(h + p * kLanes<Real>, Load(kept + 3 * kLanes<Real>) * TanhOf<Real>(Load(kept + 4 * kLanes<Real>)));
    }
    s.h_before.rows[phase] = h;
    for (int64_t gate = 3; gate >= 0 && d.recurrent_dropout; --gate) {  // gate 0, which overwrites h, last
      const Real* mask = s.masks + (r * 4 + gate) * padded;
      for (int64_t j = 0; j < padded; ++j) h[gate * kMostPeriod * padded + j] = h[j] * mask[j];
    }
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
    if (k > 0) PrefetchOutputGradient(d, row, k - 1, Share(d, {0, 1, nullptr, nullptr}));
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
  const auto offset_of = [&](int64_t n) {
    return row.batch * d.dx.batch_stride + TimeOf(d, row, left.timesteps - count + n) * d.dx.time_stride;
  };
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
void BackThroughSkip(const Direction<Real>& d, const Row* rows, int64_t r, BackwardScratch<Real>& s, bool fresh,
                     const WeightGradient<Real>& gradient) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Team alone = {0, 1, nullptr, nullptr};
  const Share share(d, alone);
  PrepareSkip(d, rows, r, s);
  SkipScratch<Real>& skip = s.skip;
  Remaining& left = s.remaining[r];
  const int64_t period = left.skip.period, skips = left.skips;
  while (left.skips == skips) {
    PassZeros(d, rows[r], r, s);
    if (left.skips != skips) break;
    const int64_t count = left.skipped < skip.kBlock ? left.skipped : skip.kBlock;
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
  PackOperand(s.input.operand(), d.input, period, s.packed, alone);
  AccumulateMatrix(d, s.input.operand().per_gate, d.input, skip.dz, period, s.packed, fresh, gradient.in_place,
                   gradient.kernel, alone);
  PackOperand(states, d.units, period, s.packed, alone);
  AccumulateMatrix(d, states.per_gate, d.units, skip.dz, period, s.packed, fresh, gradient.in_place,
                   gradient.recurrent_kernel, alone);
  AccumulateBias(sizes, share, skip.dz, period, fresh, gradient.in_place, gradient.bias);
}

// Chooses what the rows do in the next chunk, which is in no row more than a skip or what lies between two, and takes
// it off what they have to do. Rows that go through skips by themselves do so here.
template <class Real>
void NextBackwardChunk(const Direction<Real>& d, const Row* rows, int64_t row_count, BackwardScratch<Real>& s,
                       bool& fresh, const WeightGradient<Real>& gradient) {
  const bool recompute = d.reserve_mode == Reserve::kRecompute;
  const auto least = [](int64_t a, int64_t b) { return a < b ? a : b; };
  Chunk& chunk = s.chunk;
  chunk.Clear();
  for (int64_t r = 0; r < row_count; ++r) {
    const Row& row = rows[r];
    Remaining& left = s.remaining[r];
    if (left.InSkip() && d.skips_by_row) {
      BackThroughSkip(d, rows, r, s, fresh, gradient);
      fresh = false;
    }
    PassZeros(d, row, r, s);
    if (left.timesteps == 0) continue;
    BackwardPart<Real>& part = s.part[r];
    const int64_t timesteps = left.timesteps;
    part = {recompute ? s.RecomputedSlots(d, r) : SlotsOf(d, row), 0, left.slots, 0, 0};
    if (left.InSkip()) {
      const int64_t count = least(d.chunk_steps, left.skipped);
      part.period = left.skip.period;
      part.phase = (left.skipped - count) % part.period;
      if (!recompute) part.first = left.slots - part.period;
      TakeSkipped(d, row, count, left);
    } else {
      int64_t count = least(d.chunk_steps, left.slots - left.skip.slot);
      if (recompute) count = least(count, (left.slots - 1) % kCheckpointInterval + 1);
      left.timesteps -= count;
      left.slots -= count;
      part.slot = left.slots;
      if (!recompute) part.first = part.slot;
    }
    chunk.Add(r, left.timesteps, timesteps - left.timesteps);
  }
  chunk.Close();
  NumberInputs(d, rows, chunk, [&](int64_t position) { return s.part[chunk.row[position]].period > 0; });
  NumberStates(d, chunk, [&](int64_t position) { return s.part[chunk.row[position]].period; });
  if (recompute && d.repeats) ChunkToRecompute(s);
  chunk.Publish();
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
    s.pair_offset[pair] = rows[r].batch * d.dx.batch_stride + TimeOf(d, rows[r], k) * d.dx.time_stride;
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
  const int64_t first = s.chunk.Pair(step, begin);
  if (d.recurrent_dropout) {
    ForTransposedProduct<Real, true>(d, s.dz, s.chunk.total, first, end - begin, d.recurrent_kernel_transposed, d.units,
                                     share.first_unit, share.first_unit + share.units, mask_of, padded, store);
  } else {
    ForTransposedProduct<Real, false>(d, s.dz, s.chunk.total, first, end - begin, d.recurrent_kernel_transposed,
                                      d.units, share.first_unit, share.first_unit + share.units, mask_of, padded,
                                      store);
  }
}

// dx = dz W^T for the whole chunk, each member of the team for its share of the pairs.
template <class Real>
void StoreInputGradient(const Direction<Real>& d, BackwardScratch<Real>& s, const Team& team) {
  const int64_t first = team.First(s.chunk.total), count = team.Last(s.chunk.total) - first;
  const auto mask_of = [&](int64_t pair) { return s.input.mask(s.pair_row[first + pair], 0); };
  const auto store = [&](int64_t pair, int64_t column, const Real* values, int64_t valid) {
    StoreInputGradientPart(d, s.pair_offset[first + pair] + column, valid, values);
  };
  if (d.input_dropout) {
    ForTransposedProduct<Real, true>(d, s.dz, s.chunk.total, first, count, d.kernel_transposed, d.input, 0, d.input,
                                     mask_of, d.input, store);
  } else {
    ForTransposedProduct<Real, false>(d, s.dz, s.chunk.total, first, count, d.kernel_transposed, d.input, 0, d.input,
                                      mask_of, d.input, store);
  }
}

// dx = dz, for the rows at the positions [begin, end), each member of their group for its own units.
template <class Real>
void StoreProjectedGradient(const Direction<Real>& d, const Row* rows, int64_t begin, int64_t end,
                            const BackwardScratch<Real>& s, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  ForPairsByRow(s.chunk, begin, end, [&](int64_t r, int64_t k, int64_t pair) {
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

// h before each pair of the rows at the positions [begin, end), times the dropout masks, becomes the left operand of
// the recurrent kernel's gradient.
template <class Real>
void PrepareStates(const Direction<Real>& d, int64_t begin, int64_t end, BackwardScratch<Real>& s) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t step = 0; step < s.chunk.steps; ++step) {
    for (int64_t position = begin; position < end && position < s.chunk.active[step]; ++position) {
      const int64_t r = s.chunk.row[position], period = s.part[r].period;
      if (period > 0 && step >= period) continue;  // a state that the row has had in this chunk
      const int64_t n = s.chunk.StateOf(s.chunk.Pair(step, position));
      Real* h = s.h_rows + n * padded;
      s.h_before.rows[n] = h;
      for (int64_t gate = 3; gate >= 0 && d.recurrent_dropout; --gate) {  // gate 0, which overwrites h, last
        const Real* mask = s.masks + (r * 4 + gate) * padded;
        for (int64_t j = 0; j < padded; ++j) h[gate * s.h_before.gate_stride + j] = h[j] * mask[j];
      }
    }
  }
}

// Sums dz, of this member's units, over the pairs that have one number; they are numbered in the order of the pairs.
template <class Real>
const Real* SumByNumber(const Sizes<Real>& sizes, const Share& share, const Chunk& chunk, const int64_t* number_of,
                        int64_t numbers, const Real* dz, Real* sums) {
  constexpr int64_t kL = kLanes<Real>;
  if (numbers == chunk.total) return dz;
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* from = dz + p * chunk.total * sizes.width;
    int64_t next = 0;
    for (int64_t pair = 0; pair < chunk.total; ++pair) {
      Real* to = sums + (p * numbers + number_of[pair]) * sizes.width;
      const bool first = number_of[pair] == next;
      next += first ? 1 : 0;
      LSTM_FAST_UNROLL
      for (int v = 0; v < 4; ++v) {
        Store(to + v * kL, first ? Load(from + v * kL) : Load(to + v * kL) + Load(from + v * kL));
      }
      from += sizes.width;
    }
  }
  return sums;
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
    const int64_t active = chunk.active[step] < end ? chunk.active[step] : end;
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
void AccumulateWeights(const Direction<Real>& d, BackwardScratch<Real>& s, bool any_state, bool fresh,
                       const WeightGradient<Real>& gradient, const Team& team) {
  const Sizes<Real> sizes(d);
  const Share share(d, team);
  const Chunk& chunk = s.chunk;
  const Operand<Real>& inputs = s.input.operand();
  // A team packs both operands before it meets. A single thread has the second in a cache when it needs it.
  const bool both = team.size > 1 && !chunk.SharesStates();
  Real* packed_states = both ? s.packed_states : s.packed;
  const Real* of_inputs = SumByNumber(sizes, share, chunk, chunk.input_of, chunk.inputs, s.dz, s.dz_sums);
  PackOperand(inputs, d.input, chunk.inputs, s.packed, team);
  if (any_state && both) PackOperand(s.h_before, d.units, chunk.states, packed_states, team);
  team.Wait();
  AccumulateMatrix(d, inputs.per_gate, d.input, of_inputs, chunk.inputs, s.packed, fresh, gradient.in_place,
                   gradient.kernel, team);
  AccumulateBias(sizes, share, of_inputs, chunk.inputs, fresh, gradient.in_place, gradient.bias);
  if (!any_state) {  // a single step, from no state
    if (fresh) ClearGradient(sizes, share, d.units, gradient.recurrent_kernel);
    return;
  }
  const Real* of_states = s.dz;
  if (!both) {
    team.Wait();  // before `packed` and the sums are overwritten
    of_states = SumByNumber(sizes, share, chunk, chunk.state_of, chunk.states, s.dz, s.dz_sums);
    PackOperand(s.h_before, d.units, chunk.states, packed_states, team);
    team.Wait();
  }
  AccumulateMatrix(d, s.h_before.per_gate, d.units, of_states, chunk.states, packed_states, fresh, gradient.in_place,
                   gradient.recurrent_kernel, team);
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
    left = {rows[r].count, rows[r].count, Skips<Real>(d, rows[r]).Count(), {}, 0, false};
    for (int64_t n = 0; n < left.skips; ++n) left.slots -= Skips<Real>(d, rows[r]).Get(n).steps;
    LoadSkip(d, rows[r], left);
    if (d.dx.data && !d.dx_accumulates && rows[r].count < d.time) ZeroMaskedInputGradient(d, rows[r]);
  }
  team.Wait();

  bool fresh = gradient.fresh;
  for (;;) {
    if (team.rank == 0) NextBackwardChunk(d, rows, row_count, s, fresh, gradient);
    team.Wait();
    chunk.Read();
    if (chunk.rows == 0) break;
    PrepareChunk(d, rows, s, team);
    StepsBack(d, rows, s, team);
    const bool any_state = chunk.steps > 1 || d.h0 || AnyFollows(chunk, 0, 0, chunk.active[0]);
    team.Wait();  // for dz and h; the leader may overwrite the chunk's lists from here on
    AccumulateWeights(d, s, any_state, fresh, gradient, team);
    fresh = false;
    if (d.dx.data && !d.projected) StoreInputGradient(d, s, team);
    if (d.repeats) team.Wait();  // the leader may then write more: see PassZeros(), and the chunk's numbers
  }
  if (fresh) {  // no row has a timestep
    const Share share(d, team);
    ClearGradient(sizes, share, d.input, gradient.kernel);
    ClearGradient(sizes, share, d.units, gradient.recurrent_kernel);
    ClearGradient(sizes, share, 1, gradient.bias);
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
