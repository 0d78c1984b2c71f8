"""A document as text: .txt, .md and other text files as they are, .pdf through pypdf."""

from __future__ import annotations

import bisect
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ChatError

_PAGE_BREAK = "\n\n"
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Document:
    """Text with the place where each page starts, in characters; () if there are no pages."""

    name: str
    text: str
    pages: tuple[int, ...] = ()

    def page(self, at: int) -> int:
        """Number of the page that holds character `at`, from 1; 0 if there are no pages."""
        return bisect.bisect_right(self.pages, at)

    def to_dict(self) -> dict[str, Any]:
        """For a saved chat."""
        return {"name": self.name, "text": self.text, "pages": list(self.pages)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Document:
        """Back from to_dict. Raises KeyError or TypeError."""
        return cls(str(data["name"]), str(data["text"]), tuple(int(at) for at in data["pages"]))


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a document. Raises ChatError that names the file and the remedy."""
    file = Path(path).expanduser()
    if file.is_file() and file.stat().st_size > _MAX_BYTES:
        raise ChatError(f"document {str(file)!r} has {file.stat().st_size >> 20} MB, more than any context: split it")
    if file.suffix.lower() == ".pdf":
        document = _read_pdf(file)
        remedy = "its pages are pictures: run OCR on it first, for example ocrmypdf"
    else:
        document = Document(file.name, _read_text(file).strip())
        remedy = "give another file"
    if not document.text:
        raise ChatError(f"document {str(file)!r} holds no text: {remedy}")
    return document


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ChatError(f"cannot read document {str(file)!r}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ChatError(
            f"document {str(file)!r} is not text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): "
            "save it as UTF-8 text, or give a .pdf"
        ) from error


def _read_pdf(file: Path) -> Document:
    try:
        import pypdf
    except ImportError as error:
        raise ChatError('reading a .pdf needs pypdf: pip install "compresskv-edge[chat]"') from error
    try:
        with file.open("rb") as stream:
            reader = pypdf.PdfReader(stream)
            if reader.is_encrypted and not reader.decrypt(""):
                raise ChatError(f"document {str(file)!r} is locked with a password: save a copy without one")
            return _join(file.name, [page.extract_text().strip() for page in reader.pages])
    except OSError as error:
        raise ChatError(f"cannot read document {str(file)!r}: {error.strerror or error}") from error
    except ChatError:
        raise
    except Exception as error:  # pypdf meets broken files with errors of many kinds
        raise ChatError(
            f"document {str(file)!r} is no PDF that pypdf can read ({error}): convert it to text"
        ) from error


def _join(name: str, pages: list[str]) -> Document:
    starts, at = [], 0
    for page in pages:
        starts.append(at)
        at += len(page) + len(_PAGE_BREAK)
    return Document(name, _PAGE_BREAK.join(pages) if any(pages) else "", tuple(starts))
