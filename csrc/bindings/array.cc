#include "bindings/array.h"

#include <algorithm>
#include <stdexcept>

namespace lstm_fast {
namespace {

std::string ShapeText(const int64_t* sizes, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

}  // namespace

void Refuse(const std::string& name, const std::string& expected, const std::string& found) {
  throw std::invalid_argument(name + ": expected " + expected + "; found " + found);
}

std::string Found(const Array& array) {
  if (!array.present) return "nothing";
  if (array.rank > 4) return "rank " + std::to_string(array.rank);
  return "shape " + ShapeText(array.shape.data(), array.rank);
}

Name::operator std::string() const {
  return direction_ < 0 ? argument_ : std::string(argument_) + "[" + std::to_string(direction_) + "]";
}

void* CheckShape(const Array& array, const Name& name, const Shape& shape, bool optional) {
  if (!array.present && optional) return nullptr;
  if (!array.present || array.rank != shape.rank() || !std::equal(shape.begin(), shape.end(), array.shape.begin())) {
    Refuse(name, "shape " + ShapeText(shape.begin(), shape.rank()) + " (" + shape.letters() + ")", Found(array));
  }
  return array.data;
}

void CheckAbsent(const Array& array, const Name& name) {
  if (array.present) Refuse(name, "nothing where x is projected, without kernels", Found(array));
}

int CheckDirections(int64_t count, const char* name) {
  if (count != 1 && count != 2) Refuse(name, "1 or 2 directions", std::to_string(count));
  return static_cast<int>(count);
}

DType DTypeNamed(const std::string& dtype) {
  for (const DType known : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    if (dtype == NameOf(known)) return known;
  }
  Refuse("dtype", "float32, float64, float16 or bfloat16", dtype);
}

}  // namespace lstm_fast
