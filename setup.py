"""Builds the compiled part with CMake, into the package's own folder.

Environment: CMAKE_ARGS (more -D options), CMAKE_BUILD_TYPE (Release or Debug), CMAKE_BUILD_PARALLEL_LEVEL (default: the
number of processors). Options, among others: -DLSTM_FAST_CUDA=AUTO (CUDA kernels where nvcc is found; or ON, OFF),
-DLSTM_FAST_CUDA_ARCHITECTURES="80-real;90-real;90-virtual", -DLSTM_FAST_TENSORFLOW=AUTO (its ops on GPUs where
TensorFlow is installed; or ON, OFF), -DLSTM_FAST_SANITIZE=address.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent


class CMakeExtension(Extension):
    """Everything that CMakeLists.txt builds; setuptools knows it by the name of the Python module among it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    """Configures, builds and installs with CMake beside where setuptools wants the extension module."""

    def build_extension(self, ext: Extension) -> None:
        """Builds everything, whatever `ext` is: there is only one."""
        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # Kept between builds, so that a change compiles what it touches; -U forgets the options of the last one.
        build = HERE / "build" / f"cmake-{sys.implementation.cache_tag}"
        build_type = os.environ.get("CMAKE_BUILD_TYPE", "Debug" if self.debug else "Release")
        import pybind11

        configure = [
            f"-DCMAKE_BUILD_TYPE={build_type}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DLSTM_FAST_VERSION={self.distribution.get_version()}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
        subprocess.run(["cmake", "-ULSTM_FAST_*", "-S", str(HERE), "-B", str(build), *configure], check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", jobs], check=True)
        # Profilers and debuggers want the symbols, users do not: what is built in place keeps them.
        strip = ["--strip"] if build_type == "Release" and not self.editable_mode else []
        # In an editable installation setuptools itself only brings over the extension module.
        for prefix in [destination, *([HERE / "lstm_fast"] if self.editable_mode else [])]:
            subprocess.run(["cmake", "--install", str(build), "--prefix", str(prefix), *strip], check=True)


setup(ext_modules=[CMakeExtension("lstm_fast._core")], cmdclass={"build_ext": CMakeBuild})
