// Who last wrote and who has since read each piece of a memory. Pieces have two bytes, the least that kernels write.
#ifndef LSTM_FAST_TESTS_EMULATION_SHADOW_H_
#define LSTM_FAST_TESTS_EMULATION_SHADOW_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "order.h"

namespace lstm_fast::emulation {

struct Conflict {
  enum class Kind { kNone, kUndefined, kAfterWrite, kAfterRead, kAfterSignal };
  Kind kind = Kind::kNone;
  int64_t offset = 0;
  Epoch other;
};

class Shadow {
 public:
  // `span`: see AddReader(). Memory that is not defined must be written before it is read.
  Shadow(int64_t bytes, bool defined, uint32_t span)
      : cells_(static_cast<std::size_t>((bytes + kPiece - 1) / kPiece)), defined_(defined), span_(span) {}

  Conflict Read(const Actor& actor, int64_t offset, int64_t bytes);
  Conflict Write(const Actor& actor, int64_t offset, int64_t bytes);
  // Signals do not conflict with each other, but with all else that is not ordered.
  Conflict Signal(const Actor& actor, int64_t offset);
  Conflict Await(const Actor& actor, int64_t offset);
  // By the host, between launches.
  void Define(int64_t offset, int64_t bytes);

 private:
  static constexpr int64_t kPiece = 2;
  static constexpr uint32_t kSignalled = ~uint32_t{0};  // a clock that no barrier reaches

  struct Cell {
    Epoch write;
    Epoch read[2];
    uint32_t more = 0;  // further readers: place in lists_ plus one, or 0: none
  };

  template <class Visit>
  Conflict ForEach(int64_t offset, int64_t bytes, const Visit& visit);
  Conflict::Kind CheckWrite(const Actor& actor, const Cell& cell, Epoch* other) const;
  Conflict::Kind CheckReaders(const Actor& actor, const Cell& cell, Epoch* other) const;
  void AddReader(const Actor& actor, Cell& cell);
  void AddToList(const Actor& actor, Cell& cell);
  void ClearReaders(Cell& cell);

  std::vector<Cell> cells_;
  std::vector<std::vector<Epoch>> lists_;
  std::vector<uint32_t> free_lists_;
  bool defined_;
  uint32_t span_;
};

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_SHADOW_H_
