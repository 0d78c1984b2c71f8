"""Saved chats of the page: a file with the words, and beside it the cache, so that nothing is read again."""

# no `from __future__ import annotations`: FastAPI evaluates them

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, TypeVar
from weakref import WeakValueDictionary

import platformdirs
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from ... import files
from ...errors import CompressKVError
from . import names, prepare
from .api import request_id
from .errors import ApiError
from .generate import closing, generate
from .load import SlotLlama
from .plain import PlainRoute
from .pool import Pool
from .slot import SlotProgress

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

router = APIRouter(prefix="/extras/sessions", tags=["Extras"], route_class=PlainRoute)


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
        return self.folder / (names.checked(name) + suffix)

    def read(self, name: str) -> Dict[str, Any]:
        """A chat as it was written. Raises ApiError 404 if there is none, 422 if its file is damaged."""
        try:
            saved = json.loads(self.file(name).read_bytes())
            return {**saved, **SavedChat(**saved).model_dump()}
        except FileNotFoundError:
            raise ApiError(404, f"there is no saved chat {name!r}", param="name") from None
        except (ValueError, TypeError, RecursionError) as error:
            _log.error("the saved chat %r is damaged", name, exc_info=error)
            raise ApiError(422, f"the file of the saved chat {name!r} is damaged", param="name") from None

    def write(self, name: str, chat: Dict[str, Any]) -> None:
        """All of it or nothing. The cache of another chat that had this name goes."""
        file = self.file(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.replace_text(file, json.dumps(chat))
        self.file(name, ".kv").unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Raises ApiError 404 if there is none."""
        try:
            self.file(name).unlink()
        except FileNotFoundError:
            raise ApiError(404, f"there is no saved chat {name!r}", param="name") from None
        self.file(name, ".kv").unlink(missing_ok=True)

    def names(self) -> List[Dict[str, Any]]:
        """All chats, newest first."""
        found = []
        for file in self.folder.glob("*.json"):
            with contextlib.suppress(OSError):  # another request may have deleted it
                found.append({"name": file.stem, "saved": file.stat().st_mtime})
        return sorted(found, key=lambda each: -float(each["saved"]))


@router.get("")
async def list_sessions(request: Request) -> Dict[str, Any]:
    """Names and times of all saved chats."""
    return {"sessions": await _in_folder(_store(request).names)}


@router.put("/{name}")
async def save_session(request: Request, name: str, chat: SavedChat) -> Dict[str, Any]:
    """Write a chat, and the cache of the slot that remembers it; `kv` tells whether there is one."""
    store, content = _store(request), {"version": 1, "saved": time.time(), **chat.model_dump()}
    cache = store.file(name, ".kv")
    async with request.app.state.models.use(None) as pool, _turn(request, name):
        tokens = await run_in_threadpool(prepare.chat_tokens, pool.llama, chat.messages)
        await _in_folder(store.write, name, content)

        def save(llama: SlotLlama) -> Dict[str, Any]:
            return {"kv": pool.slot_of(llama).memory.holds(tokens) and _save(llama, cache)}

        return await _in_slot(request, pool, tokens, save)


@router.post("/{name}/open")
async def open_session(request: Request, name: str) -> Dict[str, Any]:
    """The chat, with its cache in a slot again if it was saved with one; `restored` tells."""
    store = _store(request)
    cache = store.file(name, ".kv")
    async with request.app.state.models.use(None) as pool, _turn(request, name):
        chat = await _in_folder(store.read, name)
        tokens = await run_in_threadpool(prepare.chat_tokens, pool.llama, chat["messages"])

        def load(llama: SlotLlama) -> Dict[str, Any]:
            held = pool.slot_of(llama).memory.holds(tokens)
            return {"restored": held or (cache.is_file() and _load(llama, cache))}

        found = await _in_slot(request, pool, tokens, load)
    return {**chat, **found}


@router.delete("/{name}")
async def delete_session(request: Request, name: str) -> Dict[str, Any]:
    """Forget a chat."""
    async with _turn(request, name):
        await _in_folder(_store(request).delete, name)
    return {"deleted": name}


@contextlib.asynccontextmanager
async def _turn(request: Request, name: str) -> AsyncIterator[None]:
    """One request at a time for each name: a chat and the cache beside it are of the same request."""
    turns: WeakValueDictionary[str, asyncio.Lock] = request.app.state.session_turns
    turn = turns.setdefault(names.checked(name).casefold(), asyncio.Lock())  # one file on some systems
    async with turn:
        yield


async def _in_folder(work: Callable[..., _T], *args: Any) -> _T:
    """File access in a thread. What the system has against it is the log's and not the client's to know."""
    try:
        return await run_in_threadpool(work, *args)
    except OSError as error:
        _log.error("the folder of saved chats cannot be used", exc_info=error)
        raise ApiError(507, "saved chats cannot be read or written here: the server's log says why") from error


def _store(request: Request) -> ChatFolder:
    return ChatFolder.of(request.app.state.settings.sessions_dir)


async def _in_slot(request: Request, pool: Pool, tokens: Any, work: Any) -> Dict[str, Any]:
    """What `work` returns, done in the thread of the slot that fits `tokens` best; and the `usage` of that slot."""
    chunks = generate(pool, tokens, work, SlotProgress(request_id(request)), request.app.state.metrics)
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
