#include "cuda/variants.h"

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/select.h"
#include "lstm_fast/lstm.h"

namespace lstm_fast::cuda {
namespace {

// The type that products are computed with, how many rows a warp computes at once, and how many fragments are in
// registers if not 16.
std::string NameOf(const Variant& variant) {
  const bool float32 = variant.dtype == DType::kFloat32, half = SizeOf(variant.dtype) == 2;
  std::string name = float32 && variant.tensor_cores ? NameOf(variant.precision) : NameOf(variant.dtype);
  if (variant.row_blocks > 0) return name + "_single_" + std::to_string(variant.most_units);
  if (half && !variant.tensor_cores) name += "_plain";
  name += "_" + std::to_string(variant.rows);
  if (variant.registers != 16) name += "_" + std::to_string(variant.registers);
  if (variant.split) name += "_split";
  if (variant.dropout) name += "_dropout";
  return name;
}

Layout LayoutOf(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass) {
  const ProductSizes sizes = ProductSizesOf(problem.dtype, variant.tensor_cores);
  const int units = static_cast<int>(problem.units);
  return pass == Pass::kBackward ? BackwardLayout(sizes, variant.registers, units, cut)
                                 : ForwardLayout(sizes, variant.registers, units, cut, variant.dropout, variant.split);
}

}  // namespace

const std::vector<Variant>& Variants() {
  static const std::vector<Variant> variants = [] {
    std::vector<Variant> all;
    for (const auto& some : {SingleVariants(), Float32Variants(), Tf32Variants(), Tf32x3Variants(), Float16Variants(),
                             BFloat16Variants(), Float64Variants()}) {
      all.insert(all.end(), some.begin(), some.end());
    }
    for (Variant& variant : all) variant.name = NameOf(variant);
    return all;
  }();
  return variants;
}

int64_t SharedBytes(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass) {
  if (variant.row_blocks > 0) return SingleSharedBytes(variant.most_units, pass);
  return LayoutOf(problem, variant, cut, pass).end;
}

int64_t ExchangeBytes(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass) {
  if (variant.row_blocks > 0) return 0;
  return 2 * LayoutOf(problem, variant, cut, pass).exchange_size;
}

WarpWork WorkOfWarp(const Problem& problem, const Variant& variant, const Cut& cut, Pass pass) {
  if (variant.row_blocks > 0) return {1, SingleFragments(variant.most_units, pass)};
  const Layout layout = LayoutOf(problem, variant, cut, pass);
  return {CeilDivide(layout.jobs, cut.warps), layout.job_fragments};
}

}  // namespace lstm_fast::cuda
