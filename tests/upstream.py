"""What llama-cpp-python's pinned source distribution holds beside its code: its tests, and chat templates of models.

Nothing of it is in this repository. The distribution is the one that the build has fetched.
"""

from __future__ import annotations

import functools
import shutil
import tarfile
from pathlib import Path, PurePosixPath

import vendored

WANTED = {"tests": "tests/", "templates": "vendor/llama.cpp/models/templates/"}


@functools.cache
def folder(name: str) -> Path:
    """tests or templates, unpacked once into the build folder."""
    pin = vendored.fetch.read_pin(vendored.ROOT / "vendor" / "llama_cpp.pin")
    unpacked: Path = vendored.ROOT / "build" / "upstream" / pin["version"]
    if not unpacked.exists():
        partial = unpacked.with_name(f"{unpacked.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _unpack(vendored.fetch.find_sdist(pin, vendored.ROOT / "build" / "download"), partial)
        partial.rename(unpacked)
    return unpacked / name


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            _, _, path = member.name.partition("/")
            for name, prefix in WANTED.items():
                if path.startswith(prefix) and member.isfile() and ".." not in PurePosixPath(path).parts:
                    out = target / name / path[len(prefix) :]
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
