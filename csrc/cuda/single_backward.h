// The backward pass of a row in one block or two. Lane 4 g + t has gate t of its warp's unit g, and in the sums for dh
// of the warp's 8 units the terms of units 32 j + lane, for every j. Shuffles add the parts of 32 lanes up, and leave
// each sum with the four lanes of its unit.
#ifndef LSTM_FAST_CUDA_SINGLE_BACKWARD_H_
#define LSTM_FAST_CUDA_SINGLE_BACKWARD_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/output_gradient.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"
#include "cuda/single.h"
#include "cuda/single_skip.h"

namespace lstm_fast::cuda {

template <class T, int kUnits, int kBlocks>
class SingleBackward : SinglePass<T, kBlocks, BackwardCall> {
  using Base = SinglePass<T, kBlocks, BackwardCall>;
  using Base::arguments_, Base::exists_, Base::features_, Base::first_unit_, Base::gate_, Base::inputs_, Base::problem_,
      Base::unit_, Base::units_;

 public:
  LSTM_FAST_DEVICE explicit SingleBackward(const BackwardCall& call)
      : Base(call, Thread() % 32 / 4, Thread() % 4), call_(call), dz_(InShared<float>(0, 2 * kSize)) {}

  LSTM_FAST_DEVICE void Run() {
    // Units that do not exist are multiplied, too.
    for (int i = Thread(); i < 2 * kSize; i += Threads()) dz_[i] = 0;
    Base::Arrive();
    Base::Await();
    Base::ForEachRow([this](const RowSet& set) { LoadKernel(set); },
                     [this](const RowSet& set, const GroupRow& row, const auto& times) {
                       RunRow(set, row, times);
                       // Before the next row's first dz may take the place of this one's last.
                       Base::Arrive();
                       Base::Await();
                     });
  }

 private:
  static constexpr int kSize = SingleBackwardSize(kUnits), kSlices = kSize / (4 * kSingleBackwardSlice);
  static constexpr int64_t kExchange = SingleBufferBytes(kUnits, Pass::kBackward);

  // What is loaded of a timestep: what the forward pass kept of it, and the gradient of its own output.
  struct Loaded {
    Words gates;
    float c;
    T dy;
  };

  // Sum p of a lane is for unit p ^ g of the warp: what two lanes exchange has the same place in both.
  LSTM_FAST_DEVICE void LoadKernel(const RowSet& set) {
    const Global<const T> kernel = InGlobal<const T>(inputs_.direction[set.direction].recurrent_kernel);
    const int g = Thread() % 32 / 4;
    Base::Fill(kernel_, [&](int n) {
      const int unit = first_unit_ + (n % kWarpUnits ^ g), q = n / kWarpUnits % 4;
      const int term = n / (4 * kWarpUnits) * kSingleBackwardSlice + Thread() % 32;
      return unit < units_ && term < units_ ? ToReal(kernel[(int64_t{unit} * 4 + q) * units_ + term]) : 0.0f;
    });
  }

  template <bool kGaps>
  LSTM_FAST_DEVICE void RunRow(const RowSet& set, const GroupRow& row, const Times<kGaps>& times) {
    const int n = set.direction;
    const int64_t state = Base::StateOf(row);
    float dh = Base::Given(arguments_.dh_n[n], state), dc = Base::Given(arguments_.dc_n[n], state);
    if (row.count > 0) RunSteps(set, row, times, dh, dc);
    if (!exists_ || gate_ != 0) return;
    InGlobal<T>(arguments_.dh0[n])[state] = Rounded<T>(dh);
    InGlobal<T>(arguments_.dc0[n])[state] = Rounded<T>(dc);
  }

  // All timesteps of a row, the last first; dh and dc are this thread's unit's.
  template <bool kGaps>
  LSTM_FAST_DEVICE void RunSteps(const RowSet& set, const GroupRow& row, const Times<kGaps>& times, float& dh,
                                 float& dc) {
    const DirectionInput& direction = inputs_.direction[set.direction];
    const int64_t state = Base::StateOf(row);
    const float h0 = Base::Given(direction.h0, state), c0 = Base::Given(direction.c0, state);
    const int last = row.count - 1;
    Cursor<const unsigned char, kGaps, -1> reserve(Base::template ReserveOf<const unsigned char>(set, row),
                                                   arguments_.reserve_step_bytes, times, last);
    // At time 0, or the only one.
    const bool sequences = problem_.return_sequences && arguments_.dy != nullptr;
    Global<const T> outputs = InGlobal<const T>(arguments_.dy);
    if (sequences) {
      outputs += Base::SequenceOf(set, row);
    } else if (arguments_.dy) {
      outputs += int64_t{row.batch} * features_ + Base::ColumnOf(set);
    }
    const int first = sequences ? OutputPlace(0, problem_) : 0;
    Cursor<const T, kGaps, -1> dy(outputs + int64_t{first} * features_, first > 0 ? -features_ : features_, times,
                                  last);
    const auto load = [&] {
      const Global<const float> entry = Cast<const float>(*reserve);
      const Loaded loaded = {*Cast<const Words>(entry + 4 * unit_), entry[4 * units_ + unit_],
                             sequences ? T(**dy) : T{}};
      reserve.AdvanceWithin(0);
      dy.AdvanceWithin(0);
      return loaded;
    };
    Cursor<T, kGaps, -1> dz_of_step(InGlobal<T>(arguments_.dz) + Base::GatesOf(set, row), 4 * features_, times, last);
    const bool writes_h = exists_ && gate_ == 0 && arguments_.h_prev != nullptr;
    Global<T> h_of_row = InGlobal<T>(arguments_.h_prev);
    if (writes_h) h_of_row += Base::SequenceOf(set, row);
    Cursor<T, kGaps, -1> h_prev(h_of_row, features_, times, last);
    Loaded steps[kSingleAhead];
    const auto load_ahead = [&] {
      LSTM_FAST_UNROLL
      for (int ahead = 0; ahead < kSingleAhead; ++ahead) steps[ahead] = load();
    };
    load_ahead();
    if (sequences) {
      dh += CarriedGradient(call_, set, row, unit_, last, times.Of(last), outputs);
    } else if (arguments_.dy) {
      dh += OnlyOutputGradient(call_, set, outputs, times.Of(last));
    }
    float tanh_c = Tanh(steps[0].c);
    int buffer = 0;  // of dz
    for (int k = last; k >= 0;) {
      const int stop = kGaps || !call_.skips || k < kSkipPeriod ? -1 : k - kSkipPeriod;
      for (; k > stop; --k) {
        const Loaded now = steps[0], before = steps[1];
        const float in = FloatOf(now.gates.word[0]), forget = FloatOf(now.gates.word[1]),
                    candidate = FloatOf(now.gates.word[2]), out = FloatOf(now.gates.word[3]);
        const float c_before = k > 0 ? before.c : c0;
        const float tanh_before = Tanh(c_before);
        // dz of this lane's gate is so many times dc, or, of the output gate, dh.
        const float own = gate_ == 0 ? in : gate_ == 1 ? forget : gate_ == 2 ? candidate : out;
        const float with = gate_ == 0 ? candidate : gate_ == 1 ? c_before : gate_ == 2 ? in : tanh_c;
        const float factor = (gate_ == 2 ? 1 + own : own) * (1 - own) * with;
        dh += ToReal(now.dy);
        if constexpr (kGaps) {
          if (sequences && k < last) dh += CarriedGradient(call_, set, row, unit_, k, times.Of(k), outputs);
        }
        dc = MultiplyAdd(dh, out * (1 - tanh_c * tanh_c), dc);
        const float dz = (gate_ == 3 ? dh : dc) * factor;
        dc *= forget;
        if (exists_) Base::Send(dz_ + (buffer + 4 * unit_ + gate_), dz);
        Base::Arrive();
        if (exists_) **dz_of_step = Rounded<T>(dz);
        dz_of_step.Advance();
        if (writes_h) **h_prev = Rounded<T>(k > 0 ? FloatOf(before.gates.word[3]) * tanh_before : h0);
        h_prev.Advance();
        tanh_c = tanh_before;
        LSTM_FAST_UNROLL
        for (int ahead = 1; ahead < kSingleAhead; ++ahead) steps[ahead - 1] = steps[ahead];
        steps[kSingleAhead - 1] = load();
        Base::Await();
        dh = Multiply(buffer);
        buffer = kSize - buffer;
      }
      if (kGaps || k < 0) return;
      if (!Base::AllAgree(kExchange, IsNothing(dh) && IsNothing(dc))) continue;
      int count = k;  // what is before the first timestep is left to it
      if (sequences) {
        dy.MoveTo(k);
        count = Base::Least(kExchange, CountWhile(*dy, dy.Step(), count, [](float value) { return value == 0; }));
      }
      if (count > 0) {
        dh = dc = 0;
        if (exists_) StoreZeros(*dz_of_step, dz_of_step.Step(), count);
        if (writes_h) StoreZeros(*h_prev, h_prev.Step(), count);
        dz_of_step.AdvanceBy(count);
        h_prev.AdvanceBy(count);
        k -= count;
      }
      reserve.MoveTo(k);
      dy.MoveTo(k);
      load_ahead();
      tanh_c = Tanh(steps[0].c);
    }
  }

  // dh before a timestep, of this lane's unit.
  LSTM_FAST_DEVICE float Multiply(int buffer) const {
    const Shared<const Words> terms = Cast<const Words>(dz_ + (buffer + Thread() % 32 * 4));
    float sums[kWarpUnits] = {};
    LSTM_FAST_UNROLL
    for (int slice = 0; slice < kSlices; ++slice) {
      const Words words = terms[slice * kSingleBackwardSlice];
      LSTM_FAST_UNROLL
      for (int q = 0; q < 4; ++q) {
        LSTM_FAST_UNROLL
        for (int p = 0; p < kWarpUnits; ++p) {
          sums[p] = MultiplyAdd(kernel_[(slice * 4 + q) * kWarpUnits + p], FloatOf(words.word[q]), sums[p]);
        }
      }
    }
    LSTM_FAST_UNROLL
    for (int half = kWarpUnits / 2; half > 0; half /= 2) {
      LSTM_FAST_UNROLL
      for (int p = 0; p < half; ++p) sums[p] += ShuffleXor(sums[p + half], 4 * half);
    }
    sums[0] += ShuffleXor(sums[0], 1);
    return sums[0] + ShuffleXor(sums[0], 2);
  }

  float kernel_[kSlices * 4 * kWarpUnits];  // [slice][gate][sum]
  const BackwardCall& call_;
  Shared<float> dz_;  // [2][units][gates]: of two buffers, one is read while the other is written
};

template <class T, int kUnits, int kBlocks>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(SingleThreads(kUnits, kBlocks), SingleResident(kUnits, kBlocks))
    RunSingleBackward(LSTM_FAST_ARGUMENT BackwardCall call) {
  SingleBackward<T, kUnits, kBlocks>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SINGLE_BACKWARD_H_
