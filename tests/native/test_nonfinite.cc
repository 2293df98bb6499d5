// NaN and infinity go where the arithmetic takes them, and nowhere else.
#include <limits>
#include <string>

#include "check.h"
#include "lstm_fast/isa.h"
#include "run.h"

namespace lstm_fast::testing {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Options Base(DType dtype, Masked masked) {
  Options o;
  o.dtype = dtype;
  o.batch = 7;
  o.time = 20;
  o.input = 5;
  o.units = 9;
  o.directions = 2;
  o.masked = masked;
  return o;
}

LSTM_FAST_TEST(a_number_that_is_not_finite_stays_in_its_row) {
  const Settings settings;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const Masked masked : {Masked::kNo, Masked::kHoles, Masked::kRight}) {
      for (const Reserve reserve : {Reserve::kNone, Reserve::kGates, Reserve::kRecompute}) {
        Options o = Base(dtype, masked);
        o.reserve = reserve;
        const Case clean(o);
        for (int64_t place = 1; place < static_cast<int64_t>(Spoiled::kCount); ++place) {
          for (const double spoiler : {kNan, kInfinity, -kInfinity}) {
            o.spoiled = static_cast<Spoiled>(place);
            o.spoiler = spoiler;
            const Case problem(o);
            Expect(problem.SpoiledRow() >= 0, "nothing was spoiled");
            const Solution exact = Solve(problem);
            for (const std::string& isa : AvailableIsas()) {
              SetIsa(isa);
              Outputs expected(clean);
              expected.Run(clean);
              const Outputs outputs = RunAndCheck(problem, exact);
              outputs.ExpectSameBits(expected, isa + ", " + Describe(o), problem.SpoiledRow());
            }
          }
        }
      }
    }
  }
}

LSTM_FAST_TEST(masked_timesteps_are_never_read) {
  const Settings settings;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const Masked masked : {Masked::kRight, Masked::kLeft, Masked::kHoles, Masked::kEveryOtherRow, Masked::kAll}) {
      for (const bool zero : {false, true}) {
        for (const bool projected : {false, true}) {
          Options o = Base(dtype, masked);
          o.zero_output_for_mask = zero;
          o.input_dropout = !projected;
          o.projected = projected;
          for (const std::string& isa : AvailableIsas()) {
            SetIsa(isa);
            o.nan_in_padding = false;
            const Case clean(o);
            o.nan_in_padding = true;
            const Case problem(o);
            Outputs expected(clean), outputs(problem);
            expected.Run(clean);
            outputs.Run(problem);
            outputs.ExpectSameBits(expected, isa + ", " + Describe(o));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace lstm_fast::testing
