// What both passes share: scratch memory, the timesteps of a chunk, and the rows of x they read.
namespace lstm_fast {
namespace {

// Hands out 64-byte aligned pieces of the scratch buffer; with a null base it only measures, and all pieces are null.
template <class Real>
class Scratch {
 public:
  explicit Scratch(Real* base) : base_(reinterpret_cast<char*>(base)) {}

  template <class T>
  T* Take(int64_t count) {
    T* piece = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += CeilDivide(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return piece;
  }

  int64_t elements() const { return used_ / static_cast<int64_t>(sizeof(Real)); }

 private:
  char* base_;
  int64_t used_ = 0;
};

template <class Real>
struct Sizes {
  explicit Sizes(const Direction<Real>& d)
      : panels(CeilDivide(d.units, kLanes<Real>)), units(panels * kLanes<Real>), width(4 * kLanes<Real>) {}
  int64_t panels;
  int64_t units;  // with padding lanes
  int64_t width;  // of a gate panel: 4 * lanes
};

// The units that one member of a team owns: whole panels.
struct Share {
  template <class Real>
  Share(const Direction<Real>& d, const Team& team) {
    const int64_t panels = Sizes<Real>(d).panels;
    first = team.First(panels);
    last = team.Last(panels);
    first_unit = first * kLanes<Real>;
    units = (last * kLanes<Real> < d.units ? last * kLanes<Real> : d.units) - first_unit;
  }
  int64_t first, last;        // panels
  int64_t first_unit, units;  // real ones
};

// Some consecutive real timesteps of each of some rows of a tile. Its steps are counted from 0, and a row with few of
// them leaves early: the rows of a chunk are in the order of falling counts, so that those that are active in a step
// are a prefix. Pair (step, position) has index first[step] + position.
struct Chunk {
  struct Shape {
    int64_t steps;   // of the row with the most
    int64_t rows;    // that have any
    int64_t total;   // pairs
    int64_t inputs;  // different inputs, as far as is known
    int64_t states;  // different states before a step, likewise
  };

  int64_t steps, rows, total, inputs, states;
  int64_t *first, *active;       // by step
  int64_t *row, *from, *count;   // by position: which row of the tile, its first timestep, how many
  int64_t *input_of, *state_of;  // by pair: the number of its input and state, where there are fewer than pairs
  Shape* shape;                  // the sizes, for the other members of a team

  // Is given the tile's row, its first timestep and the number of its timesteps, which is not 0.
  void Add(int64_t tile_row, int64_t first_timestep, int64_t timesteps) {
    int64_t position = rows++;
    for (; position > 0 && count[position - 1] < timesteps; --position) {
      row[position] = row[position - 1];
      from[position] = from[position - 1];
      count[position] = count[position - 1];
    }
    row[position] = tile_row;
    from[position] = first_timestep;
    count[position] = timesteps;
  }

  void Clear() { rows = 0; }

  // Once all rows have been added.
  void Close() {
    steps = rows > 0 ? count[0] : 0;
    total = 0;
    int64_t in_step = rows;
    for (int64_t step = 0; step < steps; ++step) {
      while (count[in_step - 1] <= step) --in_step;
      first[step] = total;
      active[step] = in_step;
      total += in_step;
    }
    inputs = states = total;
  }

  // What the leader of a team has made is what the others read after they have met.
  void Publish() const { *shape = {steps, rows, total, inputs, states}; }
  void Read() {
    steps = shape->steps;
    rows = shape->rows;
    total = shape->total;
    inputs = shape->inputs;
    states = shape->states;
  }

  int64_t Pair(int64_t step, int64_t position) const { return first[step] + position; }
  bool SharesInputs() const { return inputs < total; }
  bool SharesStates() const { return states < total; }
  int64_t InputOf(int64_t pair) const { return SharesInputs() ? input_of[pair] : pair; }
  int64_t StateOf(int64_t pair) const { return SharesStates() ? state_of[pair] : pair; }
};

template <class Real>
Chunk TakeChunk(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count) {
  Chunk chunk{};
  chunk.first = scratch.template Take<int64_t>(d.chunk_steps);
  chunk.active = scratch.template Take<int64_t>(d.chunk_steps);
  chunk.row = scratch.template Take<int64_t>(row_count);
  chunk.from = scratch.template Take<int64_t>(row_count);
  chunk.count = scratch.template Take<int64_t>(row_count);
  chunk.shape = scratch.template Take<Chunk::Shape>(1);
  if (d.repeats) {
    chunk.input_of = scratch.template Take<int64_t>(row_count * d.chunk_steps);
    chunk.state_of = scratch.template Take<int64_t>(row_count * d.chunk_steps);
  }
  return chunk;
}

// Input time of a row's k-th real timestep in processing order.
template <class Real>
LSTM_FAST_INLINE int64_t TimeOf(const Direction<Real>& d, const Row& row, int64_t k) {
  return row.steps[d.reversed ? row.count - 1 - k : k];
}

// Time of input time t in y.
template <class Real>
LSTM_FAST_INLINE int64_t OutputTime(const Direction<Real>& d, int64_t t) {
  return d.reversed && !d.input_order ? d.time - 1 - t : t;
}

template <class Real>
LSTM_FAST_INLINE bool LastStepIsReal(const Direction<Real>& d, const Row& row) {
  return row.count > 0 && TimeOf(d, row, row.count - 1) == (d.reversed ? 0 : d.time - 1);
}

// body(row, timestep, pair) for every pair of the rows at the positions [begin, end) of a chunk, row by row: in memory,
// the timesteps of a row follow each other.
template <class Body>
LSTM_FAST_INLINE void ForPairsByRow(const Chunk& chunk, int64_t begin, int64_t end, const Body& body) {
  for (int64_t position = begin; position < end; ++position) {
    for (int64_t step = 0; step < chunk.count[position]; ++step) {
      body(chunk.row[position], chunk.from[position] + step, chunk.Pair(step, position));
    }
  }
}

// body(gate, unit, count) for runs of up to kRun units that a member of a team owns, in the order of a row of x or dx:
// gate after gate. Runs begin with a panel.
template <class Real>
constexpr int64_t kRun = 8 * kLanes<Real>;

template <class Real, class Body>
LSTM_FAST_INLINE void ForGateRuns(const Share& share, const Body& body) {
  const int64_t end = share.first_unit + share.units;
  for (int64_t gate = 0; gate < 4; ++gate) {
    for (int64_t unit = share.first_unit; unit < end; unit += kRun<Real>) {
      body(gate, unit, end - unit < kRun<Real> ? end - unit : kRun<Real>);
    }
  }
}

// The rows of x of one chunk that are yet to be projected, converted and multiplied by the dropout masks where that is
// needed.
template <class Real>
class InputRows {
 public:
  InputRows(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count)
      : d_(d), gates_(d.input_dropout ? 4 : 1), copies_(d.input_dropout || !IsReal<Real>(d.dtype)) {
    const int64_t capacity = d.projected ? 0 : row_count * d.chunk_steps;
    operand_.rows = scratch.template Take<const Real*>(capacity);
    operand_.per_gate = d.input_dropout != nullptr;
    operand_.gate_stride = capacity * d.input;
    if (copies_) buffer_ = scratch.template Take<Real>(gates_ * operand_.gate_stride);
    if (d.input_dropout) masks_ = scratch.template Take<Real>(row_count * 4 * d.input);
  }

  // Reads the dropout multipliers of some of the tile's rows.
  void LoadMasks(const Row* rows, int64_t first, int64_t last) {
    if (!d_.input_dropout) return;
    for (int64_t r = first; r < last; ++r) {
      for (int64_t gate = 0; gate < 4; ++gate) {
        LoadRow(d_.dtype, d_.input_dropout, (gate * d_.batch + rows[r].batch) * d_.input, d_.input, mask(r, gate));
      }
    }
  }

  Real* mask(int64_t r, int64_t gate) const { return masks_ + (r * 4 + gate) * d_.input; }

  const Operand<Real>& operand() const { return operand_; }

  // Of the rows at the positions [begin, end) of a chunk. Equal inputs, of which it knows, are read once.
  void Gather(const Chunk& chunk, const Row* rows, int64_t begin, int64_t end) const {
    if (d_.projected) return;
    for (int64_t step = 0; step < chunk.steps; ++step) {
      for (int64_t position = begin; position < end && position < chunk.active[step]; ++position) {
        const int64_t index = chunk.InputOf(chunk.Pair(step, position));
        if (step > 0 && chunk.InputOf(chunk.Pair(step - 1, position)) == index) continue;
        const int64_t r = chunk.row[position], time = TimeOf(d_, rows[r], chunk.from[position] + step);
        const int64_t offset = rows[r].batch * d_.x.batch_stride + time * d_.x.time_stride;
        if (!copies_) {
          operand_.rows[index] = static_cast<const Real*>(d_.x.data) + offset;
          continue;
        }
        Real* row = buffer_ + index * d_.input;
        operand_.rows[index] = row;
        if (!operand_.per_gate) {
          LoadRow(d_.dtype, d_.x.data, offset, d_.input, row);
          continue;
        }
        for (int64_t gate = 0; gate < 4; ++gate) {
          Real* masked = row + gate * operand_.gate_stride;
          LoadRow(d_.dtype, d_.x.data, offset, d_.input, masked);
          for (int64_t i = 0; i < d_.input; ++i) masked[i] *= mask(r, gate)[i];
        }
      }
    }
  }

 private:
  const Direction<Real>& d_;
  int64_t gates_;
  bool copies_;
  Operand<Real> operand_{};
  Real* buffer_ = nullptr;
  Real* masks_ = nullptr;
};

// Reads rows of a [B, H] state into [rows][Hp]; null gives zeros.
template <class Real>
void LoadState(const Direction<Real>& d, const void* state, const Row* rows, int64_t row_count, Real* to) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t r = 0; r < row_count; ++r) {
    Real* row = to + r * padded;
    for (int64_t j = 0; j < padded; ++j) row[j] = 0;
    if (state) LoadRow(d.dtype, state, rows[r].batch * d.units, d.units, row);
  }
}

// Reads the recurrent dropout multipliers of the tile's rows into [rows][4][Hp].
template <class Real>
void LoadRecurrentMasks(const Direction<Real>& d, const Row* rows, int64_t row_count, Real* to) {
  const int64_t padded = Sizes<Real>(d).units;
  for (int64_t r = 0; r < row_count; ++r) {
    for (int64_t gate = 0; gate < 4; ++gate) {
      Real* row = to + (r * 4 + gate) * padded;
      for (int64_t j = 0; j < padded; ++j) row[j] = 0;
      LoadRow(d.dtype, d.recurrent_dropout, (gate * d.batch + rows[r].batch) * d.units, d.units, row);
    }
  }
}

}  // namespace
}  // namespace lstm_fast
