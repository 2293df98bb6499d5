// The layer's schedule: which rows run where and when, over the kernels of the active instruction set.
//
// Rows are sorted by the number of timesteps that they will take and cut into tiles; a tile runs all its timesteps on
// one thread, so that a call forks and joins once per phase. Where threads would have no tile, or only short ones,
// several run a tile together, as a team (cuts.cc): forward, each on its own units, with a barrier in each timestep;
// backward, most often each with its own rows, with a few barriers in a chunk of timesteps. The backward pass adds the
// gradients of the weights up in "slots", each a fixed list of tiles with accumulators of its own, whose number depends
// on the shape alone: so do the bits.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cpu/cuts.h"
#include "cpu/environment.h"
#include "cpu/kernel.h"
#include "cpu/plan.h"
#include "cpu/tasks.h"
#include "cpu/weights.h"
#include "lstm_fast/isa.h"
#include "lstm_fast/lstm.h"
#include "lstm_fast/parallel.h"
#include "lstm_fast/workspace.h"

namespace lstm_fast {
namespace {

std::atomic<int64_t> forward_calls{0}, backward_calls{0}, timesteps_given{0}, timesteps_computed{0};
std::atomic<int64_t> timesteps_without_gradient{0};

bool InitialSkipsRepeats() {
  const std::string value = Variable("LSTM_FAST_SKIP_REPEATS").value_or("1");
  if (value != "0" && value != "1") {
    throw std::invalid_argument("LSTM_FAST_SKIP_REPEATS: expected 0 or 1; found '" + value + "'");
  }
  return value == "1";
}

enum class Repeats { kNotRead, kComputed, kSkipped };
std::atomic<Repeats> repeats_setting{Repeats::kNotRead};

// Consecutive sorted rows.
struct Tile {
  int64_t first, rows;
};

std::vector<Tile> CutTiles(int64_t batch, int64_t tile_rows) {
  std::vector<Tile> tiles;
  for (int64_t first = 0; first < batch; first += tile_rows)
    tiles.push_back({first, std::min(tile_rows, batch - first)});
  return tiles;
}

template <class Real>
class Layer {
 public:
  Layer(const Inputs& inputs, const Kernels<Real>& kernels, Parallel& parallel)
      : inputs_(inputs),
        problem_(inputs.problem),
        kernels_(kernels),
        parallel_(parallel),
        plan_(MakePlan(inputs, CeilDivide(problem_.units, kernels.lanes) * kernels.lanes)),
        weights_(inputs, kernels, parallel, plan_.longest) {
    for (int n = 0; n < problem_.directions; ++n) direction_[n] = MakeDirection(n);
  }

  int64_t ReserveSize() const {
    return problem_.directions * plan_.reserve_elements * static_cast<int64_t>(sizeof(Real));
  }

  void Forward(const ForwardOutput& output) {
    const bool skips = SkipsRepeats() && plan_.repeats;  // read once: another thread may change the setting
    for (int n = 0; n < problem_.directions; ++n) {
      direction_[n].y = OutputSequence(output.y, n);
      direction_[n].h_n = output.h_n[n];
      direction_[n].c_n = output.c_n[n];
      PlaceReserve(output.reserve, n);
      direction_[n].next_block = &blocks_taken_;
      direction_[n].skipped_steps = &skipped_;
      direction_[n].repeats = skips;
    }
    const int64_t directions = problem_.directions;
    Cuts cuts = CutForward(Describe(skips), parallel_.threads());
    const std::vector<Tile> tiles = CutTiles(problem_.batch, cuts.tile_rows);
    if (tiles.empty()) return;
    const int64_t tasks = static_cast<int64_t>(tiles.size()) * directions;
    cuts = LimitTeams(std::move(cuts), tasks);
    Use(cuts);
    const Workspace packed(static_cast<size_t>(weights_.PackedSize(cuts.in_place)) * sizeof(Real));
    weights_.Pack(packed.data<Real>(), direction_);
    const int64_t scratch_size = kernels_.forward_scratch(direction_[0], tiles[0].rows);
    const Workspace scratch(static_cast<size_t>(TasksAtOnce(cuts, tasks) * scratch_size) * sizeof(Real));
    const auto one_group = [](int64_t) -> int64_t { return 1; };
    const auto run = [&](int64_t task, int64_t worker, const Team& team) {
      const Tile& tile = tiles[static_cast<size_t>(task / directions)];
      kernels_.forward(direction_[task % directions], plan_.rows.data() + tile.first, tile.rows,
                       scratch.data<Real>() + worker * scratch_size, team);
    };
    ForEachByTeams(parallel_, cuts, tasks, one_group, run);
    timesteps_given += problem_.directions * plan_.timesteps;
    timesteps_computed += problem_.directions * plan_.timesteps - skipped_;
  }

  void Backward(const BackwardInput& gradient, const BackwardOutput& output) {
    const int64_t directions = problem_.directions;
    const Work work = Describe(plan_.repeats);
    Cuts cuts = CutBackward(work, parallel_.threads());
    const bool side_by_side = cuts.side_by_side;
    const int64_t slots = cuts.slots, tasks = side_by_side ? slots * 2 : slots;
    cuts = LimitTeams(std::move(cuts), tasks);
    const std::vector<Tile> tiles = CutTiles(problem_.batch, cuts.tile_rows);
    Use(cuts);
    for (int n = 0; n < directions; ++n) {
      Direction<Real>& d = direction_[n];
      PlaceReserve(const_cast<void*>(gradient.reserve), n);
      d.dy = OutputSequence(const_cast<void*>(gradient.dy), n);
      d.dh_n = gradient.dh_n[n];
      d.dc_n = gradient.dc_n[n];
      d.passed_steps = &passed_;
      d.dh0 = output.dh0[n];
      d.dc0 = output.dc0[n];
    }
    const int64_t for_recomputing = problem_.reserve == Reserve::kRecompute ? weights_.PackedSize(cuts.in_place) : 0;
    const Workspace packed(static_cast<size_t>(for_recomputing + weights_.TransposedSize(cuts.in_place)) *
                           sizeof(Real));
    if (for_recomputing > 0) weights_.Pack(packed.data<Real>(), direction_);
    weights_.PackTransposed(packed.data<Real>() + for_recomputing, output.dx != nullptr, direction_);

    // The dx of both directions are added afterwards, or the second adds to what the first wrote; half precision is
    // added in float32 either way. Of a projected x, each direction has a part of its own.
    const bool shared_dx = output.dx && directions == 2 && !problem_.projected;
    const bool own_dx = shared_dx && (side_by_side || sizeof(Real) > ElementSize());
    const int64_t dx_elements = problem_.batch * problem_.time * problem_.input;
    const Workspace dx(own_dx ? static_cast<size_t>((side_by_side ? 2 : 1) * dx_elements) * sizeof(Real) : 0);
    for (int n = 0; n < directions; ++n) {
      Direction<Real>& d = direction_[n];
      d.dx = {PartOfInput(output.dx, n), problem_.time * problem_.input, problem_.input};
      d.dx_dtype = problem_.dtype;
      d.dx_accumulates = shared_dx && n == 1 && !side_by_side;
      if (own_dx) {
        d.dx.data = dx.data<Real>() + (side_by_side ? n * dx_elements : 0);
        d.dx_dtype = sizeof(Real) == 8 ? DType::kFloat64 : DType::kFloat32;
      }
    }

    const int64_t gradient_size = weights_.GradientSize();
    int64_t scratch_size = 0;
    for (int n = 0; n < directions && !tiles.empty(); ++n) {
      scratch_size = std::max(scratch_size, kernels_.backward_scratch(direction_[n], tiles[0].rows));
    }
    const bool in_place = cuts.gradients_in_place && weights_.AllGradientsWanted(output);
    const Workspace partial(in_place ? 0 : static_cast<size_t>(slots * directions * gradient_size) * sizeof(Real));
    const Workspace scratch(static_cast<size_t>(TasksAtOnce(cuts, tasks) * scratch_size) * sizeof(Real));
    if (tiles.empty()) {  // nobody would write them
      std::fill_n(partial.data<Real>(), slots * directions * gradient_size, Real(0));
    }
    const auto groups_of = [&](int64_t members) { return RowGroups(work, cuts.tile_rows, members); };
    const auto run = [&](int64_t task, int64_t worker, const Team& team) {
      const int64_t slot = side_by_side ? task / 2 : task;
      const int64_t first = side_by_side ? task % 2 : 0, last = side_by_side ? first + 1 : directions;
      for (size_t i = static_cast<size_t>(slot); i < tiles.size(); i += static_cast<size_t>(slots)) {
        for (int64_t n = first; n < last; ++n) {
          const bool fresh = i == static_cast<size_t>(slot);
          const WeightGradient<Real> sums =
              in_place ? weights_.GradientInPlace(output, static_cast<int>(n), fresh)
                       : weights_.GradientAt(partial.data<Real>() + (n * slots + slot) * gradient_size, fresh);
          kernels_.backward(direction_[n], plan_.rows.data() + tiles[i].first, tiles[i].rows, sums,
                            scratch.data<Real>() + worker * scratch_size, team);
        }
      }
    };
    ForEachByTeams(parallel_, cuts, tasks, groups_of, run);
    timesteps_without_gradient += passed_;
    if (own_dx) MergeInputGradients(dx.data<Real>(), side_by_side, dx_elements, output.dx);
    for (int n = 0; n < directions && !in_place; ++n) {
      weights_.Unpack(partial.data<Real>() + n * slots * gradient_size, slots, output, n);
    }
  }

 private:
  // What there is to compute. `repeats`: rows may skip timesteps.
  Work Describe(bool repeats) const {
    Work work{};
    work.batch = problem_.batch;
    work.time = problem_.time;
    work.directions = problem_.directions;
    work.units = problem_.units;
    work.kernel_rows = weights_.kernel_rows();
    work.panels = weights_.panels();
    work.width = weights_.width();
    work.micro_rows = kernels_.micro_rows;
    work.element_bytes = static_cast<int64_t>(sizeof(Real));
    work.timesteps = plan_.timesteps;
    work.masked = inputs_.mask != nullptr;
    work.repeats = repeats;
    if (work.masked || repeats) {
      work.of_rows.reserve(plan_.rows.size());
      for (const Row& row : plan_.rows) work.of_rows.push_back(repeats ? ExpectedTimesteps(row) : row.count);
    }
    work.recompute = problem_.reserve == Reserve::kRecompute;
    work.recurrent_dropout = inputs_.direction[0].recurrent_dropout || inputs_.direction[1].recurrent_dropout;
    work.fits_in_place = ElementSize() == sizeof(Real) && problem_.units % kernels_.lanes == 0;
    return work;
  }

  void Use(const Cuts& cuts) {
    for (Direction<Real>& d : direction_) {
      d.chunk_steps = cuts.chunk_steps;
      d.in_place = cuts.in_place;
    }
  }

  void PlaceReserve(void* reserve, int n) {
    if (!reserve) return;
    const int64_t to_next = problem_.reserve_by_row ? ReserveStride(problem_) : plan_.parts_elements;
    direction_[n].reserve = static_cast<Real*>(reserve) + n * to_next;
    direction_[n].blocks = static_cast<Real*>(reserve) + problem_.directions * plan_.parts_elements;
  }

  size_t ElementSize() const { return static_cast<size_t>(SizeOf(problem_.dtype)); }

  Direction<Real> MakeDirection(int n) const {
    const DirectionInput& in = inputs_.direction[n];
    Direction<Real> d{};
    d.dtype = problem_.dtype;
    d.batch = problem_.batch;
    d.time = problem_.time;
    d.units = problem_.units;
    d.input = weights_.kernel_rows();
    d.projected = problem_.projected;
    d.reversed = problem_.directions == 2 ? n == 1 : problem_.go_backwards;
    d.input_order = problem_.directions == 2;
    d.return_sequences = problem_.return_sequences;
    d.zero_output_for_mask = problem_.zero_output_for_mask;
    d.masked = inputs_.mask != nullptr;
    d.repeats = plan_.repeats;  // of the backward pass: the reserve knows what was skipped, whatever the setting is now
    d.passes_zeros = SkipsRepeats();
    d.skips_by_row = Describe(plan_.repeats).SkipsByRow();
    d.reserve_mode = problem_.reserve;
    d.x = {PartOfInput(const_cast<void*>(inputs_.x), n), inputs_.x_batch_stride, inputs_.x_time_stride};
    d.h0 = in.h0;
    d.c0 = in.c0;
    d.input_dropout = in.input_dropout;
    d.recurrent_dropout = in.recurrent_dropout;
    return d;
  }

  // Direction n's part of an array like x: all of it, or its gates.
  void* PartOfInput(void* data, int n) const {
    if (!data || !problem_.projected) return data;
    return static_cast<char*>(data) + n * 4 * problem_.units * SizeOf(problem_.dtype);
  }

  // Direction n's part of an array like y.
  Sequence OutputSequence(void* data, int n) const {
    const int64_t features = problem_.directions * problem_.units;
    const int64_t time = problem_.return_sequences ? problem_.time : 1;
    void* part = data ? static_cast<char*>(data) + n * problem_.units * SizeOf(problem_.dtype) : nullptr;
    return {part, time * features, features};
  }

  void MergeInputGradients(Real* dx, bool two, int64_t count, void* to) {
    constexpr int64_t kPiece = 16384;
    const int64_t tasks = CeilDivide(count, kPiece);
    ForEach(parallel_, Workers(parallel_.threads(), tasks, count), tasks, [&](int64_t task, int64_t) {
      const int64_t begin = task * kPiece, end = std::min(count, begin + kPiece);
      if (two) {
        for (int64_t i = begin; i < end; ++i) dx[i] += dx[count + i];
      }
      kernels_.convert(problem_.dtype, dx + begin, static_cast<char*>(to) + begin * SizeOf(problem_.dtype),
                       end - begin);
    });
  }

  const Inputs& inputs_;
  const Problem& problem_;
  const Kernels<Real>& kernels_;
  Parallel& parallel_;
  const Plan plan_;
  const Weights<Real> weights_;
  int64_t skipped_ = 0;       // real timesteps that the forward pass did not compute
  int64_t passed_ = 0;        // and those in which the backward pass found no gradient
  int64_t blocks_taken_ = 0;  // of the reserve
  Direction<Real> direction_[2];
};

// Calls function(kernels) with the active kernels for the problem's arithmetic.
template <class Function>
auto Dispatch(DType dtype, const Function& function) {
  const Isa& isa = GetActiveIsa();
  return dtype == DType::kFloat64 ? function(*isa.float64) : function(*isa.float32);
}

template <class Real>
void BackwardWithoutReserve(Inputs inputs, const Kernels<Real>& kernels, BackwardInput gradient,
                            const BackwardOutput& output, Parallel& parallel) {
  inputs.problem.reserve = Reserve::kGates;
  inputs.problem.reserve_by_row = false;
  Layer<Real> layer(inputs, kernels, parallel);
  const Workspace reserve(static_cast<size_t>(layer.ReserveSize()));
  ForwardOutput forward{};
  forward.reserve = reserve.data<void>();
  layer.Forward(forward);
  gradient.reserve = forward.reserve;
  layer.Backward(gradient, output);
}

}  // namespace

int64_t ReserveSteps(Reserve reserve, int64_t time) {
  return reserve == Reserve::kRecompute ? CeilDivide(time, kCheckpointInterval) : time;
}

int64_t ReserveStepBytes(Reserve reserve, DType dtype, int64_t units) {
  return ReserveElements(reserve, 1, MostPaddedUnits(dtype, units)) * std::max<int64_t>(4, SizeOf(dtype));
}

int64_t ReserveBytes(const Problem& problem, const MaskByte* mask) {
  if (problem.reserve_by_row) {
    return problem.batch * problem.directions * ReserveStride(problem) * std::max<int64_t>(4, SizeOf(problem.dtype));
  }
  return Dispatch(problem.dtype, [&](const auto& kernels) -> int64_t {
    const int64_t padded_units = CeilDivide(problem.units, kernels.lanes) * kernels.lanes;
    int64_t elements = 0;
    for (int64_t b = 0; b < problem.batch; ++b) {
      const MaskByte* row = mask ? mask + b * problem.time : nullptr;
      const int64_t count = mask ? std::count_if(row, row + problem.time, TimestepIsReal) : problem.time;
      elements += ReserveElements(problem.reserve, count, padded_units);
    }
    return problem.directions * elements * std::max<int64_t>(4, SizeOf(problem.dtype));
  });
}

void Forward(const Inputs& inputs, const ForwardOutput& output, Parallel& parallel) {
  ++forward_calls;
  Dispatch(inputs.problem.dtype, [&](const auto& kernels) { Layer(inputs, kernels, parallel).Forward(output); });
}

void Backward(const Inputs& inputs, const BackwardInput& gradient, const BackwardOutput& output, Parallel& parallel) {
  ++backward_calls;
  Dispatch(inputs.problem.dtype, [&](const auto& kernels) {
    if (inputs.problem.reserve == Reserve::kNone) {
      BackwardWithoutReserve(inputs, kernels, gradient, output, parallel);
    } else {
      Layer(inputs, kernels, parallel).Backward(gradient, output);
    }
  });
}

CallCounts GetCallCounts() { return {forward_calls.load(), backward_calls.load()}; }

TimestepCounts GetTimestepCounts() {
  return {timesteps_given.load(), timesteps_computed.load(), timesteps_without_gradient.load()};
}

bool SkipsRepeats() {
  if (repeats_setting.load() == Repeats::kNotRead) SetSkipsRepeats(std::nullopt);
  return repeats_setting.load() == Repeats::kSkipped;
}

void SetSkipsRepeats(std::optional<bool> skips) {
  repeats_setting.store(skips.value_or(false) || (!skips && InitialSkipsRepeats()) ? Repeats::kSkipped
                                                                                   : Repeats::kComputed);
}

}  // namespace lstm_fast
