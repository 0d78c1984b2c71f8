"""Saved chats: ChatError and nothing changed, or messages and a document of the right types."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import mutate  # noqa: E402
import runner  # noqa: E402

from compresskv_edge.apps.chat import saved  # noqa: E402
from compresskv_edge.apps.chat.document import Document  # noqa: E402
from compresskv_edge.errors import ChatError, SessionError  # noqa: E402

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
_PATH = Path(_FOLDER.name) / "a.chat.json"
_KV = Path(_FOLDER.name) / "a.chat.kv"
_KV.write_bytes(b"a cache")
_CHAT: Dict[str, Any] = {
    "format": "compresskv chat", "version": 1, "model": {"name": "small", "hash": "sha256:0"}, "system": "Be brief.",
    "document": {"name": "a.txt", "text": "One page. And another.", "pages": [0, 10]}, "attached": True,
    "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}],
    "kv_sha256": hashlib.sha256(b"a cache").hexdigest(),
}  # fmt: skip
_TEXT = json.dumps(_CHAT).encode()

saved._hash = lambda _: "sha256:0"  # type: ignore[assignment]


class _Model:
    """Takes no session."""

    n_tokens = 0

    def reset(self) -> None:
        pass

    def load_session(self, path: Path) -> None:
        assert path == _KV
        raise SessionError("not this time")


class _Chat:
    """Notes what it becomes."""

    def __init__(self) -> None:
        self.llm = _Model()
        self.restored = False

    def restore(self, messages: List[Any], document: Optional[Document], system: str, *, attached: bool) -> None:
        self.restored = True
        assert isinstance(system, str)
        assert isinstance(attached, bool)
        for message in messages:
            assert set(message) == {"role", "content"}
            assert message["role"] in ("system", "user", "assistant")
            assert isinstance(message["content"], str)
        if document is not None:
            assert 0 <= document.page(5) <= len(document.pages)


def one(rng: random.Random) -> str:
    if rng.random() < 0.3:
        _PATH.write_bytes(mutate.data(rng, _TEXT))
    else:
        _PATH.write_text(json.dumps(mutate.json_value(rng, _CHAT)))
    chat = _Chat()
    try:
        saved.load(chat, str(_PATH))  # type: ignore[arg-type]
    except ChatError:
        assert not chat.restored
        return "refused"
    return "read"


FUZZER = runner.Fuzzer(one)

if __name__ == "__main__":
    runner.main(FUZZER)
