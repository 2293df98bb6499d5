#include "bindings/array.h"

#include <stdexcept>

namespace lstm_fast {
namespace {

std::string ShapeText(const int64_t* shape, int rank) {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
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

void* CheckShape(const Array& array, const Name& name, std::initializer_list<int64_t> shape, const char* letters,
                 bool optional) {
  const int rank = static_cast<int>(shape.size());
  if (!array.present && optional) return nullptr;
  bool same = array.present && array.rank == rank;
  for (int i = 0; same && i < rank; ++i) same = array.shape[static_cast<size_t>(i)] == shape.begin()[i];
  if (!same) Refuse(name, "shape " + ShapeText(shape.begin(), rank) + " (" + letters + ")", Found(array));
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
  if (dtype == "float32") return DType::kFloat32;
  if (dtype == "float64") return DType::kFloat64;
  if (dtype == "float16") return DType::kFloat16;
  if (dtype == "bfloat16") return DType::kBFloat16;
  Refuse("dtype", "float32, float64, float16 or bfloat16", dtype);
}

}  // namespace lstm_fast
