"""Text of a document that the page sends: what `compresskv chat --file` reads, read by the same code."""

# no `from __future__ import annotations`: FastAPI evaluates them

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from fastapi import APIRouter, Request

from ...errors import ChatError
from ..chat import pdf
from ..chat.document import Document, is_pdf, of_pages, of_text
from .errors import ApiError
from .leaving import while_there

AT_ONCE = 2  # processes that read a PDF; others wait

router = APIRouter(tags=["Extras"])


@router.post("/extras/document")
async def document(request: Request, name: str) -> Dict[str, Any]:
    """The text of a file, which is the body: .txt, .md and the like, or .pdf."""
    name = Path(name).name
    try:
        read = await while_there(request, _read(request, name, await request.body()))
    except ChatError as error:
        raise ApiError(400, f"document {name!r} {error}", param="name") from error
    return {"name": name, "text": read.text}


async def _read(request: Request, name: str, content: bytes) -> Document:
    if not is_pdf(name):
        return of_text(name, content)
    limits = pdf.Limits(seconds=request.app.state.settings.document_timeout)
    async with request.app.state.pdf_turn:
        return of_pages(name, await _pages(content, limits))


async def _pages(content: bytes, limits: pdf.Limits) -> List[str]:
    """`pdf.pages_of` for the event loop: who leaves takes the process along."""
    pipe = asyncio.subprocess.PIPE
    with tempfile.TemporaryDirectory(prefix="compresskv-") as empty:
        started = asyncio.create_subprocess_exec(*limits.command, stdin=pipe, stdout=pipe, stderr=pipe, cwd=empty)
        process = await started
        try:
            out, errors = await asyncio.wait_for(process.communicate(content), limits.seconds)
        except asyncio.TimeoutError as error:
            raise pdf.too_slow(limits) from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return pdf.outcome(process.returncode or 0, out, errors)
