// What every binding's validation is made of: a framework's array, and the comparison of its shape with the contract.
#ifndef LSTM_FAST_BINDINGS_ARRAY_H_
#define LSTM_FAST_BINDINGS_ARRAY_H_

#include <array>
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

// Returns the data of an array, null if it is optional and absent; throws unless it has the shape, whose letters the
// message gives.
void* CheckShape(const Array& array, const Name& name, std::initializer_list<int64_t> shape, const char* letters,
                 bool optional);

// Throws if there is such an array, which a projected x leaves no room for.
void CheckAbsent(const Array& array, const Name& name);

// Throws unless count is 1 or 2; `name` is that of an argument with an entry for each direction.
int CheckDirections(int64_t count, const char* name = "kernels");

// Throws unless it is one of float32, float64, float16 and bfloat16.
DType DTypeNamed(const std::string& dtype);

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_ARRAY_H_
