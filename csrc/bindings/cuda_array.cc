#include "bindings/cuda_array.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "cuda/runtime.h"

namespace lstm_fast::cuda {
namespace {

namespace py = pybind11;

using py::literals::operator""_a;

// The structs of DLPack's C interface (dlpack.h), before version 1 and in it.
struct DlDevice {
  int32_t type, ordinal;
};
struct DlType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t rank;
  DlType type;
  const int64_t* shape;
  const int64_t* strides;  // elements; null: dense and row-major
  uint64_t offset;         // bytes from data to the first element
};
struct DlManaged {
  DlTensor tensor;
  void* context;
  void (*deleter)(DlManaged*);
};
struct DlVersioned {
  uint32_t major, minor;
  void* context;
  void (*deleter)(DlVersioned*);
  uint64_t flags;
  DlTensor tensor;
};

constexpr int32_t kDlCuda = 2;
constexpr uint8_t kDlBool = 6;
constexpr uint32_t kDlMajor = 1;
constexpr uint64_t kDlReadOnly = 1, kDlCopied = 2;

// What either protocol says of an array.
struct Description {
  void* data;
  std::string dtype;
  std::vector<int64_t> shape, strides;  // strides: none where it is dense and row-major
  int64_t element;                      // in the unit of strides
  const char* unwritable;               // why it cannot be written to, or null
};

Array Check(const Description& found, const Wanted& wanted) {
  if (found.dtype != wanted.dtype) Refuse(wanted.name, "dtype " + wanted.dtype, found.dtype);
  if (wanted.written && found.unwritable) Refuse(wanted.name, "an array to write to", found.unwritable);
  Array array;
  array.data = found.data;
  array.present = true;
  array.rank = static_cast<int>(found.shape.size());
  std::copy_n(found.shape.begin(), std::min(found.shape.size(), array.shape.size()), array.shape.begin());
  const bool empty = std::find(found.shape.begin(), found.shape.end(), 0) != found.shape.end();
  auto step = static_cast<uint64_t>(found.element);
  for (size_t i = found.strides.size(); i-- > 0 && !empty;) {
    if (found.shape[i] != 1 && static_cast<uint64_t>(found.strides[i]) != step) {
      Refuse(wanted.name, "a dense, row-major array",
             Found(array) + " with stride " + std::to_string(found.strides[i]) + " along axis " + std::to_string(i));
    }
    step *= static_cast<uint64_t>(found.shape[i]);
  }
  return array;
}

std::string NameOf(const DlType& type) {
  constexpr const char* kKinds[] = {"int", "uint", "float", "handle", "bfloat", "complex", "bool"};
  if (type.code >= std::size(kKinds)) return "DLPack's type code " + std::to_string(type.code);
  std::string name = kKinds[type.code];
  if (type.code != kDlBool || type.bits != 8) name += std::to_string(type.bits);
  return type.lanes == 1 ? name : name + "x" + std::to_string(type.lanes);
}

// From NumPy's type string, such as <f4.
std::string NameOf(const std::string& typestr) {
  const std::pair<char, const char*> kinds[] = {{'f', "float"}, {'i', "int"}, {'u', "uint"}, {'b', "bool"}};
  if (typestr == "|b1") return "bool";
  for (const auto& [letter, kind] : kinds) {
    if (typestr.size() == 3 && (typestr[0] == '<' || typestr[0] == '|') && typestr[1] == letter) {
      return kind + std::to_string(8 * (typestr[2] - '0'));
    }
  }
  return typestr;
}

// Both protocols say 1 for the default stream: their 0 is no stream.
uintptr_t NumberOf(Stream stream) { return stream ? reinterpret_cast<uintptr_t>(stream) : 1; }

// Takes what a capsule holds, if it is of this kind; whoever takes it calls its deleter, and renames the capsule, which
// would call it too.
template <class Managed>
std::shared_ptr<Managed> Take(const py::object& capsule, const char* name, const char* used) {
  if (!PyCapsule_IsValid(capsule.ptr(), name)) return nullptr;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (PyCapsule_SetName(capsule.ptr(), used) != 0) throw py::error_already_set();
  return {managed, [](Managed* taken) {
            if (taken->deleter) taken->deleter(taken);
          }};
}

KeptArray ReadDlpack(const py::object& object, const Wanted& wanted, Stream stream) {
  const auto check_device = [&](int type, int ordinal) {
    if (type == kDlCuda && ordinal == wanted.device) return;
    Refuse(wanted.name, "an array on CUDA device " + std::to_string(wanted.device),
           "one on DLPack's device " + std::to_string(ordinal) + " of type " + std::to_string(type));
  };
  const auto [type, ordinal] = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  check_device(type, ordinal);  // others may not know streams
  const py::object dlpack = object.attr("__dlpack__");
  py::object capsule;
  try {
    capsule = dlpack("stream"_a = NumberOf(stream), "max_version"_a = py::make_tuple(kDlMajor, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = dlpack("stream"_a = NumberOf(stream));  // a framework from before DLPack 1
  }
  KeptArray kept;
  const DlTensor* tensor = nullptr;
  Description found{};
  if (auto versioned = Take<DlVersioned>(capsule, "dltensor_versioned", "used_dltensor_versioned")) {
    if (versioned->major != kDlMajor) Refuse(wanted.name, "DLPack 1", "DLPack " + std::to_string(versioned->major));
    if (versioned->flags & kDlCopied) found.unwritable = "a copy";
    if (versioned->flags & kDlReadOnly) found.unwritable = "a read-only one";
    tensor = &versioned->tensor;
    kept.keeper = std::move(versioned);
  } else if (auto managed = Take<DlManaged>(capsule, "dltensor", "used_dltensor")) {
    tensor = &managed->tensor;
    kept.keeper = std::move(managed);
  } else {
    Refuse(wanted.name, "a capsule of DLPack that nobody has used", py::repr(capsule).cast<std::string>());
  }
  check_device(tensor->device.type, tensor->device.ordinal);
  found.data = static_cast<char*>(tensor->data) + tensor->offset;
  found.dtype = NameOf(tensor->type);
  found.shape.assign(tensor->shape, tensor->shape + tensor->rank);
  if (tensor->strides) found.strides.assign(tensor->strides, tensor->strides + tensor->rank);
  found.element = 1;
  kept.array = Check(found, wanted);
  return kept;
}

KeptArray ReadInterface(const py::object& object, const Wanted& wanted, Stream stream) {
  const auto interface = object.attr("__cuda_array_interface__").cast<py::dict>();
  const auto entry = [&](const char* name) { return interface.attr("get")(name); };
  const auto version = interface["version"].cast<int>();
  if (version < 2) Refuse(wanted.name, "__cuda_array_interface__ of version 2 or later", std::to_string(version));
  if (!entry("mask").is_none()) Refuse(wanted.name, "an array without a mask of its own", "one that has it");
  const auto typestr = interface["typestr"].cast<std::string>();
  const auto [address, read_only] = interface["data"].cast<std::pair<uintptr_t, bool>>();
  Description found{};
  found.data = reinterpret_cast<void*>(address);
  found.dtype = NameOf(typestr);
  found.shape = interface["shape"].cast<std::vector<int64_t>>();
  if (!entry("strides").is_none()) found.strides = entry("strides").cast<std::vector<int64_t>>();
  found.element = typestr.empty() ? 0 : typestr.back() - '0';
  if (read_only) found.unwritable = "a read-only one";
  if (!found.strides.empty() && found.strides.size() != found.shape.size()) {
    Refuse(wanted.name, "as many strides as sizes", std::to_string(found.strides.size()));
  }
  KeptArray kept;
  kept.array = Check(found, wanted);
  const DeviceGuard current(wanted.device);
  const int device = address ? DeviceOfMemory(found.data) : wanted.device;
  if (device != wanted.device) {
    Refuse(wanted.name, "an array on CUDA device " + std::to_string(wanted.device),
           device < 0 ? "one on no CUDA device" : "one on CUDA device " + std::to_string(device));
  }
  if (!entry("stream").is_none()) {
    const auto theirs = entry("stream").cast<uintptr_t>();
    if (theirs == 0) Refuse(wanted.name, "a stream or none in __cuda_array_interface__", "0");
    if (theirs != NumberOf(stream)) Await(stream, reinterpret_cast<Stream>(theirs));
  }
  return kept;
}

}  // namespace

KeptArray ReadArray(const py::object& object, const Wanted& wanted, Stream stream) {
  try {
    if (py::hasattr(object, "__dlpack__")) return ReadDlpack(object, wanted, stream);
    if (py::hasattr(object, "__cuda_array_interface__")) return ReadInterface(object, wanted, stream);
  } catch (py::error_already_set& error) {
    py::raise_from(error, PyExc_ValueError, (wanted.name + ": expected an array; it cannot be read").c_str());
    throw py::error_already_set();
  } catch (const py::cast_error& error) {
    Refuse(wanted.name, "an array that keeps to its protocol", error.what());
  }
  Refuse(wanted.name, "an address, or an array with __dlpack__ or __cuda_array_interface__",
         py::type::of(object).attr("__name__").cast<std::string>());
}

}  // namespace lstm_fast::cuda
