"""What llama-cpp-python's pinned source distribution holds beside its code: its tests, and chat templates of models.

Nothing of it is in this repository. The distribution is the one that the build has fetched.
"""

from __future__ import annotations

import functools
import shutil
import tarfile
from pathlib import Path, PurePosixPath

import vendored

FOLDERS = {"tests": "tests", "templates": "vendor/llama.cpp/models/templates"}
_VOCABULARY = "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"  # which its tests open, from its own folder


@functools.cache
def root() -> Path:
    """The distribution, as much of it as is wanted; unpacked once into the build folder."""
    pin = vendored.fetch.read_pin(vendored.ROOT / "vendor" / "llama_cpp.pin")
    unpacked: Path = vendored.ROOT / "build" / "upstream" / pin["version"]
    if not unpacked.exists():
        partial = unpacked.with_name(f"{unpacked.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _unpack(vendored.fetch.find_sdist(pin, vendored.ROOT / "build" / "download"), partial)
        partial.rename(unpacked)
    return unpacked


def folder(name: str) -> Path:
    """tests or templates."""
    return root() / FOLDERS[name]


def _unpack(archive: Path, target: Path) -> None:
    wanted = (*(f"{path}/" for path in FOLDERS.values()), _VOCABULARY)
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            if path.startswith(wanted) and member.isfile() and ".." not in PurePosixPath(path).parts:
                out = target / path
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
