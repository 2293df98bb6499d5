"""Packs TensorFlow into pieces that can be carried to a machine without a package index, and unpacks them there.

python -m benchmarks.carry pack --output build/pieces     # here; --site FOLDER: packages of another Python
python -m benchmarks.carry unpack --pieces build/pieces --output build/environment     # there
build/environment/bin/python -m benchmarks.gpu tensorflow --output results

What is packed are the files of `tensorflow` and of what it needs, and the CUDA runtime that it was built for. Of the
headers there are only those that lstm_fast's ops include. Other CUDA libraries are those of the machine, under the
names that TensorFlow looks for. Both sides need the command zstd; the other side can do with pyarrow instead.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from benchmarks.command import parser

ROOT = Path(__file__).parents[1]
PIECE_BYTES = 62_000_000
WINDOW = 27  # of zstd's long mode, as a power of two: the most that is unpacked without being asked to
PACKED = ("tensorflow", "nvidia-cuda-runtime-cu12")
NOT_NEEDED = ("libclang", "tensorboard")  # TensorFlow asks for them and runs without
HEADERS = ("tensorflow", "include")
OPS = ROOT / "csrc" / "bindings" / "tensorflow_gpu.cc"
# The versions that TensorFlow's wheels for CUDA 12 look for, by library.
SOUGHT = {
    "cudart": 12,
    "cublas": 12,
    "cublasLt": 12,
    "cufft": 11,
    "curand": 10,
    "cusolver": 11,
    "cusparse": 12,
    "cudnn": 9,
    "nccl": 2,
    "cupti": 12,
    "nvJitLink": 12,
}


def pack(
    site: Path, folder: Path, names: Sequence[str] = PACKED, without: Sequence[str] = (), level: int = 12
) -> list[Path]:
    """Writes pieces of some of the packages that are installed in a folder, and returns them.

    Args:
        site: the folder.
        folder: of the pieces.
        names: of packages, which come with what they need,
        without: these.
        level: of zstd.
    """
    zstd = shutil.which("zstd")
    if zstd is None:
        raise OSError("zstd: expected the command, found none")
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("piece-*"):
        stale.unlink()
    whole = folder / "whole"
    command = [zstd, "--quiet", f"-{level}", f"--long={WINDOW}", "-T0", "--stdout"]
    with whole.open("wb") as file, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file) as process:
        with tarfile.open(fileobj=process.stdin, mode="w|") as archive:
            for path in files(site, names, without):
                archive.add(site / path, str(path), recursive=False)
        assert process.stdin is not None
        process.stdin.close()
    if process.returncode != 0:
        raise OSError(f"zstd: exit status {process.returncode}")
    pieces = []
    with whole.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            pieces.append(folder / f"piece-{len(pieces):02}")
            pieces[-1].write_bytes(piece)
    whole.unlink()
    return pieces


def files(site: Path, names: Sequence[str], without: Sequence[str] = ()) -> Iterator[Path]:
    """Yields the files of packages in a folder and of what they need, relative to the folder."""
    wanted = _needed_headers(site)
    for distribution in _closure(site, names, {*NOT_NEEDED, *map(_normal, without)}):
        for file in distribution.files or ():
            path = Path(*file.parts)
            header = path.parts[:2] == HEADERS and path not in wanted
            if ".." in path.parts or path.suffix == ".pyc" or header or not (site / path).is_file():
                continue  # commands are outside of the folder
            yield path


def _closure(site: Path, names: Sequence[str], without: set[str]) -> list[importlib.metadata.Distribution]:
    installed = {_normal(each.metadata["Name"]): each for each in importlib.metadata.distributions(path=[str(site)])}
    found: dict[str, importlib.metadata.Distribution] = {}
    missing = [name for name in names if _normal(name) not in installed]
    if missing:
        raise OSError(f"{site}: expected the packages {', '.join(names)}, found no {', '.join(missing)}")
    left = [_normal(name) for name in names]
    while left:
        name = left.pop()
        # A package that is not there was not wanted: somebody installed packages one by one.
        if name in found or name in without or name not in installed:
            continue
        found[name] = installed[name]
        needs = (need for need in installed[name].requires or () if "extra ==" not in need)
        left += [_normal(match[0]) for need in needs if (match := re.match(r"[\w.-]+", need))]
    return list(found.values())


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed_headers(site: Path) -> set[Path]:
    """What the compiler reads of TensorFlow's headers, relative to the folder."""
    include = site.joinpath(*HEADERS)
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if not include.is_dir() or compiler is None:
        return set()
    folders = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc' / 'include'}", f"-I{include}"]
    done = subprocess.run([compiler, "-std=c++17", "-M", *folders, OPS], capture_output=True, text=True, check=True)
    paths = (Path(word) for word in done.stdout.split() if word.startswith(str(include)))
    return {Path(os.path.normpath(path)).relative_to(site) for path in paths}


def unpack(pieces: Path, environment: Path) -> Path:
    """Makes an environment of this Python with what is in a folder of pieces, before its own packages.

    Returns:
        Its Python. What has been unpacked before stays as it is.
    """
    found = sorted(pieces.glob("piece-*"))
    if not found:
        raise OSError(f"{pieces}: expected piece-00 and others of benchmarks.carry, found none")
    python, mark = environment / "bin" / "python", environment / "pieces.txt"
    contents = "".join(f"{piece.name} {piece.stat().st_size}\n" for piece in found)
    if mark.exists() and mark.read_text() == contents:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(environment)], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip())
    with _decompressed(found) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extractall(site, filter="data")
    own = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "own.pth").write_text("".join(f"{path}\n" for path in own))
    mark.write_text(contents)
    return python


@contextmanager
def _decompressed(pieces: Sequence[Path]) -> Iterator[IO[bytes]]:
    with subprocess.Popen(["cat", *map(str, pieces)], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        if zstd := shutil.which("zstd"):
            command = [zstd, "--decompress", "--stdout", f"--long={WINDOW}"]
            with subprocess.Popen(command, stdin=cat.stdout, stdout=subprocess.PIPE) as process:
                cat.stdout.close()
                assert process.stdout is not None
                yield process.stdout
        elif importlib.util.find_spec("pyarrow"):
            arrow: Any = importlib.import_module("pyarrow")
            yield arrow.CompressedInputStream(arrow.PythonFile(cat.stdout), "zstd")
        else:
            raise OSError("expected the command zstd or the package pyarrow, found neither")


def link_libraries(folder: Path, search: Sequence[Path]) -> tuple[list[Path], dict[str, str]]:
    """Gives the CUDA libraries of this machine the names that TensorFlow looks for, where they have others.

    Args:
        folder: for the links.
        search: folders of packages, and of libraries.

    Returns:
        Folders for LD_LIBRARY_PATH; and the file of each library, "none" where there is none.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    places = [place for each in search for place in (each, *sorted(each.glob("nvidia/*/lib"))) if place.is_dir()]
    chosen: dict[str, str] = {}
    used: dict[Path, None] = {folder: None}
    for name, version in SOUGHT.items():
        found = [path for place in places for path in sorted(place.glob(f"lib{name}.so.*"))]
        right = [path for path in found if path.name == f"lib{name}.so.{version}"]
        others = [path for path in found if re.fullmatch(rf"lib{name}\.so\.\d+", path.name)]
        # Another release of the runtime itself has other structures.
        path = next(iter(right if name == "cudart" else right or others), None)
        chosen[f"lib{name}.so.{version}"] = f"{path.name} in {path.parent}" if path else "none"
        if path:
            (folder / f"lib{name}.so.{version}").symlink_to(path)
            used[path.parent] = None  # what the library itself needs is beside it
    return list(used), chosen


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("carry", __doc__)
    options.add_argument("what", choices=("pack", "unpack"))
    options.add_argument("--site", type=Path, default=Path(sysconfig.get_path("purelib")), help="installed packages")
    options.add_argument("--packages", nargs="+", default=PACKED, help="what to pack, with what it needs")
    options.add_argument("--without", nargs="+", default=(), help="packages that are there already")
    options.add_argument("--level", type=int, default=12, help="of zstd")
    options.add_argument("--pieces", type=Path, default=ROOT / "build" / "pieces", help="folder of pieces to unpack")
    options.add_argument("--output", type=Path, required=True, help="folder for pieces, or for the environment")
    given = options.parse_args(arguments)
    try:
        if given.what == "pack":
            pieces = pack(given.site.resolve(), given.output, given.packages, given.without, given.level)
            print(f"{len(pieces)} pieces, {sum(piece.stat().st_size for piece in pieces) / 1e6:.0f} MB")
        else:
            print(unpack(given.pieces, given.output))
    except OSError as error:
        options.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
