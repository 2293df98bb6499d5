// The memories of the device, and pointers into them that check every access. What is wrong is raised as
// std::runtime_error, in words that name the kernel, the block, the thread and the place.
#ifndef LSTM_FAST_TESTS_EMULATION_MEMORY_H_
#define LSTM_FAST_TESTS_EMULATION_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "shadow.h"

namespace lstm_fast::emulation {

enum class Access {
  kRead,
  kReadWrite,
  kScratch,  // as kReadWrite, and not defined before a kernel or Clear() writes it
};

// Makes an array of the host global memory of the device for as long as it lives, for launches from the same thread of
// the host. Arrays that are only read may overlap.
class GlobalMemory {
 public:
  GlobalMemory(const void* pointer, int64_t bytes, Access access, std::string name = "an array");
  GlobalMemory(const GlobalMemory&) = delete;
  GlobalMemory& operator=(const GlobalMemory&) = delete;
  ~GlobalMemory();

  // The memory that this is in, or null.
  static GlobalMemory* Find(const void* pointer);

  const std::string& name() const { return name_; }
  unsigned char* begin() const { return begin_; }
  int64_t bytes() const { return bytes_; }
  bool writable() const { return access_ != Access::kRead; }
  Shadow& shadow() { return shadow_; }

 private:
  unsigned char* begin_;
  int64_t bytes_;
  Access access_;
  std::string name_;
  Shadow shadow_;  // of nothing, where nothing can be written
};

// Of one block.
class SharedMemory {
 public:
  SharedMemory(int block, int64_t bytes, uint32_t threads);

  int block() const { return block_; }
  unsigned char* begin() { return reinterpret_cast<unsigned char*>(data_.data()); }
  int64_t bytes() const { return bytes_; }
  Shadow& shadow() { return shadow_; }

  bool ended = false;                     // the block has
  std::map<uint32_t, uint32_t> visitors;  // threads of other blocks, and when they last accessed this

 private:
  int block_;
  int64_t bytes_;
  std::vector<std::max_align_t> data_;
  Shadow shadow_;
};

// Where a pointer points, without a type. Only an access is checked, so that pointers may go past the end.
struct GlobalPlace {
  GlobalMemory* memory = nullptr;
  int64_t offset = 0;

  void CheckInside(int64_t bytes, int64_t alignment, const char* access) const;
  const unsigned char* Read(int64_t bytes, int64_t alignment) const;
  unsigned char* Write(int64_t bytes, int64_t alignment) const;
};

GlobalPlace InGlobal(const void* pointer);

struct SharedPlace {
  SharedMemory* memory = nullptr;
  int64_t offset = 0;
  int64_t begin = 0, end = 0;  // of what InShared() was asked for

  const unsigned char* Read(int64_t bytes, int64_t alignment) const;
  unsigned char* Write(int64_t bytes, int64_t alignment) const;
};

// What an element is until it is read or written. It turns into a value when used, and cannot be kept: `auto x = p[i]`
// does not compile where x is used.
template <class Place, class T>
class Element {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  using Value = std::remove_const_t<T>;

  explicit Element(const Place& place) : place_(place) {}

  operator Value() && { return Get(); }  // NOLINT: implicit, as reading is
  void operator=(const Value& value) && { Set(value); }
  void operator=(Element&& other) && { Set(other.Get()); }
  void operator+=(const Value& value) && { Set(Get() + value); }

 private:
  Value Get() const {
    Value value;
    std::memcpy(&value, place_.Read(sizeof(T), alignof(T)), sizeof(T));
    return value;
  }
  void Set(const Value& value) const {
    static_assert(!std::is_const_v<T>, "a write through a pointer to const");
    static_assert(sizeof(T) >= 2, "races are found between pieces of two bytes: write no single ones");
    std::memcpy(place_.Write(sizeof(T), alignof(T)), &value, sizeof(T));
  }

  Place place_;
};

template <class Place, class T>
class Pointer {
 public:
  Pointer() = default;
  Pointer(std::nullptr_t) {}  // NOLINT: implicit, as for pointers
  explicit Pointer(const Place& place) : place_(place) {}

  template <class U, class = std::enable_if_t<std::is_same_v<T, const U>>>
  Pointer(const Pointer<Place, U>& other) : place_(other.place()) {}  // NOLINT: implicit
  const Place& place() const { return place_; }

  Element<Place, T> operator[](int64_t i) const { return Element<Place, T>((*this + i).place_); }
  Element<Place, T> operator*() const { return Element<Place, T>(place_); }

  Pointer operator+(int64_t n) const {
    Pointer sum = *this;
    sum.place_.offset += n * static_cast<int64_t>(sizeof(T));
    return sum;
  }
  Pointer operator-(int64_t n) const { return *this + -n; }
  Pointer& operator+=(int64_t n) { return *this = *this + n; }
  Pointer& operator-=(int64_t n) { return *this = *this - n; }
  Pointer& operator++() { return *this += 1; }

 private:
  Place place_;
};

}  // namespace lstm_fast::emulation

#endif  // LSTM_FAST_TESTS_EMULATION_MEMORY_H_
