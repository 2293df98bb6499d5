#include "shadow.h"

#include <algorithm>
#include <cstring>

namespace lstm_fast::emulation {

// visit(cell, &other) returns what is wrong, and with whom. Neighbours mostly have the same past, and then get the same
// future.
template <class Visit>
Conflict Shadow::ForEach(int64_t offset, int64_t bytes, const Visit& visit) {
  Cell before, after;
  bool repeats = false;
  for (int64_t i = offset / kPiece; i < (offset + bytes + kPiece - 1) / kPiece; ++i) {
    Cell& cell = cells_[static_cast<std::size_t>(i)];
    if (repeats && std::memcmp(&cell, &before, sizeof(Cell)) == 0) {
      cell = after;
      continue;
    }
    before = cell;
    Epoch other;
    const Conflict::Kind kind = visit(cell, &other);
    if (kind != Conflict::Kind::kNone) return {kind, i * kPiece, other};
    after = cell;
    repeats = before.more == 0 && after.more == 0;
  }
  return {};
}

Conflict Shadow::Read(const Actor& actor, int64_t offset, int64_t bytes) {
  return ForEach(offset, bytes, [&](Cell& cell, Epoch* other) {
    if (cell.write.thread == kNobody && !defined_) return Conflict::Kind::kUndefined;
    const Conflict::Kind kind = CheckWrite(actor, cell, other);
    if (kind == Conflict::Kind::kNone) AddReader(actor, cell);
    return kind;
  });
}

Conflict Shadow::Write(const Actor& actor, int64_t offset, int64_t bytes) {
  return ForEach(offset, bytes, [&](Cell& cell, Epoch* other) {
    Conflict::Kind kind = CheckWrite(actor, cell, other);
    if (kind == Conflict::Kind::kNone) kind = CheckReaders(actor, cell, other);
    if (kind == Conflict::Kind::kNone) {
      ClearReaders(cell);
      cell.write = {actor.id, actor.clock};
    }
    return kind;
  });
}

Conflict Shadow::Signal(const Actor& actor, int64_t offset) {
  return ForEach(offset, sizeof(uint32_t), [&](Cell& cell, Epoch* other) {
    if (cell.write.thread == kNobody && !defined_) return Conflict::Kind::kUndefined;
    Conflict::Kind kind = CheckWrite(actor, cell, other);
    if (kind == Conflict::Kind::kAfterSignal) kind = Conflict::Kind::kNone;
    if (kind == Conflict::Kind::kNone) kind = CheckReaders(actor, cell, other);
    if (kind == Conflict::Kind::kNone) {
      ClearReaders(cell);
      cell.write = {actor.id, kSignalled};
    }
    return kind;
  });
}

Conflict Shadow::Await(const Actor& actor, int64_t offset) {
  return ForEach(offset, sizeof(uint32_t), [&](Cell& cell, Epoch* other) {
    if (cell.write.thread == kNobody && !defined_) return Conflict::Kind::kUndefined;
    const Conflict::Kind kind = CheckWrite(actor, cell, other);
    return kind == Conflict::Kind::kAfterSignal ? Conflict::Kind::kNone : kind;
  });
}

void Shadow::Define(int64_t offset, int64_t bytes) {
  ForEach(offset, bytes, [&](Cell& cell, Epoch*) {
    ClearReaders(cell);
    cell.write = {kHost, 0};
    return Conflict::Kind::kNone;
  });
}

Conflict::Kind Shadow::CheckWrite(const Actor& actor, const Cell& cell, Epoch* other) const {
  if (actor.IsAfter(cell.write)) return Conflict::Kind::kNone;
  *other = cell.write;
  return cell.write.clock == kSignalled ? Conflict::Kind::kAfterSignal : Conflict::Kind::kAfterWrite;
}

Conflict::Kind Shadow::CheckReaders(const Actor& actor, const Cell& cell, Epoch* other) const {
  const auto check = [&](const Epoch& epoch) {
    if (actor.IsAfter(epoch)) return true;
    *other = epoch;
    return false;
  };
  bool after = check(cell.read[0]) && check(cell.read[1]);
  if (cell.more != 0) {
    const std::vector<Epoch>& list = lists_[cell.more - 1];
    after = after && std::all_of(list.begin(), list.end(), check);
  }
  return after ? Conflict::Kind::kNone : Conflict::Kind::kAfterRead;
}

// A write must follow all readers. Of a group of `span` consecutive threads (a warp, or a block) that read between the
// same barriers, two stand for all: two of different warps, if there are, else two lanes. A writer that is after both
// has met their group at a barrier, and so is after the others. Exact unless signals order single threads of a group.
void Shadow::AddReader(const Actor& actor, Cell& cell) {
  if (cell.more != 0) {
    AddToList(actor, cell);
    return;
  }
  const bool after_first = actor.IsAfter(cell.read[0]), after_second = actor.IsAfter(cell.read[1]);
  const Epoch own = {actor.id, actor.clock};
  if (after_first) {
    cell.read[0] = own;
    if (after_second) cell.read[1] = {};
  } else if (after_second) {
    cell.read[1] = own;
  } else {
    const uint32_t begin = actor.id - (actor.id - actor.first) % span_;
    const uint32_t first = cell.read[0].thread, second = cell.read[1].thread;
    if (first - begin >= span_ || second - begin >= span_) {
      AddToList(actor, cell);
    } else if (first / kLanes == second / kLanes && second / kLanes != actor.id / kLanes) {
      cell.read[1] = own;
    }
  }
}

// The same for readers of several groups. All are in the list then.
void Shadow::AddToList(const Actor& actor, Cell& cell) {
  if (cell.more == 0) {
    if (free_lists_.empty()) {
      lists_.emplace_back();
      free_lists_.push_back(static_cast<uint32_t>(lists_.size()));
    }
    cell.more = free_lists_.back();
    free_lists_.pop_back();
    lists_[cell.more - 1].assign(cell.read, cell.read + 2);
    cell.read[0] = cell.read[1] = {};
  }
  std::vector<Epoch>& list = lists_[cell.more - 1];
  list.erase(std::remove_if(list.begin(), list.end(), [&](const Epoch& epoch) { return actor.IsAfter(epoch); }),
             list.end());
  const Epoch own = {actor.id, actor.clock};
  if (list.empty()) {
    ClearReaders(cell);
    cell.read[0] = own;
    return;
  }
  const uint32_t begin = actor.id - (actor.id - actor.first) % span_;
  Epoch* first = nullptr;
  for (Epoch& epoch : list) {
    if (epoch.thread - begin >= span_) continue;
    if (first == nullptr) {
      first = &epoch;
      continue;
    }
    if (first->thread / kLanes == epoch.thread / kLanes && epoch.thread / kLanes != actor.id / kLanes) epoch = own;
    return;
  }
  list.push_back(own);
}

void Shadow::ClearReaders(Cell& cell) {
  if (cell.more != 0) free_lists_.push_back(cell.more);
  cell.more = 0;
  cell.read[0] = cell.read[1] = {};
}

}  // namespace lstm_fast::emulation
