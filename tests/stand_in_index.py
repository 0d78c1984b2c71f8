"""A package index of a few small files: a folder that pip is told to look in, and nowhere else."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from compresskv_edge.model.catalogue import CatalogueModel, HubFile, Part

BYTES = bytes(range(256)) * 3 + b"the end"


def use(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """The folder is pip's only source from now on."""
    folder.mkdir(exist_ok=True)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(folder / "no-pip.conf"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def model(content: bytes = BYTES, terms: str | None = None, n_parts: int = 3) -> CatalogueModel:
    """In packages tiny-part1, tiny-part2 and so on, whose files have this content when they are joined."""
    parts = tuple(
        Part(f"tiny-part{i}", "1.0", f"tiny_part{i}/data/part0{i}.bin", len(piece))
        for i, piece in enumerate(pieces(content, n_parts), 1)
    )
    sha256 = hashlib.sha256(content).hexdigest()
    hub = HubFile("someone/tiny", "tiny.gguf")
    return CatalogueModel("tiny", "a test", "MIT", len(content), sha256, hub, parts, terms)


def pieces(content: bytes = BYTES, n_parts: int = 3) -> Sequence[bytes]:
    size = len(content) // n_parts + 1
    return [content[i * size : (i + 1) * size] for i in range(n_parts)]


def add_wheel(folder: Path, part: Part, content: bytes) -> Path:
    """A wheel with one part of a model, and code that says so if it ever runs."""
    package = part.member.partition("/")[0]
    info = f"{package}-{part.version}.dist-info"
    path = folder / f"{package}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{package}/__init__.py", trap(folder))
        wheel.writestr(part.member, content)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def add_all(folder: Path, content: bytes = BYTES, n_parts: int = 3) -> None:
    for part, piece in zip(model(content, n_parts=n_parts).parts, pieces(content, n_parts)):
        add_wheel(folder, part, piece)


def add_sdist(folder: Path, part: Part, content: bytes) -> None:
    """A source archive with the part, whose setup.py says so if it ever runs."""
    root = f"{part.package}-{part.version}"
    package_info = f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n"
    files = {"setup.py": trap(folder).encode(), "PKG-INFO": package_info.encode(), part.member: content}
    with tarfile.open(folder / f"{root}.tar.gz", "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"{root}/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def trap(folder: Path) -> str:
    return f"open({str(folder / 'it-ran')!r}, 'w').close()\n"


def ran(folder: Path) -> bool:
    """Code of a package was run."""
    return (folder / "it-ran").exists()
