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
    kept = scratch.template Take<Real*>(row_count * d.chunk_steps);
    if (d.recurrent_dropout) {
      masks = scratch.template Take<Real>(row_count * 4 * sizes.units);
      h_masked = scratch.template Take<Real>(row_count * 4 * sizes.units);
    }
  }

  int64_t rows;
  Real* z;                   // gate rows of the chunk
  Real *h, *h_next, *c;      // [rows][Hp]
  Real** kept;               // by pair of the chunk: where its gates go; null: they are not kept
  Real* masks = nullptr;     // [rows][4][Hp]
  Real* h_masked = nullptr;  // [4][rows][Hp]
};

// z += left * matrix, for this member's units, for `count` rows. The matrix [K, 4H] is read as it was given, a few of
// its rows at a time: column after column would touch a page for each part of a line. z is kept in between, and so
// summed in the order of the packed panels, to the bit. left_of(i, gate) is row i of the left operand.
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

// z = x W + b, for the inputs [begin, end) of `total`.
template <class Real, bool kPerGate>
void Project(const Direction<Real>& d, const Operand<Real>& x, int64_t begin, int64_t end, int64_t total, Real* z,
             const Share& share) {
  const Sizes<Real> sizes(d);
  const Extent extent = {1, d.in_place ? 0 : d.input, 0, 0, sizes.width};
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* bias = d.bias + p * sizes.width;
    const Real* panel = d.kernel + p * d.input * sizes.width;
    ForRowTiles(end - begin, [&](auto tile, int64_t offset) {
      constexpr int kRows = decltype(tile)::value;
      const int64_t first = begin + offset;
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
  const auto left_of = [&](int64_t i, int64_t gate) {
    return x.rows[begin + i] + (kPerGate ? gate * x.gate_stride : 0);
  };
  MultiplyInPlace(share, d.units, d.kernel, d.input, end - begin, left_of, z + begin * sizes.width,
                  total * sizes.width);
}

// Reads up to kLanes elements of `count`; lanes beyond them are 0.
template <class Real>
LSTM_FAST_INLINE Vector<Real> LoadPart(const Real* from, int64_t count) {
  if (count >= kLanes<Real>) return Load(from);
  Real values[kLanes<Real>] = {};
  for (int64_t lane = 0; lane < count; ++lane) values[lane] = from[lane];
  return Load(values);
}

// z = x + b, where x is projected already, for the rows at the positions [begin, end).
template <class Real>
void CopyProjected(const Direction<Real>& d, const Chunk& chunk, const Row* rows, int64_t begin, int64_t end, Real* z,
                   const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  int64_t input = -1;
  ForPairsByRow(chunk, begin, end, [&](int64_t r, int64_t k, int64_t pair) {
    if (chunk.InputOf(pair) == input) return;
    input = chunk.InputOf(pair);
    const int64_t offset = rows[r].batch * d.x.batch_stride + TimeOf(d, rows[r], k) * d.x.time_stride;
    ForGateRuns<Real>(share, [&](int64_t gate, int64_t unit, int64_t count) {
      alignas(64) Real converted[kRun<Real>];
      const Real* from = converted;
      if (IsReal<Real>(d.dtype)) {
        from = static_cast<const Real*>(d.x.data) + offset + gate * d.units + unit;
      } else {
        LoadRow(d.dtype, d.x.data, offset + gate * d.units + unit, count, converted);
      }
      Real* to = z + (unit / kL * chunk.inputs + input) * sizes.width + gate * kL;
      const Real* bias = d.bias + unit * 4 + gate * kL;
      for (int64_t i = 0; i < count; i += kL) {
        Store(to, LoadPart(from + i, count - i) + Load(bias));
        to += chunk.inputs * sizes.width;
        bias += sizes.width;
      }
    });
  });
}

// One step of the rows at the positions [begin, end): h -> h_next, c in place. `terms` of h count: all or none.
template <class Real, bool kPerGate>
void StepRows(const Direction<Real>& d, const Chunk& chunk, int64_t step, int64_t begin, int64_t end, int64_t terms,
              Recurrence<Real>& state, const Share& share) {
  constexpr int64_t kL = kLanes<Real>;
  const Sizes<Real> sizes(d);
  const Extent extent = {1, d.in_place ? 0 : terms, 0, 0, sizes.width};
  const int64_t gate_stride = state.rows * sizes.units, first_pair = chunk.first[step];
  const Real* h = kPerGate ? state.h_masked : state.h;
  if (d.in_place) {
    const auto left_of = [&](int64_t i, int64_t gate) {
      return h + (kPerGate ? gate * gate_stride : 0) + chunk.row[begin + i] * sizes.units;
    };
    MultiplyInPlace(share, d.units, d.recurrent_kernel, terms, end - begin, left_of,
                    state.z + (first_pair + begin) * sizes.width, chunk.inputs * sizes.width);
  }
  for (int64_t p = share.first; p < share.last; ++p) {
    const Real* panel = d.recurrent_kernel + p * d.units * sizes.width;
    ForRowTiles(end - begin, [&](auto tile, int64_t offset) {
      constexpr int kRows = decltype(tile)::value;
      const int64_t first = begin + offset;
      const Real* left[kRows];
      Vector<Real> sums[kRows][4];
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        left[i] = h + chunk.row[first + i] * sizes.units;
        const Real* z = state.z + (p * chunk.inputs + chunk.InputOf(first_pair + first + i)) * sizes.width;
        LSTM_FAST_UNROLL
        for (int v = 0; v < 4; ++v) sums[i][v] = Load(z + v * kL);
      }
      MultiplyPanel<Real, kRows, 4, 1, kPerGate>(left, gate_stride, extent, panel, sums);
      LSTM_FAST_UNROLL
      for (int i = 0; i < kRows; ++i) {
        Real* c_row = state.c + chunk.row[first + i] * sizes.units + p * kL;
        const Vector<Real> in = SigmoidOf<Real>(sums[i][0]), forget = SigmoidOf<Real>(sums[i][1]);
        const Vector<Real> candidate = TanhOf<Real>(sums[i][2]), out = SigmoidOf<Real>(sums[i][3]);
        const Vector<Real> c = MultiplyAdd(forget, Load(c_row), in * candidate);
        Store(c_row, c);
        sums[i][0] = c;
        sums[i][3] = out;
        if (Real* kept = state.kept[first_pair + first + i]) {
          kept += p * 5 * kL;
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
        Store(state.h_next + chunk.row[first + i] * sizes.units + p * kL, sums[i][3] * TanhOf<Real>(sums[i][0]));
      }
    });
  }
}

// One step of those rows at the positions [first, last) that are active in it.
template <class Real, bool kPerGate>
void Step(const Direction<Real>& d, const Chunk& chunk, int64_t step, int64_t first, int64_t last,
          Recurrence<Real>& state, const Share& share) {
  const int64_t active = chunk.active[step] < last ? chunk.active[step] : last, padded = Sizes<Real>(d).units;
  for (int64_t position = first; position < active && kPerGate; ++position) {
    const int64_t r = chunk.row[position];
    for (int64_t gate = 0; gate < 4; ++gate) {
      for (int64_t j = 0; j < padded; ++j) {
        state.h_masked[(gate * state.rows + r) * padded + j] =
            state.h[r * padded + j] * state.masks[(r * 4 + gate) * padded + j];
      }
    }
  }
  // There is nothing to multiply before a row's first timestep if no state was given.
  const auto starts = [&](int64_t position) { return step == 0 && !d.h0 && chunk.from[position] == 0; };
  for (int64_t begin = first; begin < active;) {
    int64_t end = step == 0 ? begin + 1 : active;
    while (end < active && starts(end) == starts(begin)) ++end;
    StepRows<Real, kPerGate>(d, chunk, step, begin, end, starts(begin) ? 0 : d.units, state, share);
    begin = end;
  }
}

// Projects the inputs [first_input, last_input) of a chunk; of a projected x, those of the rows at [first, last).
template <class Real>
LSTM_FAST_INLINE void ProjectChunk(const Direction<Real>& d, const Chunk& chunk, const Row* rows,
                                   const Operand<Real>& x, int64_t first, int64_t last, int64_t first_input,
                                   int64_t last_input, Recurrence<Real>& state, const Share& share) {
  if (d.projected) {
    CopyProjected(d, chunk, rows, first, last, state.z, share);
  } else {
    x.per_gate ? Project<Real, true>(d, x, first_input, last_input, chunk.inputs, state.z, share)
               : Project<Real, false>(d, x, first_input, last_input, chunk.inputs, state.z, share);
  }
}

// Runs the recurrence over a chunk that is projected, for the rows at the positions [first, last). After each step
// on_step(step) sees this member's units of h_next and c; it waits for the team, if that shares units.
template <class Real, class OnStep>
LSTM_FAST_INLINE void RunChunk(const Direction<Real>& d, const Chunk& chunk, int64_t first, int64_t last,
                               Recurrence<Real>& state, const Share& share, const OnStep& on_step) {
  for (int64_t step = 0; step < chunk.steps; ++step) {
    d.recurrent_dropout ? Step<Real, true>(d, chunk, step, first, last, state, share)
                        : Step<Real, false>(d, chunk, step, first, last, state, share);
    on_step(step);
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
      : scratch(base),
        chunk(TakeChunk(scratch, d, row_count)),
        input(scratch, d, row_count),
        state(scratch, d, row_count),
        orbits(scratch, d, row_count) {
    done = scratch.template Take<int64_t>(row_count);
    slot = scratch.template Take<int64_t>(row_count);
  }
  Scratch<Real> scratch;
  Chunk chunk;
  InputRows<Real> input;
  Recurrence<Real> state;
  Orbits<Real> orbits;
  int64_t* done;  // by row: real timesteps that are done
  int64_t* slot;  // by row: those of them that were computed
};

template <class Real>
int64_t ForwardScratchSize(const Direction<Real>& d, int64_t row_count) {
  return ForwardScratch<Real>(nullptr, d, row_count).scratch.elements();
}

template <class Real>
void KeepCheckpoint(const Direction<Real>& d, const Row& row, int64_t slot, const Real* h, const Real* c) {
  const int64_t padded = Sizes<Real>(d).units;
  Real* kept = SlotsOf(d, row).At(slot / kCheckpointInterval);
  for (int64_t j = 0; j < padded; ++j) {
    kept[j] = h[j];
    kept[padded + j] = c[j];
  }
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
    if (const int64_t skipped = s.orbits.Leave(row, r, s.done[r], s.slot[r], team)) {
      s.done[r] += skipped;
      if (d.reserve_mode == Reserve::kRecompute) KeepCheckpoint(d, row, s.slot[r], h, c);
      if (s.done[r] == row.count) {
        StoreFinal(d, row, h, c);
        continue;
      }
    }
    const int64_t left = row.count - s.done[r], count = left < d.chunk_steps ? left : d.chunk_steps;
    if (d.reserve_mode == Reserve::kRecompute) KeepCheckpoint(d, row, s.slot[r], h, c);  // chunks lie between two
    chunk.Add(r, s.done[r], count);
    s.done[r] += count;
    s.slot[r] += count;
  }
  chunk.Close();
  NumberInputs(d, rows, chunk, [](int64_t) { return false; });
  s.orbits.Watch(rows, chunk, s.state.h, s.state.c);
  for (int64_t position = 0; position < chunk.rows; ++position) {
    const int64_t r = chunk.row[position], slot = s.slot[r] - chunk.count[position];
    const bool keeps = d.reserve_mode == Reserve::kGates;
    if (keeps) TakeBlocks(d, rows[r], slot, s.slot[r]);
    const Slots<Real> slots = SlotsOf(d, rows[r]);
    for (int64_t step = 0; step < chunk.count[position]; ++step) {
      s.state.kept[chunk.Pair(step, position)] = keeps ? slots.At(slot + step) : nullptr;
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
      scratch.done[r] = scratch.slot[r] = 0;
      if (rows[r].table_elements > 0) Skips<Real>(d, rows[r]).PutCount(0);
      if (rows[r].count == 0) StoreFinal(d, rows[r], state.h + r * padded, state.c + r * padded);
    }
  }

  for (;;) {
    if (leads) NextForwardChunk(d, rows, row_count, scratch, team);
    team.Wait();
    chunk.Read();
    if (chunk.rows == 0) return;
    ProjectChunk(d, chunk, rows, scratch.input.operand(), 0, chunk.rows, 0, chunk.inputs, state, share);
    RunChunk(d, chunk, 0, chunk.rows, state, share, [&](int64_t step) {
      const int64_t active = chunk.active[step];
      for (int64_t position = 0; position < active && d.return_sequences && d.y.data; ++position) {
        const int64_t r = chunk.row[position];
        const int64_t time = OutputTime(d, TimeOf(d, rows[r], chunk.from[position] + step));
        const int64_t offset = rows[r].batch * d.y.batch_stride + time * d.y.time_stride + share.first_unit;
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
