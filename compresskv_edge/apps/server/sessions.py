"""Saved chats of the page: a file with the words, and beside it the cache, so that nothing is read again."""

# no `from __future__ import annotations`: FastAPI evaluates them

import contextlib
import json
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import platformdirs
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ...errors import CompressKVError
from . import prepare
from .api import authenticate, request_id
from .errors import ApiError
from .generate import closing, generate
from .load import SlotLlama
from .pool import Pool
from .slot import Run

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[^\W_][\w .,()-]{0,79}")  # a file name on every system, and never a path

router = APIRouter(prefix="/extras/sessions", tags=["Extras"], dependencies=[Depends(authenticate)])


class SavedChat(BaseModel):
    """What the page shows (turns, settings), and the messages that the model saw."""

    messages: List[Dict[str, Any]] = Field(min_length=1)
    turns: List[Dict[str, Any]] = Field(min_length=1)
    settings: Dict[str, Any] = {}


@dataclass(frozen=True)
class ChatFolder:
    """The folder."""

    folder: Path

    @classmethod
    def of(cls, configured: Optional[str]) -> "ChatFolder":
        """That of the settings, or the user's own."""
        return cls(Path(configured or platformdirs.user_data_path("compresskv-edge", appauthor=False) / "sessions"))

    def file(self, name: str, suffix: str = ".json") -> Path:
        """Where a chat lies. Raises ApiError 400 for what is no name."""
        if not _NAME.fullmatch(name) or name != name.strip():
            raise ApiError(
                400, f"{name!r} is no name: use letters, digits, spaces and .,()-_, 80 at most", param="name"
            )
        return self.folder / (name + suffix)

    def existing(self, name: str) -> Path:
        """Raises ApiError 404 if there is none."""
        file = self.file(name)
        if not file.is_file():
            raise ApiError(404, f"there is no saved chat {name!r}", param="name")
        return file

    def write(self, name: str, chat: Dict[str, Any]) -> None:
        """All of it or nothing."""
        file = self.file(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".part")
        partial.write_text(json.dumps(chat), encoding="utf-8")
        os.replace(partial, file)

    def names(self) -> List[Dict[str, Any]]:
        """All chats, newest first."""
        files = [file for file in self.folder.glob("*.json") if file.is_file()]
        found = [{"name": file.stem, "saved": file.stat().st_mtime} for file in files]
        return sorted(found, key=lambda each: -float(each["saved"]))


@router.get("")
async def list_sessions(request: Request) -> Dict[str, Any]:
    """Names and times of all saved chats."""
    return {"sessions": await run_in_threadpool(_store(request).names)}


@router.put("/{name}")
async def save_session(request: Request, name: str, chat: SavedChat) -> Dict[str, Any]:
    """Write a chat, and the cache of the slot that remembers it; `kv` tells whether there is one."""
    store = _store(request)
    cache = store.file(name, ".kv")
    async with request.app.state.models.use(None) as pool:
        tokens = await run_in_threadpool(prepare.chat_tokens, pool.llama, chat.messages)
        await run_in_threadpool(store.write, name, {"version": 1, "saved": time.time(), **chat.model_dump()})
        cache.unlink(missing_ok=True)  # of another chat that had this name

        def save(llama: SlotLlama) -> Dict[str, Any]:
            return {"kv": pool.slot_of(llama).memory.holds(tokens) and _save(llama, cache)}

        return await _in_slot(request, pool, tokens, save)


@router.post("/{name}/open")
async def open_session(request: Request, name: str) -> Dict[str, Any]:
    """The chat, with its cache in a slot again if it was saved with one; `restored` tells."""
    store = _store(request)
    chat = json.loads(await run_in_threadpool(store.existing(name).read_text, encoding="utf-8"))
    cache = store.file(name, ".kv")
    async with request.app.state.models.use(None) as pool:
        tokens = await run_in_threadpool(prepare.chat_tokens, pool.llama, chat["messages"])

        def load(llama: SlotLlama) -> Dict[str, Any]:
            held = pool.slot_of(llama).memory.holds(tokens)
            return {"restored": held or (cache.is_file() and _load(llama, cache))}

        found = await _in_slot(request, pool, tokens, load)
    return {**chat, **found}


@router.delete("/{name}")
async def delete_session(request: Request, name: str) -> Dict[str, Any]:
    """Forget a chat."""
    store = _store(request)
    store.existing(name).unlink()
    store.file(name, ".kv").unlink(missing_ok=True)
    return {"deleted": name}


def _store(request: Request) -> ChatFolder:
    return ChatFolder.of(request.app.state.settings.sessions_dir)


async def _in_slot(request: Request, pool: Pool, tokens: Any, work: Any) -> Dict[str, Any]:
    """What `work` returns, done in the thread of the slot that fits `tokens` best; and the `usage` of that slot."""
    chunks = generate(pool, tokens, work, Run(request_id(request)), request.app.state.metrics)
    async with closing(chunks):
        result, done = [each async for each in chunks]
    return {**result, "usage": done.usage}  # type: ignore[union-attr, dict-item]


def _save(llama: SlotLlama, file: Path) -> bool:
    try:
        llama.save_session(file)
    except (CompressKVError, OSError) as error:
        _log.warning("the cache of a chat was not saved: %s", error)
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        return False
    return True


def _load(llama: SlotLlama, file: Path) -> bool:
    try:
        llama.load_session(file)
    except (CompressKVError, OSError) as error:
        _log.warning("a saved cache cannot be used here: %s", error)
        return False
    return True
