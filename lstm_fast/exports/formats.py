"""The formats of files: their names, and the packages that write and run them."""

from typing import Literal, get_args

Format = Literal["saved_model", "onnx", "litert", "openvino"]
DType = Literal["float32", "float64"]

DTYPES = get_args(DType)
SUFFIXES = {"saved_model": "", "onnx": ".onnx", "litert": ".tflite", "openvino": ".xml"}

# The packages that write a format, by Python's name and pip's, and the package that runs it.
WRITTEN_BY = {
    "saved_model": {"tensorflow": "tensorflow"},
    "onnx": {"tensorflow": "tensorflow", "tf2onnx": "tf2onnx", "onnx": "onnx"},
    "litert": {"tensorflow": "tensorflow"},
    "openvino": {"tensorflow": "tensorflow", "openvino": "openvino"},
}
KERAS = {"litert": (3, 13)}  # the first release that writes the format
RUN_BY = {"saved_model": "tensorflow", "onnx": "onnxruntime", "litert": "tensorflow", "openvino": "openvino"}
