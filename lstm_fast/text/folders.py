"""Folders with a sub-folder of .txt files for each class, such as aclImdb; also inside an archive."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from lstm_fast.errors import DataError
from lstm_fast.text.tables import decode

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
UNLABELLED = "unsup"  # in aclImdb, beside the folders of the classes

# A class, the name of a file, and the file's content or its path.
Content = bytes | Path
Files = list[tuple[str, str, Content]]


def in_folder(path: Path) -> dict[str | None, Files]:
    """Returns the files below a folder by split: "train" and "test", or None if there is no split.

    The files are not read yet: aclImdb has 50,000 files without a class.

    Raises:
        DataError: The classes lie in more than one folder, or a split lacks a class.
    """
    found = ((PurePosixPath(file.relative_to(path).as_posix()), file) for file in path.rglob("*.txt"))
    return _sorted_out(path, dict(found))


def in_archive(path: Path) -> dict[str | None, Files]:
    """Returns the files of a `.tar.gz` as `in_folder` does; nothing is unpacked on the disk."""
    try:
        with tarfile.open(path) as archive:
            return _sorted_out(path, dict(_members(archive)))
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile adds a line for each kind of compression
        raise DataError(f"data: expected a whole .tar.gz archive, found {path}: {reason}") from error


def contents(files: Files, path: Path) -> Iterator[tuple[str, str, str]]:
    """Yields each file's class, name and text.

    Raises:
        DataError: A file is not UTF-8.
    """
    for label, name, content in files:
        data = content if isinstance(content, bytes) else content.read_bytes()
        yield label, name, decode(data, path / name).strip()


def _members(archive: tarfile.TarFile) -> Iterator[tuple[PurePosixPath, bytes]]:
    for member in archive:
        name = PurePosixPath(member.name)
        wanted = name.suffix == ".txt" and name.parent.name != UNLABELLED
        if member.isfile() and wanted and (file := archive.extractfile(member)):
            yield name, file.read()


def _sorted_out(path: Path, found: Mapping[PurePosixPath, Content]) -> dict[str | None, Files]:
    # By the folder above the classes: the files of each class.
    above: dict[PurePosixPath, dict[str, Files]] = {}
    for name, content in sorted(found.items()):
        label = name.parent.name
        if label and label != UNLABELLED:
            above.setdefault(name.parent.parent, {}).setdefault(label, []).append((label, str(name), content))
    splits: dict[str | None, dict[str, Files]] = {}
    for split, names in (("train", TRAIN_NAMES), ("test", TEST_NAMES)):
        folders = [folder for folder in above if folder.name.lower() in names]
        if len(folders) > 1:
            raise DataError(f"data: expected one folder {split!r} with the classes in {path}, found {_list(folders)}")
        if folders:
            splits[split] = above[folders[0]]
    if not splits and above:
        # There may be other texts, such as a README in another folder.
        folders = [folder for folder, classes in above.items() if len(classes) > 1] or list(above)
        if len(folders) > 1:
            raise DataError(f"data: expected all classes side by side in {path}, found classes in {_list(folders)}")
        splits[None] = above[folders[0]]
    labels = sorted({label for classes in splits.values() for label in classes})
    missing = [f"{split}/{label}" for split, classes in splits.items() for label in labels if label not in classes]
    if missing:
        raise DataError(
            f"data: expected the same classes in each split, found no .txt in {', '.join(missing)} of {path}"
        )
    return {split: [file for label in labels for file in classes[label]] for split, classes in splits.items()}


def _list(folders: list[PurePosixPath]) -> str:
    return ", ".join(map(str, folders[:5]))
