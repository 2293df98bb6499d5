#include "memory.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "machine.h"

namespace lstm_fast::emulation {
namespace {

std::vector<GlobalMemory*>& Registered() {
  static thread_local std::vector<GlobalMemory*> registered;
  return registered;
}

std::string Sized(const char* access, int64_t bytes) {
  return std::string(access) + " of " + std::to_string(bytes) + " bytes";
}

bool IsAligned(const unsigned char* pointer, int64_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % static_cast<std::uintptr_t>(alignment) == 0;
}

std::string Misaligned(const char* access, int64_t bytes, int64_t offset) {
  return "misaligned " + Sized(access, bytes) + " at byte " + std::to_string(offset) + " of ";
}

std::string NameOf(const SharedMemory& memory) {
  return "the shared memory of block " + std::to_string(memory.block());
}

void CheckInside(const SharedPlace& place, int64_t bytes, int64_t alignment, const char* access) {
  if (place.memory == nullptr) Fail(Sized(access, bytes) + " through a null pointer");
  SharedMemory& memory = *place.memory;
  if (place.offset < place.begin || place.offset + bytes > place.end) {
    Fail(Sized(access, bytes) + " out of bounds: at byte " + std::to_string(place.offset) + " of " + NameOf(memory) +
         ", by a pointer into bytes " + std::to_string(place.begin) + " to " + std::to_string(place.end));
  }
  if (!IsAligned(memory.begin() + place.offset, alignment))
    Fail(Misaligned(access, bytes, place.offset) + NameOf(memory));
  const Thread& thread = Current();
  if (thread.arrived) Fail(Sized(access, bytes) + " of shared memory between ArriveAtCluster and AwaitCluster");
  if (memory.block() == thread.block->index) return;
  if (memory.ended) Fail(Sized(access, bytes) + " of " + NameOf(memory) + ", which has ended");
  if (!thread.met_cluster) {
    Fail(Sized(access, bytes) + " of " + NameOf(memory) +
         " before a barrier of the cluster: that block may not have started");
  }
  memory.visitors[thread.id] = thread.clock;
}

}  // namespace

GlobalMemory::GlobalMemory(const void* pointer, int64_t bytes, Access access, std::string name)
    : begin_(static_cast<unsigned char*>(const_cast<void*>(pointer))),
      bytes_(bytes),
      access_(access),
      name_(std::move(name)),
      shadow_(access == Access::kRead ? 0 : bytes, access != Access::kScratch, kLanes) {
  for (const GlobalMemory* other : Registered()) {
    const bool apart = begin_ + bytes_ <= other->begin_ || other->begin_ + other->bytes_ <= begin_;
    if (!apart && (writable() || other->writable())) {
      throw std::runtime_error(name_ + " overlaps " + other->name_);
    }
  }
  Registered().push_back(this);
}

GlobalMemory::~GlobalMemory() {
  std::vector<GlobalMemory*>& all = Registered();
  all.erase(std::remove(all.begin(), all.end(), this), all.end());
}

GlobalMemory* GlobalMemory::Find(const void* pointer) {
  const auto* place = static_cast<const unsigned char*>(pointer);
  for (GlobalMemory* memory : Registered()) {
    if (place >= memory->begin_ && (place < memory->begin_ + memory->bytes_ || place == memory->begin_)) return memory;
  }
  return nullptr;
}

GlobalPlace InGlobal(const void* pointer) {
  if (pointer == nullptr) return {};
  GlobalMemory* memory = GlobalMemory::Find(pointer);
  if (memory == nullptr) Fail("InGlobal() of a pointer into no global memory");
  return {memory, static_cast<const unsigned char*>(pointer) - memory->begin()};
}

SharedMemory::SharedMemory(int block, int64_t bytes, uint32_t threads)
    : block_(block),
      bytes_(bytes),
      data_(static_cast<std::size_t>(bytes) / sizeof(std::max_align_t) + 1),
      shadow_(bytes, false, threads) {
  std::memset(data_.data(), 0xff, data_.size() * sizeof(std::max_align_t));  // not a number
}

void GlobalPlace::CheckInside(int64_t bytes, int64_t alignment, const char* access) const {
  if (memory == nullptr) Fail(Sized(access, bytes) + " through a null pointer");
  if (offset < 0 || offset + bytes > memory->bytes()) {
    Fail(Sized(access, bytes) + " out of bounds: at byte " + std::to_string(offset) + " of " + memory->name() +
         ", which has " + std::to_string(memory->bytes()));
  }
  if (!IsAligned(memory->begin() + offset, alignment)) Fail(Misaligned(access, bytes, offset) + memory->name());
}

const unsigned char* GlobalPlace::Read(int64_t bytes, int64_t alignment) const {
  CheckInside(bytes, alignment, "read");
  if (memory->writable()) Check(memory->shadow().Read(Current(), offset, bytes), "read", memory->name());
  return memory->begin() + offset;
}

unsigned char* GlobalPlace::Write(int64_t bytes, int64_t alignment) const {
  CheckInside(bytes, alignment, "write");
  if (!memory->writable()) Fail("write to " + memory->name() + ", which is only to be read");
  Check(memory->shadow().Write(Current(), offset, bytes), "write", memory->name());
  return memory->begin() + offset;
}

const unsigned char* SharedPlace::Read(int64_t bytes, int64_t alignment) const {
  CheckInside(*this, bytes, alignment, "read");
  const Conflict conflict = memory->shadow().Read(Current(), offset, bytes);
  if (conflict.kind != Conflict::Kind::kNone) Check(conflict, "read", NameOf(*memory));
  return memory->begin() + offset;
}

unsigned char* SharedPlace::Write(int64_t bytes, int64_t alignment) const {
  CheckInside(*this, bytes, alignment, "write");
  const Conflict conflict = memory->shadow().Write(Current(), offset, bytes);
  if (conflict.kind != Conflict::Kind::kNone) Check(conflict, "write", NameOf(*memory));
  return memory->begin() + offset;
}

}  // namespace lstm_fast::emulation
