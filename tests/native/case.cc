#include "case.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

namespace lstm_fast::testing {
namespace {

// An array of `count` elements of a dtype, with `scale` times random numbers.
Guarded Numbers(const Options& options, int64_t count, double scale, Random& random) {
  const int64_t size = SizeOf(options.dtype);
  Guarded array(count * size, options.shift * size);
  for (int64_t i = 0; i < count; ++i) Encode(options.dtype, scale * random.Number(), array.data(), i);
  return array;
}

// Dropout with a rate of one half.
Guarded Multipliers(const Options& options, int64_t count, Random& random) {
  const int64_t size = SizeOf(options.dtype);
  Guarded array(count * size, options.shift * size);
  for (int64_t i = 0; i < count; ++i) {
    Encode(options.dtype, static_cast<double>(2 * random.Below(2)), array.data(), i);
  }
  return array;
}

bool IsReal(Masked masked, int64_t time, int64_t t, int64_t row, int64_t length, Random& random) {
  switch (masked) {
    case Masked::kRight:
      return t < length;
    case Masked::kLeft:
      return t >= time - length;
    case Masked::kHoles:
      return random.Below(5) < 3;
    case Masked::kEveryOtherRow:  // the others have no real timestep
      return row % 2 == 1 && t < length;
    case Masked::kAll:
      return false;
    default:
      return true;
  }
}

Guarded MakeMask(const Options& options, Random& random) {
  if (options.masked == Masked::kNo) return {};
  // Which timesteps are real does not depend on the byte that says so.
  Random bytes(options.seed ^ 0x6d61736bu);
  Guarded mask(options.batch * options.time, options.shift);
  for (int64_t b = 0; b < options.batch; ++b) {
    const int64_t length = options.time > 0 ? 1 + random.Below(options.time) : 0;
    for (int64_t t = 0; t < options.time; ++t) {
      const uint8_t byte = options.real_byte ? options.real_byte : static_cast<uint8_t>(1 + bytes.Below(255));
      const bool real = IsReal(options.masked, options.time, t, b, length, random);
      mask.data()[b * options.time + t] = static_cast<char>(real ? byte : 0);
    }
  }
  return mask;
}

// Whether a row has the same input at a timestep as at the one before.
bool Repeats(const Options& o, int64_t b, int64_t t) {
  const int64_t later = 1 + b % 5, tenth = o.time / 10;
  switch (o.repeated) {
    case Repeated::kEnd:
      return t > tenth + later;
    case Repeated::kBeginning:
      return t < o.time - tenth - later;
    case Repeated::kMiddle:
      return t > tenth + later && t < o.time - tenth - later;
    case Repeated::kTwice:
      return t < o.time / 2 - later || t > o.time / 2 + later;
    default:
      return false;
  }
}

}  // namespace

std::string Describe(const Options& o) {
  std::ostringstream text;
  text << NameOf(o.dtype) << " B=" << o.batch << " T=" << o.time << " D=" << o.input << " H=" << o.units
       << " N=" << o.directions << " reserve=" << static_cast<int>(o.reserve);
  const auto flag = [&](bool value, const char* name) {
    if (value) text << ' ' << name;
  };
  flag(o.projected, "projected");
  flag(o.go_backwards, "go_backwards");
  flag(!o.return_sequences, "last_output");
  flag(o.zero_output_for_mask, "zero_output_for_mask");
  flag(o.reserve_by_row, "reserve_by_row");
  flag(!o.bias, "no_bias");
  flag(!o.h0, "no_h0");
  flag(!o.c0, "no_c0");
  flag(o.input_dropout, "input_dropout");
  flag(o.recurrent_dropout, "recurrent_dropout");
  flag(!o.dy, "no_dy");
  flag(!o.dh_n, "no_dh_n");
  flag(!o.dc_n, "no_dc_n");
  flag(!o.dx, "no_dx");
  flag(!o.dweights, "no_dweights");
  flag(!o.dbias, "no_dbias");
  flag(!o.dstates, "no_dstates");
  flag(o.vanishing, "vanishing");
  flag(o.nan_in_padding, "nan_in_padding");
  text << " layout=" << static_cast<int>(o.layout) << " shift=" << o.shift << " masked=" << static_cast<int>(o.masked)
       << " repeated=" << static_cast<int>(o.repeated) << " real_byte=" << static_cast<int>(o.real_byte)
       << " spoiled=" << static_cast<int>(o.spoiled) << ':' << o.spoiler << " seed=" << o.seed;
  return text.str();
}

Case::Case(const Options& given) : options(given) {
  Options& o = options;
  o.go_backwards = o.go_backwards && o.directions == 1;
  o.input_dropout = o.input_dropout && !o.projected;
  features = o.projected ? o.directions * 4 * o.units : o.input;
  o.input = features;
  o.bias = o.bias || o.vanishing;
  Random random(o.seed * 1'000'003 + static_cast<uint64_t>(((o.batch * 64 + o.time) * 256 + o.input) * 256 + o.units));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const int64_t size = SizeOf(o.dtype);

  mask = MakeMask(o, random);
  const int64_t gap = o.layout == Layout::kDense ? 0 : 3;
  x_time_stride = o.layout == Layout::kTimeMajor ? o.batch * (features + gap) : features + gap;
  x_batch_stride = o.layout == Layout::kTimeMajor ? features + gap : o.time * x_time_stride + gap;
  x_first = 0;
  if (o.layout == Layout::kBackward) {
    x_first = (o.batch - 1) * x_batch_stride + (o.time - 1) * x_time_stride;
    x_batch_stride = -x_batch_stride;
    x_time_stride = -x_time_stride;
  }
  const bool empty = o.batch == 0 || o.time == 0;
  if (empty) x_first = 0;
  const int64_t last = (o.batch - 1) * std::abs(x_batch_stride) + (o.time - 1) * std::abs(x_time_stride);
  x = Guarded(empty ? 0 : (last + features) * size, o.shift * size);
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t t = 0; t < o.time; ++t) {
      for (int64_t d = 0; d < features; ++d) {
        const double value = random.Number();
        Encode(o.dtype, o.nan_in_padding && !real(b, t) ? nan : value, x.data(), XOffset(b, t) + d);
      }
    }
  }

  for (int64_t b = 0; b < o.batch; ++b) {
    int64_t before = -1;  // the real timestep before
    for (int64_t t = 0; t < o.time; ++t) {
      if (!real(b, t)) continue;
      if (before >= 0 && Repeats(o, b, t)) {
        std::memcpy(x.data() + XOffset(b, t) * size, x.data() + XOffset(b, before) * size,
                    static_cast<size_t>(features * size));
      }
      before = t;
    }
  }

  const int64_t units = o.units, outputs = o.return_sequences ? o.time : 1;
  for (int n = 0; n < o.directions; ++n) {
    DirectionArrays& a = direction[n];
    const double width = static_cast<double>(features + units);
    if (!o.projected) a.kernel = Numbers(o, features * 4 * units, 1 / std::sqrt(width), random);
    const double scale = o.vanishing ? 0.01 : o.repeated == Repeated::kNo ? 1.0 : 0.3;
    a.recurrent_kernel = Numbers(o, units * 4 * units, scale / std::sqrt(static_cast<double>(units)), random);
    if (o.bias) a.bias = Numbers(o, 4 * units, 1.0, random);
    for (int64_t j = units; j < 2 * units && o.vanishing; ++j) {
      Encode(o.dtype, random.Number() - 8, a.bias.data(), j);
    }
    if (o.h0) a.h0 = Numbers(o, o.batch * units, 0.5, random);
    if (o.c0) a.c0 = Numbers(o, o.batch * units, 1.0, random);
    if (o.input_dropout) a.input_dropout = Multipliers(o, 4 * o.batch * features, random);
    if (o.recurrent_dropout) a.recurrent_dropout = Multipliers(o, 4 * o.batch * units, random);
    if (o.dh_n) a.dh_n = Numbers(o, o.batch * units, 1.0, random);
    if (o.dc_n) a.dc_n = Numbers(o, o.batch * units, 1.0, random);
  }
  const int64_t width = o.directions * units;
  if (o.dy) dy = Numbers(o, o.batch * outputs * width, 1.0, random);
  for (int64_t i = 0; i < o.batch * outputs * width && o.dy && o.vanishing; ++i) {
    const int64_t t = i / width % outputs;
    if (t != outputs - 1 && t != outputs / 2) Encode(o.dtype, 0.0, dy.data(), i);
  }
  // A masked output that is zero has no gradient, whatever arrives.
  for (int64_t b = 0; b < o.batch && o.dy && o.nan_in_padding && o.zero_output_for_mask && o.return_sequences; ++b) {
    for (int64_t t = 0; t < o.time; ++t) {
      if (real(b, o.go_backwards ? o.time - 1 - t : t)) continue;
      for (int64_t j = 0; j < width; ++j) Encode(o.dtype, nan, dy.data(), (b * o.time + t) * width + j);
    }
  }

  if (o.spoiled == Spoiled::kNo) return;
  for (int64_t b = 0; b < o.batch && spoiled_row < 0; ++b) {
    for (int64_t t = o.time - 1; t >= 0; --t) {  // the last of the real timesteps, or one before
      if (!real(b, t) || (t > 0 && random.Below(2) == 0)) continue;
      const int64_t n = random.Below(o.directions), unit = b * units + random.Below(units);
      DirectionArrays& a = direction[n];
      Guarded& array = o.spoiled == Spoiled::kX       ? x
                       : o.spoiled == Spoiled::kState ? a.h0
                       : o.spoiled == Spoiled::kCell  ? a.c0
                                                      : dy;
      const int64_t time = o.go_backwards ? o.time - 1 - t : t;
      const int64_t index =
          o.spoiled == Spoiled::kX ? XOffset(b, t) + (features ? random.Below(features) : 0)
          : o.spoiled == Spoiled::kGradient
              ? (b * outputs + (o.return_sequences ? time : 0)) * width + n * units + random.Below(units)
              : unit;
      if (!array.present() || array.bytes() == 0 || (o.spoiled == Spoiled::kX && features == 0)) return;
      Encode(o.dtype, o.spoiler, array.data(), index);
      spoiled_row = b;
      break;
    }
  }
}

Inputs Case::inputs() const {
  const Options& o = options;
  Inputs in{};
  in.problem = {o.dtype,
                o.batch,
                o.time,
                o.input,
                o.units,
                o.directions,
                o.projected,
                o.go_backwards,
                o.return_sequences,
                o.zero_output_for_mask,
                o.reserve,
                o.reserve_by_row};
  in.x = x.data() + x_first * SizeOf(o.dtype);
  in.x_batch_stride = x_batch_stride;
  in.x_time_stride = x_time_stride;
  in.mask = reinterpret_cast<const MaskByte*>(mask.data());
  for (int n = 0; n < o.directions; ++n) {
    const DirectionArrays& a = direction[n];
    in.direction[n] = {a.kernel.data(),        a.recurrent_kernel.data(), a.bias.data(), a.h0.data(), a.c0.data(),
                       a.input_dropout.data(), a.recurrent_dropout.data()};
  }
  return in;
}

BackwardInput Case::gradients(const void* reserve) const {
  BackwardInput in{};
  in.reserve = reserve;
  in.dy = dy.data();
  for (int n = 0; n < options.directions; ++n) {
    in.dh_n[n] = direction[n].dh_n.data();
    in.dc_n[n] = direction[n].dc_n.data();
  }
  return in;
}

}  // namespace lstm_fast::testing
