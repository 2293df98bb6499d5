// The forward pass of a row in one block or two. Lane 8 t + g has, of the sums for the four gates of its warp's unit g,
// the terms 16 j + 4 t to 16 j + 4 t + 3, for every j. Two shuffles leave it with gate t; it evaluates that gate's
// function, and gets the other three gates from the lanes that have them.
#ifndef LSTM_FAST_CUDA_SINGLE_FORWARD_H_
#define LSTM_FAST_CUDA_SINGLE_FORWARD_H_

#include <cstdint>

#include "cuda/device.h"
#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/rows.h"
#include "cuda/single.h"
#include "cuda/single_skip.h"

namespace lstm_fast::cuda {

template <class T, int kUnits, int kBlocks>
class SingleForward : SinglePass<T, kBlocks, ForwardCall> {
  using Base = SinglePass<T, kBlocks, ForwardCall>;
  using Base::arguments_, Base::exists_, Base::features_, Base::gate_, Base::inputs_, Base::problem_, Base::time_,
      Base::unit_, Base::units_;

 public:
  LSTM_FAST_DEVICE explicit SingleForward(const ForwardCall& call)
      : Base(call, Thread() % kWarpUnits, Thread() % 32 / kWarpUnits),
        skips_(call.skips),
        h_(InShared<float>(0, 2 * kSize)) {}

  LSTM_FAST_DEVICE void Run() {
    Base::ForEachRow([this](const RowSet& set) { LoadKernel(set); },
                     [this](const RowSet& set, const GroupRow& row, const auto& times) { RunRow(set, row, times); });
  }

 private:
  static constexpr int kSize = SingleForwardSize(kUnits), kSlices = kSize / kSingleForwardSlice;
  static constexpr int64_t kExchange = SingleBufferBytes(kUnits, Pass::kForward);

  // Sum p of a lane is for gate p ^ t: what two lanes exchange has the same place in both, whichever they are.
  LSTM_FAST_DEVICE void LoadKernel(const RowSet& set) {
    const DirectionInput& direction = inputs_.direction[set.direction];
    const Global<const T> kernel = InGlobal<const T>(direction.recurrent_kernel);
    Base::Fill(kernel_, [&](int n) {
      const int p = n % 4, k = n / 16 * kSingleForwardSlice + gate_ * 4 + n / 4 % 4;
      return k < units_ ? ToReal(kernel[(int64_t{k} * 4 + (p ^ gate_)) * units_ + unit_]) : 0.0f;
    });
    bias_ = Base::Given(direction.bias, int64_t{gate_} * units_ + unit_);
  }

  template <bool kGaps>
  LSTM_FAST_DEVICE void RunRow(const RowSet& set, const GroupRow& row, const Times<kGaps>& times) {
    const DirectionInput& direction = inputs_.direction[set.direction];
    const Global<const T> h0 = InGlobal<const T>(direction.h0);
    for (int i = Thread(); i < 2 * kSize; i += Threads()) {
      const bool given = i < units_ && !IsNull(h0);
      h_[i] = given ? ToReal(h0[int64_t{row.batch} * units_ + i]) : 0.0f;
    }
    Base::Arrive();
    Base::Await();
    const int64_t state = Base::StateOf(row);
    float h = Base::Given(direction.h0, state), c = Base::Given(direction.c0, state);
    if (row.count > 0) RunSteps(set, row, times, h, c);
    if (!exists_ || gate_ != 0) return;
    InGlobal<T>(arguments_.h_n[set.direction])[state] = Rounded<T>(h);
    InGlobal<T>(arguments_.c_n[set.direction])[state] = Rounded<T>(c);
    if (problem_.return_sequences) return;
    const bool padded = row.count > 0 && times.Of(row.count - 1) != (set.reversed ? 0 : time_ - 1);
    const bool zero = row.count == 0 || (padded && problem_.zero_output_for_mask);
    const int64_t output = int64_t{row.batch} * features_ + Base::ColumnOf(set);
    InGlobal<T>(arguments_.y)[output] = Rounded<T>(zero ? 0.0f : h);
  }

  // All timesteps of a row; h and c are this thread's unit's.
  template <bool kGaps>
  LSTM_FAST_DEVICE void RunSteps(const RowSet& set, const GroupRow& row, const Times<kGaps>& times, float& h,
                                 float& c) {
    const int last = row.count - 1, first_output = OutputPlace(0, problem_);
    Cursor<const T, kGaps, 1> input(InGlobal<const T>(arguments_.z) + Base::GatesOf(set, row), 4 * features_, times, 0);
    const bool writes_output = exists_ && gate_ == 0 && problem_.return_sequences;
    Global<T> outputs = InGlobal<T>(arguments_.y);
    if (writes_output) outputs += Base::SequenceOf(set, row) + int64_t{first_output} * features_;
    Cursor<T, kGaps, 1> output(outputs, first_output > 0 ? -features_ : features_, times, 0);
    const bool writes_gate = exists_ && arguments_.reserve != nullptr, writes_cell = writes_gate && gate_ == 0;
    Global<unsigned char> entries = InGlobal<unsigned char>(arguments_.reserve);
    if (writes_gate) entries = Base::template ReserveOf<unsigned char>(set, row);
    Cursor<unsigned char, kGaps, 1> reserve(entries, arguments_.reserve_step_bytes, times, 0);
    T z[kSingleAhead];
    const auto load = [&] {
      LSTM_FAST_UNROLL
      for (int ahead = 0; ahead < kSingleAhead; ++ahead) {
        z[ahead] = **input;
        input.AdvanceWithin(last);
      }
    };
    load();
    float h_before = h, c_before = c;  // when it was last asked whether they repeat
    int from = 0;                      // the buffer of h before this timestep
    for (int k = 0; k < row.count;) {
      const int stop = kGaps || !skips_ || k + kSkipPeriod > row.count ? row.count : k + kSkipPeriod;
      for (; k < stop; ++k) {
        float sums[4] = {ToReal(z[0]) + bias_, 0, 0, 0};
        LSTM_FAST_UNROLL
        for (int ahead = 1; ahead < kSingleAhead; ++ahead) z[ahead - 1] = z[ahead];
        z[kSingleAhead - 1] = **input;
        input.AdvanceWithin(last);
        Multiply(from, sums);
        from = kSize - from;
        const float own = SigmoidOrTanh(AddUp(sums), gate_ == 2);
        const int lane = Thread() % kWarpUnits;
        const float in = ShuffleFrom(own, lane), forget = ShuffleFrom(own, kWarpUnits + lane),
                    candidate = ShuffleFrom(own, 2 * kWarpUnits + lane), out = ShuffleFrom(own, 3 * kWarpUnits + lane);
        c = MultiplyAdd(forget, c, in * candidate);
        h = out * Tanh(c);
        if (exists_ && gate_ == 0) Base::Send(h_ + (from + unit_), h);
        Base::Arrive();
        if (writes_gate) {
          const Global<float> entry = Cast<float>(*reserve);
          entry[4 * unit_ + gate_] = own;
          if (writes_cell) entry[4 * units_ + unit_] = c;
        }
        reserve.Advance();
        if (writes_output) **output = Rounded<T>(h);
        output.Advance();
        Base::Await();
      }
      if (kGaps || k == row.count) return;
      const bool same = IsSame(h, h_before) && IsSame(c, c_before);
      h_before = h;
      c_before = c;
      if (!Base::AllAgree(kExchange, same)) continue;
      // As long as the input is that of the period before, which has only one.
      input.MoveTo(k - kSkipPeriod);
      const float first = ToReal(**input);
      int count = CountWhile(*input, input.Step(), row.count - (k - kSkipPeriod),
                             [&](float other) { return IsSame(other, first); });
      count = (Base::Least(kExchange, count) / kSkipPeriod - 1) * kSkipPeriod;
      if (count > 0) {
        if (writes_gate)
          Repeat(Cast<float>(*reserve) + (4 * unit_ + gate_), reserve.Step() / int64_t{sizeof(float)}, count);
        if (writes_cell)
          Repeat(Cast<float>(*reserve) + (4 * units_ + unit_), reserve.Step() / int64_t{sizeof(float)}, count);
        if (writes_output) Repeat(*output, output.Step(), count);
        reserve.AdvanceBy(count);
        output.AdvanceBy(count);
        k += count;
        if (k == row.count) return;  // there is no input to read on with
      }
      input.MoveTo(k);
      load();
    }
  }

  LSTM_FAST_DEVICE void Multiply(int from, float (&sums)[4]) const {
    const Shared<const Words> terms = Cast<const Words>(h_ + (from + gate_ * 4));
    LSTM_FAST_UNROLL
    for (int slice = 0; slice < kSlices; ++slice) {
      const Words words = terms[slice * (kSingleForwardSlice / 4)];
      LSTM_FAST_UNROLL
      for (int i = 0; i < 4; ++i) {
        LSTM_FAST_UNROLL
        for (int p = 0; p < 4; ++p) {
          sums[p] = MultiplyAdd(kernel_[(slice * 4 + i) * 4 + p], FloatOf(words.word[i]), sums[p]);
        }
      }
    }
  }

  // The sum for this lane's own gate, of the parts that four lanes have of it.
  static LSTM_FAST_DEVICE float AddUp(const float (&sums)[4]) {
    const float own = sums[0] + ShuffleXor(sums[2], 2 * kWarpUnits);
    const float next = sums[1] + ShuffleXor(sums[3], 2 * kWarpUnits);
    return own + ShuffleXor(next, kWarpUnits);
  }

  float kernel_[kSlices * 4 * 4];  // [slice][term][sum]
  float bias_;                     // of this lane's own gate
  const bool skips_;
  Shared<float> h_;  // of two buffers, one is read while the other is written
};

template <class T, int kUnits, int kBlocks>
LSTM_FAST_KERNEL void LSTM_FAST_BOUNDS(SingleThreads(kUnits, kBlocks), SingleResident(kUnits, kBlocks))
    RunSingleForward(LSTM_FAST_ARGUMENT ForwardCall call) {
  SingleForward<T, kUnits, kBlocks>(call).Run();
}

}  // namespace lstm_fast::cuda

#endif  // LSTM_FAST_CUDA_SINGLE_FORWARD_H_
