#include "tolerance.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

namespace lstm_fast::testing {
namespace {

double RoundOff(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 0x1p-53;
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat16:
      return 0x1p-11;
    case DType::kBFloat16:
      return 0x1p-8;
  }
  return 0.0;
}

// What a result of such a magnitude errs by at most when it is stored. Below 2^-14 float16 has no more bits, but an
// even spacing of 2^-24; of the other types no test gets so far down.
double StoringError(DType dtype, double magnitude) {
  return std::max(RoundOff(dtype) * magnitude, dtype == DType::kFloat16 ? 0x1p-25 : 0.0);
}

// Multiples of the roundoff that the products below are allowed.
constexpr double kForward = 0.5, kGradient = 1.0;

// What the activation functions are promised to err by at most (tests/tolerances.py), in units in the last place.
double ActivationError(DType dtype) { return dtype == DType::kFloat64 ? 4.0 : 3.0; }

using Numbers = std::vector<double>;

double FiniteOr0(double value) { return std::isfinite(value) ? value : 0.0; }

Numbers Values(DType dtype, const Guarded& array) {
  Numbers values;
  const int64_t count = array.bytes() / SizeOf(dtype);
  for (int64_t i = 0; i < count; ++i) values.push_back(Decode(dtype, array.data(), i));
  return values;
}

// The greatest finite magnitude, and at least `least`.
double Largest(double least, std::initializer_list<const Numbers*> arrays) {
  for (const Numbers* array : arrays) {
    for (double value : *array) least = std::max(least, std::fabs(FiniteOr0(value)));
  }
  return least;
}

// The greatest Euclidean norm of a row or a column, of rows of `width` numbers.
struct Norms {
  double rows = 0.0, columns = 0.0;
};

Norms NormsOf(const Numbers& values, int64_t width) {
  Norms norms;
  if (width == 0) return norms;
  Numbers columns(static_cast<size_t>(width));
  for (size_t begin = 0; begin < values.size(); begin += columns.size()) {
    double row = 0.0;
    for (size_t j = 0; j < columns.size(); ++j) {
      const double square = std::pow(FiniteOr0(values[begin + j]), 2);
      row += square;
      columns[j] += square;
    }
    norms.rows = std::max(norms.rows, row);
  }
  norms.rows = std::sqrt(norms.rows);
  norms.columns = std::sqrt(*std::max_element(columns.begin(), columns.end()));
  return norms;
}

}  // namespace

Tolerance ToleranceOf(const Case& problem, const Solution& exact) {
  const Options& o = problem.options;
  // 16-bit types compute in float32, and are rounded once more when they are stored.
  const double roundoff = RoundOff(o.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32);
  const double units = std::sqrt(static_cast<double>(o.units));
  const double timesteps = std::sqrt(static_cast<double>(o.batch * o.time));
  Numbers x;
  for (int64_t b = 0; b < o.batch; ++b) {
    for (int64_t t = 0; t < o.time; ++t) {
      for (int64_t d = 0; d < problem.features; ++d) {
        x.push_back(problem.real(b, t) ? Decode(o.dtype, problem.x.data(), problem.XOffset(b, t) + d) : 0.0);
      }
    }
  }
  const Norms of_x = NormsOf(x, problem.features);

  Tolerance tolerance;
  for (int n = 0; n < o.directions; ++n) {
    const DirectionArrays& a = problem.direction[n];
    const Solution::Direction& e = exact.direction[n];
    const auto values = [&](const Guarded& array) { return Values(o.dtype, array); };
    const Numbers bias = values(a.bias), h0 = values(a.h0), c0 = values(a.c0), dh_n = values(a.dh_n);
    const Numbers dc_n = values(a.dc_n), input_dropout = values(a.input_dropout);
    const Numbers recurrent_dropout = values(a.recurrent_dropout);
    const Norms kernel = NormsOf(values(a.kernel), 4 * o.units);
    const Norms recurrent_kernel = NormsOf(values(a.recurrent_kernel), 4 * o.units);
    const Norms dz = NormsOf(e.dz_terms, 4 * o.units);
    const double x_scale = Largest(1.0, {&input_dropout});
    const double h_scale = Largest(1.0, {&h0}) * Largest(1.0, {&recurrent_dropout});
    const double preactivation = (o.projected ? Largest(0.0, {&x}) : x_scale * of_x.rows * kernel.columns) +
                                 h_scale * units * recurrent_kernel.columns + Largest(0.0, {&bias});
    const double step = ActivationError(o.dtype) + preactivation;
    const double layer = roundoff * step * std::sqrt(1.0 + static_cast<double>(o.time));
    const double cell = kForward * Largest(1.0, {&c0, &e.c_n});
    const double state =
        kGradient * (Largest(0.0, {&dh_n, &dc_n, &e.dh0, &e.dc0}) + h_scale * dz.rows * recurrent_kernel.rows);
    const auto allowed = [&](double norm, const Numbers& result) {
      return layer * norm + StoringError(o.dtype, Largest(0.0, {&result}));
    };
    tolerance.direction[n] = {allowed(cell, e.h_n),
                              allowed(cell, e.c_n),
                              allowed(kGradient * x_scale * of_x.columns * dz.columns, e.dkernel),
                              allowed(kGradient * h_scale * timesteps * dz.columns, e.drecurrent_kernel),
                              allowed(kGradient * timesteps * dz.columns, e.dbias),
                              allowed(state, e.dh0),
                              allowed(state, e.dc0)};
    tolerance.y = std::max(tolerance.y, layer * cell);
    // A projected x has for its gradient dz itself.
    tolerance.dx += layer * kGradient * x_scale * dz.rows * (o.projected ? 1.0 : kernel.rows);
  }
  tolerance.dx += StoringError(o.dtype, Largest(0.0, {&exact.dx}));
  tolerance.y += StoringError(o.dtype, Largest(0.0, {&exact.y}));
  return tolerance;
}

}  // namespace lstm_fast::testing
