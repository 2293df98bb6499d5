#include "problem.h"

#include <cmath>
#include <random>

#include "lstm_fast/isa.h"
#include "numbers.h"

namespace lstm_fast::test {
namespace {

// Sizes about the number of lanes and of rows in a register tile, where kernels change what they do.
int64_t Size(Bytes& bytes, int64_t least, int64_t most) {
  constexpr int64_t kEdges[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 63, 64, 65};
  const int64_t size = bytes.Flag() ? kEdges[bytes.Next() % std::size(kEdges)] : bytes.Below(most + 1);
  return size < least ? least : size > most ? most : size;
}

class Numbers {
 public:
  Numbers(DType dtype, uint64_t seed) : dtype_(dtype), random_(seed) {}

  Values Normal(int64_t count, double deviation) {
    std::normal_distribution<double> normal(0, deviation);
    Values values(static_cast<size_t>(count));
    for (double& value : values) value = Round(dtype_, normal(random_));
    return values;
  }

  Values Dropout(int64_t count) {
    Values values(static_cast<size_t>(count));
    for (double& value : values) value = random_() % 2 ? 2 : 0;
    return values;
  }

 private:
  DType dtype_;
  std::mt19937_64 random_;
};

std::vector<MaskByte> MakeMask(Bytes& bytes, int64_t batch, int64_t time) {
  std::vector<MaskByte> mask(static_cast<size_t>(batch * time));
  const int kind = bytes.Next() % 5;
  std::mt19937 random(bytes.Next());
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = static_cast<int64_t>(random()) % (time + 1);
    for (int64_t t = 0; t < time; ++t) {
      const bool real = kind == 0   ? t < length
                        : kind == 1 ? t >= time - length
                        : kind == 2 ? random() % 3 != 0
                        : kind == 3 ? b % 2 == 1 && t < length
                                    : false;
      constexpr MaskByte kReal[] = {1, 1, 1, 2, 128, 255};  // most arrays of booleans have only the first
      mask[static_cast<size_t>(b * time + t)] = real ? kReal[random() % std::size(kReal)] : MaskByte{0};
    }
  }
  return mask;
}

}  // namespace

std::vector<uint8_t> BytesOfSeed(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(64);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

Case MakeCase(Bytes& bytes, const Sizes& most) {
  Case c{};
  Problem& p = c.problem;
  const std::vector<std::string> isas = AvailableIsas();
  c.isa = isas[bytes.Next() % isas.size()];
  c.threads = 1 + bytes.Next() % 5;
  p.dtype = static_cast<DType>(bytes.Next() % 4);
  p.batch = Size(bytes, 0, most.batch);
  p.time = Size(bytes, 0, most.time);
  p.units = Size(bytes, 1, most.units);
  p.directions = 1 + bytes.Flag();
  p.projected = bytes.Next() % 4 == 0;
  p.input = p.projected ? p.directions * 4 * p.units : Size(bytes, 0, most.input);
  p.go_backwards = p.directions == 1 && bytes.Flag();
  p.return_sequences = bytes.Flag();
  p.zero_output_for_mask = bytes.Flag();
  p.reserve = static_cast<Reserve>(bytes.Next() % 3);
  p.reserve_by_row = bytes.Flag();
  c.row_gap = bytes.Flag() ? bytes.Next() % 5 : 0;
  c.time_gap = bytes.Flag() ? bytes.Next() % 5 : 0;
  c.misaligned = bytes.Next() % 4;
  if (bytes.Flag()) c.mask = MakeMask(bytes, p.batch, p.time);

  Numbers numbers(p.dtype, static_cast<uint64_t>(bytes.Below(65536)));
  const int64_t gates = 4 * p.units, states = p.batch * p.units;
  c.x = numbers.Normal(p.batch * p.time * p.input, 1);
  const auto optional = [&](bool present, int64_t count, double deviation) -> std::optional<Values> {
    if (!present) return std::nullopt;
    return numbers.Normal(count, deviation);
  };
  const bool bias = bytes.Flag(), h0 = bytes.Flag(), c0 = bytes.Flag(), dh = bytes.Flag(), dc = bytes.Flag();
  const bool input_dropout = bytes.Next() % 4 == 0, recurrent_dropout = bytes.Next() % 4 == 0;
  for (int n = 0; n < p.directions; ++n) {
    DirectionValues& d = c.direction[n];
    d.kernel = optional(!p.projected, p.input * gates, 1 / std::sqrt(static_cast<double>(p.input + 1)));
    d.recurrent_kernel = numbers.Normal(p.units * gates, 1 / std::sqrt(static_cast<double>(p.units)));
    d.bias = optional(bias, gates, 1);
    d.h0 = optional(h0, states, 0.5);
    d.c0 = optional(c0, states, 0.5);
    d.dh_n = optional(dh, states, 1);
    d.dc_n = optional(dc, states, 1);
    if (input_dropout && !p.projected) d.input_dropout = numbers.Dropout(4 * p.batch * p.input);
    if (recurrent_dropout) d.recurrent_dropout = numbers.Dropout(4 * states);
  }
  c.dy = optional(bytes.Next() % 4 != 0, p.batch * (p.return_sequences ? p.time : 1) * p.directions * p.units, 1);
  // What is masked is never read: whatever it is, it counts for nothing.
  for (int64_t row = 0; row < p.batch; ++row) {
    for (int64_t t = 0; t < p.time; ++t) {
      if (c.Real(row, t)) continue;
      for (int64_t i = 0; i < p.input; ++i) c.x[static_cast<size_t>((row * p.time + t) * p.input + i)] = std::nan("");
    }
  }
  return c;
}

std::string Case::Words() const {
  constexpr const char* kDTypes[] = {"float32", "float64", "float16", "bfloat16"};
  const Problem& p = problem;
  const auto number = [](int64_t value) { return std::to_string(value); };
  std::string words = isa + " " + kDTypes[static_cast<int>(p.dtype)] + " " + number(p.batch) + "," + number(p.time) +
                      "," + number(p.input) + "," + number(p.units) + " directions " + number(p.directions) +
                      " reserve " + number(static_cast<int>(p.reserve)) + " threads " + number(threads);
  if (p.projected) words += " projected";
  if (p.go_backwards) words += " go_backwards";
  if (p.return_sequences) words += " return_sequences";
  if (p.zero_output_for_mask) words += " zero_output_for_mask";
  if (p.reserve_by_row) words += " reserve_by_row";
  if (!mask.empty()) words += " mask";
  if (direction[0].input_dropout) words += " input_dropout";
  if (direction[0].recurrent_dropout) words += " recurrent_dropout";
  return words;
}

}  // namespace lstm_fast::test
