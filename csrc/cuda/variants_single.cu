// Kernels for few units, a row in one block or in a cluster of two: multiply-add in float32, whatever the elements.
#include <algorithm>
#include <vector>

#include "cuda/elements.h"
#include "cuda/kernels.h"
#include "cuda/layout.h"
#include "cuda/recurrence.h"
#include "cuda/single.h"
#include "cuda/single_backward.h"
#include "cuda/single_forward.h"
#include "cuda/variants.h"

namespace lstm_fast::cuda {
namespace {

template <class T, int kUnits, int kBlocks>
Variant MakeSingle() {
  Variant variant{};
  variant.dtype = kDTypeOf<T>;
  variant.precision = Precision::kExact;
  variant.rows = 1;
  variant.registers = std::max(SingleFragments(kUnits, Pass::kForward), SingleFragments(kUnits, Pass::kBackward));
  variant.most_threads = SingleThreads(kUnits, kBlocks);
  variant.most_units = kUnits;
  variant.row_blocks = kBlocks;
  variant.forward = &RunSingleForward<T, kUnits, kBlocks>;
  variant.backward = &RunSingleBackward<T, kUnits, kBlocks>;
  return variant;
}

template <class T>
void AddSingles(std::vector<Variant>& variants) {
  variants.insert(variants.end(), {MakeSingle<T, 16, 1>(), MakeSingle<T, 32, 1>(), MakeSingle<T, 48, 1>(),
                                   MakeSingle<T, 64, 1>(), MakeSingle<T, 96, 2>(), MakeSingle<T, 128, 2>()});
}

}  // namespace

std::vector<Variant> SingleVariants() {
  std::vector<Variant> variants;
  AddSingles<float>(variants);
  AddSingles<Half>(variants);
  AddSingles<BFloat16>(variants);
  return variants;
}

}  // namespace lstm_fast::cuda
