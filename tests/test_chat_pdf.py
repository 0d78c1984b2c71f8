"""PDFs that would hang, fill the memory or kill who reads them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path

import pypdf
import pytest
from test_chat_document import write_pdf

from compresskv_edge.apps.chat import pdf
from compresskv_edge.apps.chat.pdf import Limits, outcome, pages_of
from compresskv_edge.apps.server import documents
from compresskv_edge.errors import ChatError

posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no limits of memory here")


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """`reader(code)`: a pypdf that does this when a file is opened, as a hostile file would make the real one do."""

    def install(code):
        body = "\n".join(f"        {line}" for line in code.splitlines())
        (tmp_path / "pypdf.py").write_text(f"class PdfReader:\n    def __init__(self, stream):\n{body}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


def both(content, limits):
    """By the command line's way and by the server's: the same error."""
    with pytest.raises(ChatError) as first:
        pages_of(content, limits)
    with pytest.raises(ChatError) as second:
        asyncio.run(documents._pages(content, limits))
    assert str(first.value) == str(second.value)
    return str(first.value)


def test_pages(tmp_path):
    content = write_pdf(tmp_path / "x.pdf", ["One.", "", "Three."]).read_bytes()
    assert pages_of(content) == asyncio.run(documents._pages(content, Limits())) == ["One.", "", "Three."]


def test_one_that_hangs(reader):
    reader("while True: pass")
    assert both(b"%PDF", Limits(seconds=0.5)) == "took more than 0.5 s to be read: convert it to text"


@posix
@pytest.mark.parametrize("code", ["b'x' * (1 << 34)", "self.kept = []\nwhile True: self.kept.append(b'x' * (1 << 20))"])
def test_one_that_fills_the_memory(reader, code):
    reader(code)
    assert "too much memory" in both(b"%PDF", Limits(seconds=60, memory_bytes=256 << 20))


@posix
def test_the_watch_ends_it_where_the_system_sets_no_limit(reader):
    reader("import resource\nassert False")
    code = "from compresskv_edge.apps.chat import pdf; x = b'x' * (200 << 20); pdf._watch_memory(100 << 20)"
    assert os.waitstatus_to_exitcode(os.system(f'"{sys.executable}" -c "{code}"')) == pdf._TOO_LARGE


def test_one_that_kills_its_reader(reader):
    reader("import os; os.abort()")
    assert "convert it to text" in both(b"%PDF", Limits())


def test_one_with_more_text_than_any_context():
    assert pdf._MAX_TEXT_CHARS >= 16 << 20
    with pytest.raises(ChatError, match="too much memory"):
        outcome(pdf._TOO_LARGE, b"", b"")


def test_errors_of_the_parser_are_for_the_log(reader, caplog):
    caplog.set_level(logging.INFO, "compresskv_edge")
    reader("raise ValueError('the inner life of pypdf')")
    said = both(b"%PDF", Limits())
    assert said == "is no PDF that pypdf can read: convert it to text"
    assert "ValueError: the inner life of pypdf" in caplog.text


def test_without_cryptography_an_encrypted_one_names_the_extra(reader):
    reader("class DependencyError(Exception): pass\nraise DependencyError('cryptography>=3.1 is required')")
    assert both(b"%PDF", Limits()).endswith(
        'is encrypted with AES and needs cryptography to be read: pip install "compresskv-edge[chat]"'
    )


def test_an_encrypted_one_that_opens_without_a_password(tmp_path):
    pytest.importorskip("cryptography")
    writer = pypdf.PdfWriter(clone_from=write_pdf(tmp_path / "x.pdf", ["One."]))
    writer.encrypt("", owner_password="secret", algorithm="AES-256")
    writer.write(tmp_path / "aes.pdf")
    assert pages_of((tmp_path / "aes.pdf").read_bytes()) == ["One."]


def test_a_folder_of_modules_is_not_imported_from(tmp_path, monkeypatch):
    (tmp_path / "pypdf.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    content = write_pdf(Path("x.pdf"), ["One."]).read_bytes()
    assert pages_of(content) == ["One."]


@posix
def test_who_leaves_takes_the_process_along(reader, tmp_path):
    reader(f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + ' '); time.sleep(60)")

    async def scene():
        reading = asyncio.ensure_future(documents._pages(b"%PDF", Limits()))
        while not (tmp_path / "pid").exists() or " " not in (tmp_path / "pid").read_text():
            await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait({reading})

    asyncio.run(scene())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
