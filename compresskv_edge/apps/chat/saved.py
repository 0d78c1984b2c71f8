"""A chat on disk: what was said as JSON (NAME.chat.json), and the compressed cache beside it (NAME.chat.kv).

The cache is a few MB and spares reading the document again; without it, or if it is damaged, the chat goes on all the
same and the next question reads everything.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, List, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ...errors import ChatError, CompressKVError, EngineError
from ...files import check_file, check_size, parse_json, read_bytes, replace_text, short
from ...model.gguf_file import GGUF
from .conversation import Conversation
from .document import Document

_FORMAT, _VERSION = "compresskv chat", 1

_MAX_BYTES = 1 << 30  # of the JSON, which holds the document's text
_MAX_VALUES = 1 << 20


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Model(_Data):
    name: str
    hash: str


class _Document(_Data):
    name: str
    text: str
    pages: List[Annotated[int, Field(ge=0)]]

    @model_validator(mode="after")
    def _fits(self) -> _Document:
        starts = [*self.pages, len(self.text)]
        if any(a > b for a, b in zip(starts, starts[1:])):
            raise ValueError("pages do not follow one another")
        return self


class _Message(_Data):
    role: Literal["system", "user", "assistant"]
    content: str


class _Saved(_Data):
    """The file. It may come from a stranger: nothing else is read, and nothing of another type."""

    format: str
    version: int
    model: _Model
    system: str
    document: Optional[_Document]
    attached: bool
    messages: List[_Message]
    kv_sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")]


def save(chat: Conversation, name: str) -> Path:
    """Write a chat; readers see the old files or the new ones. Returns the JSON file. Raises ChatError."""
    target = _path(name)
    kv = target.with_suffix(".kv")
    try:
        checksum = ""
        if chat.llm.n_tokens:
            chat.llm.save_session(kv)
            checksum = _sha256(kv)
        replace_text(target, json.dumps({**_content(chat), "kv_sha256": checksum}, indent=1) + "\n")
    except (OSError, ValueError, CompressKVError) as error:
        raise ChatError(f"cannot save the chat to {str(target)!r}: {error}") from error
    return target


def load(chat: Conversation, name: str) -> str:
    """Take up a saved chat in place of the present one, and say how. Raises ChatError; the chat is then as it was."""
    target = _path(name)
    try:
        check_file(target)
        data = parse_json(read_bytes(target, _MAX_BYTES))
    except OSError as error:
        raise ChatError(f"cannot load the chat {str(target)!r}: {error.strerror}") from error
    except ValueError as error:
        raise ChatError(f"{str(target)!r} is damaged, or no chat saved with /save ({error})") from error
    _check(data, target, chat)
    try:
        check_size(data, _MAX_VALUES)
        found = _Saved.model_validate(data)
    except ValueError as error:
        why = error.errors()[0] if isinstance(error, ValidationError) else error
        raise ChatError(f"{str(target)!r} is damaged, or no chat saved with /save ({why!s:.300})") from error
    document = (
        None if found.document is None else Document(**{**dict(found.document), "pages": tuple(found.document.pages)})
    )
    messages = [{"role": each.role, "content": each.content} for each in found.messages]
    chat.restore(messages, document, found.system, attached=found.attached)
    return _load_kv(chat, target.with_suffix(".kv"), found.kv_sha256)


def _content(chat: Conversation) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "version": _VERSION,
        "model": {"name": chat.llm.metadata.get("general.name", ""), "hash": _hash(chat)},
        "system": chat.system,
        "document": None if chat.document is None else chat.document.to_dict(),
        "attached": chat.is_attached,
        "messages": chat.messages,
    }


def _check(data: Any, target: Path, chat: Conversation) -> None:
    """Say first what other files and versions are."""
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ChatError(f"{str(target)!r} is no chat saved with /save")
    if data.get("version") != _VERSION:
        raise ChatError(
            f"{str(target)!r} has version {short(data.get('version'))}, this program reads {_VERSION}: use a newer one"
        )
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("hash"), str) and model["hash"] != _hash(chat):
        raise ChatError(
            f"{str(target)!r} was saved with the model {short(model.get('name'))}: start the chat with that file"
        )


def _load_kv(chat: Conversation, kv: Path, checksum: str) -> str:
    if not checksum:
        chat.llm.reset()
        return "nothing had been read yet"
    try:
        if _sha256(kv) != checksum:
            raise EngineError(f"{kv.name} is damaged")
        chat.llm.load_session(kv)
    except (OSError, CompressKVError) as error:
        chat.llm.reset()
        return f"the cache could not be restored ({error}): the next question reads everything again"
    return f"{chat.llm.n_tokens} tokens are in the cache again, nothing is read anew"


def _path(name: str) -> Path:
    if not name:
        raise ChatError("give the chat a name: /save trip")
    path = Path(name).expanduser()
    return path if path.name.endswith(".chat.json") else path.with_name(f"{path.name}.chat.json")


def _hash(chat: Conversation) -> str:
    return GGUF.open(chat.llm.model_path).hash()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
