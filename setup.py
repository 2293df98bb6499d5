"""Builds the compiled part with CMake, into the package's own folder.

Environment:
    CMAKE_ARGS                  -D options, see below
    CMAKE_BUILD_TYPE            Release or Debug
    CMAKE_BUILD_PARALLEL_LEVEL  default: the number of processors

Some of the options:
    -DLSTM_FAST_CUDA=AUTO        CUDA kernels if nvcc is found; or ON, OFF
    -DLSTM_FAST_CUDA_ARCHITECTURES="80-real;90-real;90-virtual"
    -DLSTM_FAST_TENSORFLOW=AUTO  the ops for TensorFlow on GPUs if TensorFlow is installed; or ON, OFF
    -DLSTM_FAST_SANITIZE=address
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
    """All that CMakeLists.txt builds. Its name is that of the Python module in it, because setuptools wants one."""

    def __init__(self, name: str) -> None:
        super().__init__(name, sources=[])


class CMakeBuild(build_ext):
    """Configures, builds and installs with CMake, into the folder where setuptools wants the extension module."""

    def build_extension(self, ext: Extension) -> None:
        """Builds everything: `ext` is the only extension."""
        destination = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        # The folder stays between builds, so that a change compiles only what it touches. -U drops the last options.
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
        # Profilers and debuggers need the symbols, users do not. So only a build in place keeps them.
        strip = ["--strip"] if build_type == "Release" and not self.editable_mode else []
        # In an editable installation, setuptools itself copies nothing but the extension module.
        for prefix in [destination, *([HERE / "lstm_fast"] if self.editable_mode else [])]:
            subprocess.run(["cmake", "--install", str(build), "--prefix", str(prefix), *strip], check=True)


setup(ext_modules=[CMakeExtension("lstm_fast._core")], cmdclass={"build_ext": CMakeBuild})
