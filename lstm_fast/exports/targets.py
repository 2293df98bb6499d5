"""Where a file goes: what its path may be, a temporary folder beside it, and the move to its place."""

import itertools
import os
import pathlib
import tempfile

from lstm_fast.exports.formats import SUFFIXES

# How saved_model.pb begins: the version of its schema, which has never changed.
_SAVED_MODEL = b"\x08\x01"


def checked(path: pathlib.Path, format: str) -> pathlib.Path:
    """Returns where to write. Raises ValueError rather than replace something that the user may need."""
    if path.suffix != SUFFIXES[format] and (SUFFIXES[format] or path.suffix in (*SUFFIXES.values(), ".keras")):
        found = next((name for name, suffix in SUFFIXES.items() if suffix and suffix == path.suffix), None)
        expected = f"a name that ends in {SUFFIXES[format]}" if SUFFIXES[format] else "the name of a folder"
        raise ValueError(
            f"export: `path`: expected {expected} for the format {format}, found {str(path)!r}"
            + (f"; did you mean format={found!r}?" if found else "")
        )
    if not path.parent.is_dir():
        raise ValueError(f"export: `path`: there is no folder {str(path.parent)!r}: make it first")
    target = path.resolve() if path.is_dir() else path.parent.resolve() / path.name
    if SUFFIXES[format]:
        if path.is_dir():
            raise ValueError(f"export: `path`: expected the name of a file, found the folder {str(path)!r}")
        beside = path.with_suffix(".bin")
        if format == "openvino" and beside.is_dir():
            raise ValueError(
                f"export: `path`: expected no folder where the weights go, found {str(beside)!r}: choose another name"
            )
        if format == "openvino" and beside.exists() and not _is_of_openvino(path):
            raise ValueError(
                f"export: `path`: {str(beside)!r}, which would be replaced, is not of an OpenVINO file: choose another "
                "name"
            )
        return target
    if path.is_symlink():
        raise ValueError(
            f"export: `path`: expected the name of a folder, found the link {str(path)!r}: name its target"
        )
    if path.is_file():
        raise ValueError(f"export: `path`: expected the name of a folder, found the file {str(path)!r}")
    if target in (here := pathlib.Path.cwd(), *here.parents):
        raise ValueError(
            f"export: `path`: {str(path)!r} is the current folder, or one around it: give the name of a folder in it"
        )
    if path.is_dir() and (odd := beside_a_saved_model(path)) is not None:
        raise ValueError(
            f"export: `path`: {str(path)!r} is a folder with other things in it, such as {odd!r}: choose another name"
        )
    return target


def _is_of_openvino(path: pathlib.Path) -> bool:
    """Whether a file is the `.xml` of a model. Then the `.bin` beside it is the model's, too."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"<net" in file.read(1000)


def beside_a_saved_model(folder: pathlib.Path) -> str | None:
    """Returns the first thing in a folder that does not belong to a SavedModel; None if there is nothing else.

    `assets.extra` does not belong to it, because users fill it. Neither does `keras_metadata.pb`, because Keras 2 can
    go on training such a model.
    """
    graph = folder / "saved_model.pb"
    content = graph.read_bytes() if graph.is_file() else b""

    def is_known(path: pathlib.Path) -> bool:
        match path.relative_to(folder).parts:
            case ("saved_model.pb" | "fingerprint.pb",):
                return path.is_file()
            case ("variables" | "assets",):
                return path.is_dir()
            case ("variables", name):
                return path.is_file() and name.startswith("variables.")
            case ("assets", name):  # The graph lists assets: by the second field of a message, of less than 128 bytes.
                told = os.fsencode(name)
                return path.is_file() and len(told) < 128 and bytes([0x12, len(told)]) + told in content
        return False

    inner = (path for name in ("variables", "assets") for path in sorted((folder / name).glob("*")))
    every = itertools.chain(sorted(folder.iterdir()), inner)
    is_model = content.startswith(_SAVED_MODEL)
    odd = next((path for path in every if not (is_model and is_known(path))), None)
    return None if odd is None else odd.relative_to(folder).as_posix()


def temporary_folder(folder: pathlib.Path) -> tempfile.TemporaryDirectory[str]:
    """Returns a temporary folder inside another one, so that files can be moved there at once."""
    try:
        return tempfile.TemporaryDirectory(prefix=".lstm_fast-", dir=folder)
    except OSError as error:
        raise ValueError(
            f"export: `path`: expected a folder that can be written, found {str(folder)!r} ({error.strerror}): choose "
            "another one"
        ) from error


def move(written: pathlib.Path, path: pathlib.Path) -> None:
    """Moves the checked file or folder to its place."""
    if path.is_dir():
        # The old folder goes into the temporary folder, and is removed with it.
        old = written.with_name("old")
        os.replace(path, old)
        try:
            os.replace(written, path)
        except OSError:
            os.replace(old, path)
            raise
        return
    if (beside := written.with_suffix(".bin")).exists():  # of OpenVINO
        os.replace(beside, path.with_suffix(".bin"))
    os.replace(written, path)
