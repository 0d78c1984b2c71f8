"""Documents become text, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pypdf
import pytest

from compresskv_edge.apps.chat.document import Document, read_document
from compresskv_edge.errors import ChatError


def write_pdf(path: Path, pages: list[str]) -> Path:
    """A PDF as small as it gets: one line of Helvetica a page."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET" if text else ""
        fonts = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {fonts} /Contents {5 + 2 * i} 0 R >>")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    out += f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n".encode()
    path.write_bytes(out + f"startxref\n{out.index(b'xref')}\n%%EOF\n".encode())
    return path


def test_text(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("\ufeff# Notes\n\nÄ day.\n\n", encoding="utf-8")
    assert read_document(tmp_path / "notes.md") == Document("notes.md", "# Notes\n\nÄ day.")


def test_pages_of_a_pdf(tmp_path: Path) -> None:
    document = read_document(write_pdf(tmp_path / "manual.pdf", ["The first page.", "The code is 4817.", "The end."]))
    assert document.text == "The first page.\n\nThe code is 4817.\n\nThe end."
    assert [document.page(document.text.index(word)) for word in ("first", "4817", "end")] == [1, 2, 3]
    assert Document.from_dict(document.to_dict()) == document


def test_text_has_no_pages() -> None:
    assert Document("x", "text").page(2) == 0


def test_a_locked_pdf(tmp_path: Path) -> None:
    writer = pypdf.PdfWriter(clone_from=write_pdf(tmp_path / "open.pdf", ["Secret."]))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    with pytest.raises(ChatError, match=r"locked\.pdf' is locked with a password"):
        read_document(tmp_path / "locked.pdf")


def _broken(path: Path) -> None:
    path.write_bytes(b"%PDF-1.4\nnothing")


def _scanned(path: Path) -> None:
    write_pdf(path, ["", ""])


def _latin(path: Path) -> None:
    path.write_bytes("Straße".encode("latin-1"))


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("broken.pdf", _broken, "no PDF that pypdf can read"),
        ("scanned.pdf", _scanned, "pages are pictures: run OCR"),
        ("latin.txt", _latin, r"not text in UTF-8 \(byte 4 is 0xdf\): save it as UTF-8"),
        ("empty.txt", Path.touch, "holds no text"),
        ("folder", _folder, "Is a directory"),
        ("none.txt", None, "No such file"),
        ("none.pdf", None, "No such file"),
    ],
)
def test_errors_name_the_file_and_the_remedy(name: str, make: object, said: str, tmp_path: Path) -> None:
    if callable(make):
        make(tmp_path / name)
    with pytest.raises(ChatError, match=said) as caught:
        read_document(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.docx", "a document of a word processor"), ("a.XLSX", "a spreadsheet"), ("a.epub", "an e-book")],
)
def test_other_kinds_are_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 text all the same")
    with pytest.raises(ChatError, match=rf"{name}' is {kind}, which the chat does not read: save it as \.pdf"):
        read_document(tmp_path / name)


def test_pages_without_text_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_document(write_pdf(tmp_path / "full.pdf", ["One.", "Two."]))
    assert not caplog.text
    read_document(write_pdf(tmp_path / "half.pdf", ["One.", "", ""]))
    assert "half.pdf: 2 of 3 pages hold no text" in caplog.text


def test_a_file_larger_than_any_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compresskv_edge.apps.chat.document._MAX_BYTES", 10)
    (tmp_path / "long.txt").write_text("x" * 11)
    with pytest.raises(ChatError, match="more than any context"):
        read_document(tmp_path / "long.txt")


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pypdf.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ChatError, match=r'pip install "compresskv-edge\[chat\]"'):
        read_document(write_pdf(tmp_path / "x.pdf", ["x"]))
