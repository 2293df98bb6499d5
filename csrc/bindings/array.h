// What every binding's validation is made of: a framework's array, and the comparison of its shape with the contract.
#ifndef LSTM_FAST_BINDINGS_ARRAY_H_
#define LSTM_FAST_BINDINGS_ARRAY_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "lstm_fast/lstm.h"

namespace lstm_fast {

// A dense, row-major array that a framework owns.
struct Array {
  void* data = nullptr;
  bool present = false;
  int rank = 0;
  std::array<int64_t, 4> shape{};  // of arrays of higher rank, only the rank is looked at
};

// An array that is there, whose size along an axis is size(axis).
template <class Size>
Array MakeArray(void* data, int rank, const Size& size) {
  Array array;
  array.data = data;
  array.present = true;
  array.rank = rank;
  const int known = std::min(rank, static_cast<int>(array.shape.size()));
  for (int axis = 0; axis < known; ++axis) array.shape[static_cast<size_t>(axis)] = size(axis);
  return array;
}

// Sizes of an array along its axes, at most four, and in letters what they are.
class Shape {
 public:
  Shape(std::initializer_list<int64_t> sizes, const char* letters)
      : rank_(static_cast<int>(sizes.size())), letters_(letters) {
    std::copy(sizes.begin(), sizes.end(), sizes_.begin());
  }

  int rank() const { return rank_; }
  const char* letters() const { return letters_; }
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return begin() + rank_; }
  int64_t elements() const {
    int64_t product = 1;
    for (const int64_t size : *this) product *= size;
    return product;
  }

 private:
  std::array<int64_t, 4> sizes_{};
  int rank_;
  const char* letters_;
};

// Where a framework has no way to leave an argument out, one of shape [0] stands for it.
inline Array AbsentIfEmpty(const Array& array) { return array.rank == 1 && array.shape[0] == 0 ? Array{} : array; }

// The name of an argument, or of a direction's entry in a list of them. Spelled out only where something is wrong: a
// call has two dozen, and one with next to no work would spend a fifth of its time on strings.
class Name {
 public:
  Name(const char* argument, int direction = -1) : argument_(argument), direction_(direction) {}
  operator std::string() const;

 private:
  const char* argument_;
  int direction_;
};

// What is wrong with an argument: std::invalid_argument with its name, what was expected and what was found.
[[noreturn]] void Refuse(const std::string& name, const std::string& expected, const std::string& found);

// Shape, rank or absence, in words.
std::string Found(const Array& array);

// Returns the data of an array, null if it is optional and absent; throws unless it has the shape.
void* CheckShape(const Array& array, const Name& name, const Shape& shape, bool optional);

// Throws if there is such an array, which a projected x leaves no room for.
void CheckAbsent(const Array& array, const Name& name);

// Throws unless count is 1 or 2; `name` is that of an argument with an entry for each direction.
int CheckDirections(int64_t count, const char* name = "kernels");

// Throws unless it is one of float32, float64, float16 and bfloat16.
DType DTypeNamed(const std::string& dtype);

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_ARRAY_H_
