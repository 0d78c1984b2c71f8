"""A document as text: .txt, .md and other text files as they are, .pdf through pdf.py."""

from __future__ import annotations

import bisect
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ChatError
from .pdf import pages_of

_log = logging.getLogger(__name__)
_PAGE_BREAK = "\n\n"
_MAX_BYTES = 256 << 20
_OTHERS = {  # by their ends: what they hold is no text
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pages"), "a document of a word processor"),
    **dict.fromkeys((".xls", ".xlsx", ".ods", ".numbers"), "a spreadsheet"),
    **dict.fromkeys((".ppt", ".pptx", ".odp"), "a presentation"),
    **dict.fromkeys((".epub", ".mobi", ".azw3"), "an e-book"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".webp", ".tif", ".tiff"), "a picture"),
    **dict.fromkeys((".zip", ".gz", ".tar", ".7z"), "an archive"),
}


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
    try:
        if file.is_file() and file.stat().st_size > _MAX_BYTES:
            raise ChatError(f"has {file.stat().st_size >> 20} MB, more than any context: split it")
        content = file.read_bytes()
        return of_pages(file.name, pages_of(content)) if is_pdf(file.name) else of_text(file.name, content)
    except OSError as error:
        raise ChatError(f"cannot read document {str(file)!r}: {error.strerror or error}") from error
    except ChatError as error:
        raise ChatError(f"document {str(file)!r} {error}") from error


def is_pdf(name: str) -> bool:
    """By its name."""
    return name.lower().endswith(".pdf")


def of_text(name: str, content: bytes) -> Document:
    """The bytes of a text file. ChatError says what is wrong with it, and fits after its name."""
    kind = _OTHERS.get(Path(name).suffix.lower())
    if kind is not None:
        raise ChatError(f"is {kind}, which the chat does not read: save it as .pdf or as UTF-8 text")
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ChatError(
            f"is not text in UTF-8 (byte {error.start} is {error.object[error.start]:#04x}): "
            "save it as UTF-8 text, or give a .pdf"
        ) from error
    if not text:
        raise ChatError("holds no text: give another file")
    return Document(name, text)


def of_pages(name: str, pages: list[str]) -> Document:
    """The texts of a PDF's pages. ChatError as in `of_text`."""
    if not any(pages):
        raise ChatError("holds no text: its pages are pictures: run OCR on it first, for example ocrmypdf")
    n_empty = sum(not page for page in pages)
    if n_empty:
        _log.warning(
            "%s: %d of %d pages hold no text, they may be pictures: run OCR on it first, for example ocrmypdf",
            *(name, n_empty, len(pages)),
        )
    return _join(name, pages)


def _join(name: str, pages: list[str]) -> Document:
    starts, at = [], 0
    for page in pages:
        starts.append(at)
        at += len(page) + len(_PAGE_BREAK)
    return Document(name, _PAGE_BREAK.join(pages), tuple(starts))
