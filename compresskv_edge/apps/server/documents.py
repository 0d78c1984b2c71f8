"""Text of a document that the page sends: what `compresskv chat --file` reads, read by the same code."""

# no `from __future__ import annotations`: FastAPI evaluates them

import tempfile
from pathlib import Path
from typing import Any, Dict

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool

from ...errors import ChatError
from ..chat.document import read_document
from .api import authenticate
from .errors import ApiError

router = APIRouter(tags=["Extras"], dependencies=[Depends(authenticate)])


@router.post("/extras/document")
async def document(request: Request, name: str) -> Dict[str, Any]:
    """The text of a file, which is the body: .txt, .md and the like, or .pdf."""
    return {"name": Path(name).name, "text": await run_in_threadpool(_text, Path(name).name, await request.body())}


def _text(name: str, content: bytes) -> str:
    with tempfile.TemporaryDirectory(prefix="compresskv-") as folder:
        file = Path(folder) / f"document{Path(name).suffix}"
        file.write_bytes(content)
        try:
            return read_document(file).text
        except ChatError as error:
            raise ApiError(400, str(error).replace(str(file), name), param="name") from error
