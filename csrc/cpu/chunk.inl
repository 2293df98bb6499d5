// The timesteps of a tile that are computed together.
#ifndef LSTM_FAST_CPU_CHUNK_INL_
#define LSTM_FAST_CPU_CHUNK_INL_

#include <cstdint>

#include "cpu/kernel.h"
#include "cpu/scratch.inl"
#include "cpu/simd.inl"
#include "lstm_fast/lstm.h"

namespace lstm_fast {
namespace {

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

// The most timesteps of a chunk of the backward pass, when so many of a tile's rows have any left: there is memory for
// chunk_steps of all rows. In long chunks of few rows the sums of the weights' gradients are read and written less
// often. Where timesteps may be skipped, or gates are computed again, something else says where chunks end.
template <class Real>
int64_t StepsOfChunk(const Direction<Real>& d, int64_t row_count, int64_t rows_left) {
  const bool fixed = d.repeats || d.reserve_mode == Reserve::kRecompute;
  return fixed || rows_left == 0 ? d.chunk_steps : d.chunk_steps * row_count / rows_left;
}

template <class Real>
Chunk TakeChunk(Scratch<Real>& scratch, const Direction<Real>& d, int64_t row_count) {
  Chunk chunk{};
  const int64_t steps = StepsOfChunk(d, row_count, 1);
  chunk.first = scratch.template Take<int64_t>(steps);
  chunk.active = scratch.template Take<int64_t>(steps);
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

}  // namespace
}  // namespace lstm_fast

#endif  // LSTM_FAST_CPU_CHUNK_INL_
