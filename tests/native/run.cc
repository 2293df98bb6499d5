#include "run.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <new>

#include "lstm_fast/isa.h"
#include "lstm_fast/parallel.h"
#include "numbers.h"
#include "test.h"

namespace lstm_fast::test {
namespace {

constexpr size_t kGuardBytes = 64;
constexpr uint8_t kGuard = 0xa5;

// An array between guards, of which its own bytes are filled.
class Memory {
 public:
  Memory(size_t bytes, size_t misaligned, uint8_t fill)
      : bytes_(bytes), start_(kGuardBytes + misaligned), all_(start_ + bytes + kGuardBytes, kGuard) {
    std::memset(data(), fill, bytes);
  }

  uint8_t* data() { return all_.data() + start_; }
  std::vector<uint8_t> contents() const {
    return {all_.begin() + static_cast<std::ptrdiff_t>(start_),
            all_.begin() + static_cast<std::ptrdiff_t>(start_ + bytes_)};
  }
  bool intact() const {
    for (size_t i = 0; i < all_.size(); ++i) {
      if ((i < start_ || i >= start_ + bytes_) && all_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  size_t bytes_, start_;
  std::vector<uint8_t> all_;
};

// All arrays of a call.
class Arrays {
 public:
  Arrays(DType dtype, int misaligned, uint8_t fill)
      : dtype_(dtype),
        size_(static_cast<size_t>(SizeOf(dtype))),
        misaligned_(static_cast<size_t>(misaligned)),
        fill_(fill) {}

  const void* Input(const Values& values) {
    Memory& memory = memories_.emplace_back(values.size() * size_, misaligned_ * size_, fill_);
    for (size_t i = 0; i < values.size(); ++i) Store(dtype_, values[i], memory.data() + i * size_);
    return memory.data();
  }
  const void* Input(const std::optional<Values>& values) { return values ? Input(*values) : nullptr; }

  void* Output(int64_t count) { return Bytes(static_cast<size_t>(count) * size_, misaligned_ * size_); }

  void* Bytes(size_t bytes, size_t misaligned) {
    outputs_.push_back(memories_.size());
    return memories_.emplace_back(bytes, misaligned, fill_).data();
  }

  void CheckGuards() const {
    for (size_t i = 0; i < memories_.size(); ++i) {
      Check(memories_[i].intact(), "something beside array " + std::to_string(i) + " was written");
    }
  }

  Outputs Contents(size_t first) const {
    Outputs outputs;
    for (size_t i = first; i < outputs_.size(); ++i) outputs.arrays.push_back(memories_[outputs_[i]].contents());
    return outputs;
  }

 private:
  DType dtype_;
  size_t size_, misaligned_;
  uint8_t fill_;
  std::deque<Memory> memories_;
  std::vector<size_t> outputs_;
};

Values WithGaps(const Case& c) {
  const Problem& p = c.problem;
  const int64_t time_stride = p.input + c.time_gap, row_stride = p.time * time_stride + c.row_gap;
  Values spread(static_cast<size_t>(p.batch * row_stride), std::nan(""));
  for (int64_t b = 0; b < p.batch; ++b) {
    for (int64_t t = 0; t < p.time; ++t) {
      for (int64_t i = 0; i < p.input; ++i) {
        spread[static_cast<size_t>(b * row_stride + t * time_stride + i)] =
            c.x[static_cast<size_t>((b * p.time + t) * p.input + i)];
      }
    }
  }
  return spread;
}

}  // namespace

Outputs Run(const Case& c, uint8_t fill, bool backward) {
  const Problem& p = c.problem;
  SetIsa(c.isa);
  SetThreadCount(c.threads);
  Arrays arrays(p.dtype, c.misaligned, fill);
  Inputs inputs{};
  inputs.problem = p;
  inputs.x = arrays.Input(WithGaps(c));
  inputs.x_time_stride = p.input + c.time_gap;
  inputs.x_batch_stride = p.time * inputs.x_time_stride + c.row_gap;
  inputs.mask = c.mask.empty() ? nullptr : c.mask.data();
  for (int n = 0; n < p.directions; ++n) {
    const DirectionValues& d = c.direction[n];
    inputs.direction[n] = {arrays.Input(d.kernel),
                           arrays.Input(d.recurrent_kernel),
                           arrays.Input(d.bias),
                           arrays.Input(d.h0),
                           arrays.Input(d.c0),
                           arrays.Input(d.input_dropout),
                           arrays.Input(d.recurrent_dropout)};
  }
  // What the reserve holds is the library's own matter.
  void* reserve = arrays.Bytes(static_cast<size_t>(ReserveBytes(p, inputs.mask)), 0);
  ForwardOutput output{};
  output.reserve = reserve;
  const int64_t states = p.batch * p.units;
  output.y = arrays.Output(p.batch * (p.return_sequences ? p.time : 1) * p.directions * p.units);
  for (int n = 0; n < p.directions; ++n) {
    output.h_n[n] = arrays.Output(states);
    output.c_n[n] = arrays.Output(states);
  }
  Forward(inputs, output, OwnThreads());
  arrays.CheckGuards();
  if (!backward) return arrays.Contents(1);

  BackwardInput gradient{};
  gradient.reserve = reserve;
  gradient.dy = arrays.Input(c.dy);
  for (int n = 0; n < p.directions; ++n) {
    gradient.dh_n[n] = arrays.Input(c.direction[n].dh_n);
    gradient.dc_n[n] = arrays.Input(c.direction[n].dc_n);
  }
  BackwardOutput gradients{};
  gradients.dx = arrays.Output(p.batch * p.time * p.input);
  for (int n = 0; n < p.directions; ++n) {
    if (!p.projected) gradients.dkernel[n] = arrays.Output(p.input * 4 * p.units);
    gradients.drecurrent_kernel[n] = arrays.Output(p.units * 4 * p.units);
    gradients.dbias[n] = arrays.Output(4 * p.units);
    gradients.dh0[n] = arrays.Output(states);
    gradients.dc0[n] = arrays.Output(states);
  }
  Backward(inputs, gradient, gradients, OwnThreads());
  arrays.CheckGuards();
  return arrays.Contents(1);
}

void Compare(const Case& c, const Outputs& outputs, bool backward) {
  const Problem& p = c.problem;
  const Solution exact = Solve(c);
  size_t next = 0;
  // Half types compute in float32 and are rounded once at the end; two layers then are as far apart as a product of so
  // many terms, as in tests/tolerances.py.
  const DType arithmetic = p.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
  const double terms = static_cast<double>((p.batch + 1) * (p.time + 1) * (p.input + p.units));
  const auto compare = [&](const char* name, const Values& expected) {
    double largest = 1;
    for (double value : expected) largest = std::fmax(largest, std::fabs(value));
    const double tolerance = 8 * Roundoff(arithmetic) * std::sqrt(terms) * largest;
    const std::vector<uint8_t>& bytes = outputs.arrays.at(next++);
    const size_t size = static_cast<size_t>(SizeOf(p.dtype));
    Check(bytes.size() == expected.size() * size, std::string(name) + ": of another size");
    for (size_t i = 0; i < expected.size(); ++i) {
      const double found = Load(p.dtype, bytes.data() + i * size);
      const double stored =
          arithmetic == p.dtype ? 0 : 2 * Roundoff(p.dtype) * std::fabs(expected[i]) + std::ldexp(1, -24);
      Check(std::fabs(found - expected[i]) <= tolerance + stored,
            std::string(name) + "[" + std::to_string(i) + "]: expected " + std::to_string(expected[i]) + ", found " +
                std::to_string(found) + ", tolerance " + std::to_string(tolerance + stored) + " (" + c.Words() + ")");
    }
  };
  compare("y", exact.y);
  for (int n = 0; n < p.directions; ++n) {
    compare("h_n", exact.h_n[n]);
    compare("c_n", exact.c_n[n]);
  }
  if (!backward) return;
  compare("dx", exact.dx);
  for (int n = 0; n < p.directions; ++n) {
    if (!p.projected) compare("dkernel", exact.dkernel[n]);
    compare("drecurrent_kernel", exact.drecurrent_kernel[n]);
    compare("dbias", exact.dbias[n]);
    compare("dh0", exact.dh0[n]);
    compare("dc0", exact.dc0[n]);
  }
}

}  // namespace lstm_fast::test
