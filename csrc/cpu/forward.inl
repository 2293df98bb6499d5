// The forward pass of one tile of rows in one direction. A chunk of timesteps is projected, z = x W + b, while it is in
// cache, or copied where x is projected already; then the recurrence runs over it. Padded timesteps are never touched:
// rows run over their real timesteps only.
namespace lstm_fast {
namespace {

// The recurrence's state and buffers; also used by the backward pass to compute gates again.
template <class Real>
struct Recurrence {
  Recurrence(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count) : rows(row_count) {
    const Sizes<Real> sizes(d);
    z = scratch.template Take<Real>(row_count * d.chunk_steps * sizes.panels * sizes.width);
    h = scratch.template Take<Real>(row_count * sizes.units);
    h_next = scratch.template Take<Real>(row_count * sizes.units);
    c = scratch.template Take<Real>(row_count * sizes.units);
    gates = scratch.template Take<Real*>(row_count);
    if (d.recurrent_dropout) {
      masks = scratch.template Take<Real>(row_count * 4 * sizes.units);
      h_masked = scratch.template Take<Real>(row_count * 4 * sizes.units);
    }
  }

  int64_t rows;
  Real* z;               // gate rows of the chunk
  Real *h, *h_next, *c;  // [rows][Hp]
  Real** gates;          // per row: where the gates of its step `kept_from` and later go; null: not kept
  int64_t kept_from = 0;
  Real* masks = nullptr;     // [rows][4][Hp]
  Real* h_masked = nullptr;  // [4][rows][Hp]
};

// z += left * matrix, for this member's units. The matrix [K, 4H] is read as it was given, a few of its rows at a time:
// column after column would touch a page for each part of a line. z is kept in between, and so summed in the order of
// the packed panels, to the bit. left_of(i, gate) is row i of the left operand.
template <class Real, class LeftOf>
void MultiplyInPlace(const Share& share, int64_t units, const Real* matrix, int64_t k, int64_t count,
                     const LeftOf& left_of, Real* z, int64_t z_stride) {
  constexpr int64_t kL = kLanes<Real>, kTerms = 16;
  for (int64_t term = 0; term < k; term += kTerms) {
    const Extent extent = {1, k - term < kTerms ? k - term : kTerms, 0, 0, 4 * units};
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t p = share.first; p < share.last; p += 4) {
        ForRowTiles(count, [&](auto tile, int64_t first) {
          constexpr int kRows = decltype(tile)::value;
          const Real* left[kRows];
          LSTM_FAST_UNROLL
          for (int i = 0; i < kRows; ++i) left[i] = left_of(first + i, gate) + term;
          CallWithVectors(share.last - p, [&](auto vectors) {
            constexpr int kVectors = decltype(vectors)::value;
            Real* to = z + p * z_stride + first * 4 * kL + gate * kL;
            Vector<Real> sums[kRows][kVectors];
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < kVectors; ++v) sums[i][v] = Load(to + v * z_stride + i * 4 * kL);
            }
            MultiplyPanel<Real, kRows, kVectors, 1, false>(left, 0, extent, matrix + (term * 4 + gate) * units + p * kL,
                                                           sums);
            LSTM_FAST_UNROLL
            for (int i = 0; i < kRows; ++i) {
              LSTM_FAST_UNROLL
              for (int v = 0; v < kVectors; ++v) Store(to + v * z_stride + i * 4 * kL, sums[i][v]);
            }
          });
        });
      }
    }
  }
}

template <class Real, bool kPerGate>
void Project(const Direction<Real>& d, const Operand<Real>& x, int64_t total, Real* z, const Share& share) {
  const Sizes<Real> sizes(d);
  const Extent extent = {1, d.in_place ? 0 : d.input, 0, 0, sizes.width};
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* bias = d.bias + p * sizes.width;
    const Real* panel = d.kernel + p * d.input * sizes.width;
    ForRowTiles(total, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
      const Real* left[kRows];
      Vector<Real> sums[kRows][4];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        left[i] = x.rows[first + i];
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) sums[i][v] = Load(bias + v * kLanes<Real>);
      }
      MultiplyPanel<Real, kRows, 4, 1, kPerGate>(left, x.gate_stride, extent, panel, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Real* out = z + (p * total + first + i) * sizes.width;
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) Store(out + v * kLanes<Real>, sums[i][v]);
      }
    });
  }
  if (!d.in_place) return;
  const auto left_of = [&](int64_t i, int64_t gate) { return x.rows[i] + (kPerGate ? gate * x.gate_stride : 0); };
  MultiplyInPlace(share, d.units, d.kernel, d.input, total, left_of, z, total * sizes.width);
}

// Reads up to kLanes elements of `count`; lanes beyond them are 0.
template <class Real>
LSTM_FAST_INLINE Vector<Real> LoadPart(const Real* from, int64_t count) {
  if (count >= kLanes<Real>) return Load(from);
  Real values[kLanes<Real>] = {};
  for (int64_t lane = 0; lane < count; ++lane) values[lane] = from[lane];
  return Load(values);
}

// z = x + b, where x is projected already.
template <class Real>
void CopyProjected(const Direction<Real>& d, const Chunk& chunk, const Row* rows, Real* z, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  ForPairsByRow(chunk, [&](int64_t r, int64_t k, int64_t pair) {
    const int64_t offset = rows[r].batch * d.x.batch_stride + TimeOf(d, rows[r], k) * d.x.time_stride;
    ForGateRuns<Real>(share, [&](int64_t gate, int64_t unit, int64_t count) {
      alignas(64) Real converted[kRun<Real>];
      const Real* from = converted;
      if (IsReal<Real>(d.dtype)) {
        from = static_cast<const Real*>(d.x.data) + offset + gate * d.units + unit;
      } else {
        LoadRow(d.dtype, d.x.data, offset + gate * d.units + unit, count, converted);
      }
      Real* to = z + (unit / kL * chunk.total + pair) * sizes.width + gate * kL;
      const Real* bias = d.bias + unit * 4 + gate * kL;
      for (int64_t i = 0; i < count; i += kL) {
        Store(to, LoadPart(from + i, count - i) + Load(bias));
        to += chunk.total * sizes.width;
        bias += sizes.width;
      }
    });
  });
}

// One timestep of the rows that are active in it: h -> h_next, c in place.
template <class Real, bool kPerGate>
void Step(const Direction<Real>& d, const Chunk& chunk, int64_t k, Recurrence<Real>& state, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const int64_t active = chunk.active[k - chunk.begin], first_pair = chunk.first[k - chunk.begin];
  // There is nothing to multiply before the first step if no state was given.
  const int64_t terms = k == 0 && !d.h0 ? 0 : d.units;
  const Extent extent = {1, d.in_place ? 0 : terms, 0, 0, sizes.width};
  const int64_t gate_stride = state.rows * sizes.units;
  if constexpr (kPerGate) {
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t r = 0; r < active; ++r) {
        for (int64_t j = 0; j < sizes.units; ++j) {
          state.h_masked[gate * gate_stride + r * sizes.units + j] =
              state.h[r * sizes.units + j] * state.masks[(r * 4 + gate) * sizes.units + j];
        }
      }
    }
  }
  const Real* h = kPerGate ? state.h_masked : state.h;
  if (d.in_place) {
    const auto left_of = [&](int64_t i, int64_t gate) {
      return h + (kPerGate ? gate * gate_stride : 0) + i * sizes.units;
    };
    MultiplyInPlace(share, d.units, d.recurrent_kernel, terms, active, left_of, state.z + first_pair * sizes.width,
                    chunk.total * sizes.width);
  }
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* panel = d.recurrent_kernel + p * d.units * sizes.width;
    ForRowTiles(active, [&](auto tile, int64_t first) {
      constexpr int kRows = decltype(tile)::value;
      const Real* left[kRows];
      Vector<Real> sums[kRows][4];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        left[i] = h + (first + i) * sizes.units;
        const Real* z = state.z + (p * chunk.total + first_pair + first + i) * sizes.width;
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) sums[i][v] = Load(z + v * kL);
      }
      MultiplyPanel<Real, kRows, 4, 1, kPerGate>(left, gate_stride, extent, panel, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Real* c_row = state.c + (first + i) * sizes.units + p * kL;
        const Vector<Real> in = SigmoidOf<Real>(sums[i][0]), forget = SigmoidOf<Real>(sums[i][1]);
        const Vector<Real> candidate = TanhOf<Real>(sums[i][2]), out = SigmoidOf<Real>(sums[i][3]);
        const Vector<Real> c = MultiplyAdd(forget, Load(c_row), in * candidate);
        Store(c_row, c);
        sums[i][0] = c;
        sums[i][3] = out;
        if (state.gates[first + i]) {
          Real* kept = state.gates[first + i] + ((k - state.kept_from) * sizes.panels + p) * 5 * kL;
          Store(kept, in);
          Store(kept + kL, forget);
          Store(kept + 2 * kL, candidate);
          Store(kept + 3 * kL, out);
          Store(kept + 4 * kL, c);
          Prefetch(kept, 5 * kL, 5 * kL);  // of the next panel, which is written next
        }
      }
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Store(state.h_next + (first + i) * sizes.units + p * kL, sums[i][3] * TanhOf<Real>(sums[i][0]));
      }
    });
  }
}

// Projects a chunk and runs the recurrence over it. After each step on_step(k, active) sees this member's units of
// h_next and c; it waits for the team.
template <class Real, class OnStep>
LSTM_FAST_INLINE void RunChunk(const Direction<Real>& d, const Chunk& chunk, const Row* rows, const Operand<Real>& x,
                               Recurrence<Real>& state, const Share& share, const OnStep& on_step) {
  if (d.projected) {
    CopyProjected(d, chunk, rows, state.z, share);
  } else {
    x.per_gate ? Project<Real, true>(d, x, chunk.total, state.z, share)
               : Project<Real, false>(d, x, chunk.total, state.z, share);
  }
  for (int64_t k = chunk.begin; k < chunk.end; ++k) {
    d.recurrent_dropout ? Step<Real, true>(d, chunk, k, state, share) : Step<Real, false>(d, chunk, k, state, share);
    on_step(k, chunk.active[k - chunk.begin]);
    Real* previous = state.h;
    state.h = state.h_next;
    state.h_next = previous;
  }
}

// Fills the masked timesteps of y: zero, or a copy of the previous output in processing order.
template <class Real>
void FillMaskedOutputs(const Direction<Real>& d, const Row& row) {
  int64_t k = 0, previous = -1;
  for (int64_t position = 0; position < d.time; ++position) {
    const int64_t t = d.reversed ? d.time - 1 - position : position;
    const int64_t offset = row.batch * d.y.batch_stride + OutputTime(d, t) * d.y.time_stride;
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
    StoreRow(d.dtype, d.y.data, row.batch * d.y.batch_stride, d.units, h);
  } else {
    ZeroRow(d.dtype, d.y.data, row.batch * d.y.batch_stride, d.units);
  }
}

template <class Real>
struct ForwardScratch {
  ForwardScratch(Real* base, const Direction<Real>& d, int64_t row_count)
      : scratch(base), chunk(TakeChunk(scratch, d)), input(scratch, d, row_count), state(scratch, d, row_count) {}
  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Recurrence<Real> state;
};

template <class Real>
int64_t ForwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return ForwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

template <class Real>
void ForwardTile(const Direction<Real>& d, const Row* rows, int64_t row_count, Real* scratch_memory, const Team& team) {
  ForwardScratch<Real> scratch(scratch_memory, d, row_count);
  Chunk& chunk = scratch.chunk;
  Recurrence<Real>& state = scratch.state;
  const Sizes<Real> sizes(d);
  const bool leads = team.rank == 0;
  const Share share(d, team);

  if (leads) {
    scratch.input.LoadMasks(rows, row_count);
    if (d.recurrent_dropout) LoadRecurrentMasks(d, rows, row_count, state.masks);
    LoadState(d, d.h0, rows, row_count, state.h);
    LoadState(d, d.c0, rows, row_count, state.c);
    for (int64_t r = 0; r < row_count; ++r) {
      state.gates[r] = d.reserve_mode == Reserve::kGates ? d.reserve + rows[r].reserve_offset : nullptr;
      if (rows[r].count == 0) StoreFinal(d, rows[r], state.h + r * sizes.units, state.c + r * sizes.units);
    }
  }

  const int64_t steps = rows[0].count;
  for (int64_t begin = 0; begin < steps; begin += d.chunk_steps) {
    const int64_t end = begin + d.chunk_steps < steps ? begin + d.chunk_steps : steps;
    chunk.Span(begin, end);
    if (leads) {
      chunk.Fill(rows, row_count);
      scratch.input.Gather(chunk, rows);
    }
    team.Wait();
    chunk.Count();
    if (d.reserve_mode == Reserve::kRecompute) {  // here chunk_steps is kCheckpointInterval
      for (int64_t r = 0; r < chunk.active[0]; ++r) {
        Real* kept = d.reserve + rows[r].reserve_offset + begin / kCheckpointInterval * 2 * sizes.units;
        for (int64_t j = 0; j < sizes.units; ++j) {
          kept[j] = state.h[r * sizes.units + j];
          kept[sizes.units + j] = state.c[r * sizes.units + j];
        }
      }
    }
    RunChunk(d, chunk, rows, scratch.input.operand(), state, share, [&](int64_t k, int64_t active) {
      for (int64_t r = 0; r < active && d.return_sequences && d.y.data; ++r) {
        const int64_t time = OutputTime(d, TimeOf(d, rows[r], k));
        const int64_t offset = rows[r].batch * d.y.batch_stride + time * d.y.time_stride + share.first_unit;
        StoreRow(d.dtype, d.y.data, offset, share.units, state.h_next + r * sizes.units + share.first_unit);
      }
      team.Wait();
      for (int64_t r = 0; r < active && leads; ++r) {  // a finished row's h and c stay as they are
        if (k + 1 < rows[r].count) continue;
        StoreFinal(d, rows[r], state.h_next + r * sizes.units, state.c + r * sizes.units);
      }
    });
  }
}

}  // namespace
}  // namespace lstm_fast
