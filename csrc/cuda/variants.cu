#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/single.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {
namespace {

Layout LayoutOf(const Problem& problem, const Variant& variant, const Cut& cut, bool backward) {
  const Tile tile = TileOf(problem.dtype, variant.tensor_cores);
  const int units = static_cast<int>(problem.units);
  return backward ? BackwardLayout(tile, variant.registers, units, cut)
                  : ForwardLayout(tile, variant.registers, units, cut, variant.dropout, variant.split);
}

}  // namespace

const std::vector<Variant>& Variants() {
  static const std::vector<Variant> variants = [] {
    std::vector<Variant> all;
    for (const auto& some : {SingleVariants(), Float32Variants(), Tf32Variants(), Tf32x3Variants(), Float16Variants(),
                             BFloat16Variants(), Float64Variants()}) {
      all.insert(all.end(), some.begin(), some.end());
    }
    return all;
  }();
  return variants;
}

int64_t SharedBytes(const Problem& problem, const Variant& variant, const Cut& cut, bool backward) {
  if (variant.row_blocks > 0) {
    const int size = backward ? SingleBackwardSize(variant.most_units) : SingleForwardSize(variant.most_units);
    return 2 * size * int64_t{sizeof(float)};
  }
  return LayoutOf(problem, variant, cut, backward).end;
}

int64_t ExchangeBytes(const Problem& problem, const Variant& variant, const Cut& cut, bool backward) {
  if (variant.row_blocks > 0) return 0;
  return 2 * LayoutOf(problem, variant, cut, backward).exchange_size;
}

Work WorkOfWarp(const Problem& problem, const Variant& variant, const Cut& cut, bool backward) {
  if (variant.row_blocks > 0) return {1, SingleFragments(variant.most_units, backward)};
  const Layout layout = LayoutOf(problem, variant, cut, backward);
  return {CeilDivide(layout.jobs, cut.warps), layout.job_fragments};
}

}  // namespace lstm_fast::cuda
