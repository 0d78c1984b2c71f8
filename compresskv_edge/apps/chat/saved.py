"""A chat on disk: what was said as JSON (NAME.chat.json), and the compressed cache beside it (NAME.chat.kv).

The cache is a few MB and spares reading the document again; without it, or if it is damaged, the chat goes on all the
same and the next question reads everything.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ...errors import ChatError, CompressKVError, EngineError
from ...model.gguf_file import GGUF
from .conversation import Conversation
from .document import Document

_FORMAT, _VERSION = "compresskv chat", 1


def save(chat: Conversation, name: str) -> Path:
    """Write a chat; readers see the old files or the new ones. Returns the JSON file. Raises ChatError."""
    target = _path(name)
    kv = target.with_suffix(".kv")
    try:
        temporary = kv.with_name(f".{kv.name}.{os.getpid()}.tmp")
        checksum = ""
        if chat.llm.n_tokens:
            chat.llm.save_session(temporary)
            checksum = _sha256(temporary)
            os.replace(temporary, kv)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**_content(chat), "kv_sha256": checksum}, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, target)
    except (OSError, CompressKVError) as error:
        raise ChatError(f"cannot save the chat to {str(target)!r}: {error}") from error
    return target


def load(chat: Conversation, name: str) -> str:
    """Take up a saved chat in place of the present one, and say how. Raises ChatError; the chat is then as it was."""
    target = _path(name)
    try:
        data = json.loads(target.read_text(encoding="utf-8"))
        _check(data, target, chat)
        document = None if data["document"] is None else Document.from_dict(data["document"])
        messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in data["messages"]]
        system, attached, checksum = str(data["system"]), bool(data["attached"]), str(data["kv_sha256"])
    except OSError as error:
        raise ChatError(f"cannot load the chat {str(target)!r}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ChatError):
            raise
        raise ChatError(f"{str(target)!r} is damaged, or no chat saved with /save ({error!r})") from error
    chat.restore(messages, document, system, attached=attached)
    return _load_kv(chat, target.with_suffix(".kv"), checksum)


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
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ChatError(f"{str(target)!r} is no chat saved with /save")
    if data["version"] != _VERSION:
        raise ChatError(
            f"{str(target)!r} has version {data['version']!r}, this program reads {_VERSION}: use a newer one"
        )
    if data["model"]["hash"] != _hash(chat):
        raise ChatError(
            f"{str(target)!r} was saved with the model {data['model']['name']!r}: start the chat with that file"
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
