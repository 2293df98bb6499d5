// The operands of a call in their one order: x, the mask, and then the lists of a table, each with an entry for each
// direction. Every binding reads, names and registers them by that table, and the backward pass has its results in the
// same order. Only TensorFlow's ops on GPUs, which a macro registers, spell the names out; a test compares them. What
// follows in the backward pass is the reserve and the gradients of the outputs. lstm_fast/backends/operands.py is the
// Python side of this.
#ifndef LSTM_FAST_BINDINGS_OPERANDS_H_
#define LSTM_FAST_BINDINGS_OPERANDS_H_

#include <array>
#include <cstddef>

#include "bindings/array.h"

namespace lstm_fast {

// A list of operands, and the field that a binding puts it in.
template <class Arguments>
struct OperandList {
  const char* name;
  std::array<Array, 2> Arguments::* field;
  bool optional;  // whether its entries may be absent
  bool has_gradient;
};

// The entries of a list: read(n) returns that of direction n.
template <class Read>
std::array<Array, 2> ReadEntries(int directions, const Read& read) {
  std::array<Array, 2> entries;
  for (int n = 0; n < directions; ++n) entries[static_cast<size_t>(n)] = read(n);
  return entries;
}

// Fills the fields of a table, in its order: `read` returns the arrays of a list.
template <class Arguments, class Table, class Read>
void ReadLists(Arguments& arguments, const Table& table, const Read& read) {
  for (const OperandList<Arguments>& list : table) arguments.*list.field = read(list);
}

}  // namespace lstm_fast

#endif  // LSTM_FAST_BINDINGS_OPERANDS_H_
