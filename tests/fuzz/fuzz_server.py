"""Requests that no client would send: none may end the process, and none may be answered with an error of the server's.

The app runs in the process of the runs, around a random model of two layers, and goes on from run to run: a run that
fails only after others is seen again with --first, and not with --only. Only a slot has a thread of its own, as in a
server.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import random
import sys
import tempfile
from pathlib import Path
from typing import Tuple

sys.path[:0] = [str(Path(__file__).parent)]

import asgi  # noqa: E402
import runner  # noqa: E402
from server_requests import CHAT, Sent, request  # noqa: E402

from compresskv_edge.apps.server.app import create_app  # noqa: E402
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings  # noqa: E402
from compresskv_edge.model import random_gguf  # noqa: E402

ALLOWED = {503}  # too many at once: what `overloaded` says


class Served:
    """The app in an event loop of its own, which stands still between two requests."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        gguf = Path(self.folder.name) / "m.gguf"
        random_gguf.write_random_gguf(gguf, random_gguf.TINY_SHAPES["llama"], seed=0)
        settings = ServerSettings(sessions_dir=str(Path(self.folder.name) / "sessions"), document_timeout=20)
        model = ModelSettings(
            model=str(gguf), kv_profile="uniform", kv_budget=64, n_ctx=256, n_threads=1, n_threads_batch=1
        )
        asgi.no_threads()
        self.app = create_app(settings, [model])
        self.loop = asyncio.new_event_loop()
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run_until_complete(self.lifespan.__aenter__())

    def send(self, sent: Sent) -> Tuple[int, str]:
        """Status and text."""
        return self.loop.run_until_complete(self._send(sent))

    async def _send(self, sent: Sent) -> Tuple[int, str]:
        return await asgi.Exchange(sent.method, sent.path, sent.headers, sent.body, sent.patience).through(self.app)


@functools.cache
def served() -> Served:
    """One for all runs of a process."""
    logging.disable(logging.CRITICAL)
    return Served()


def one(dice: random.Random) -> str:
    """One request, and now and then one that must be answered."""
    sent = request(dice)
    status, text = served().send(sent)
    assert not is_failure(status, text), f"{status} {text[:300]}\nfor {sent}"
    if dice.random() < 0.05:
        usual = Sent("POST", "/v1/chat/completions", [], json.dumps({**CHAT, "temperature": 0}).encode(), None)
        usual.headers.append(("content-type", b"application/json"))
        status, text = served().send(usual)
        assert status == 200, f"after {sent} the server answers {status} {text[:300]}"
    return str(status)


def is_failure(status: int, text: str) -> bool:
    """Whether the server says that it failed; in the middle of a stream it says so in words."""
    return (status >= 500 and status not in ALLOWED) or '"code": "failed"' in text


FUZZER = runner.Fuzzer(one, native=True)

if __name__ == "__main__":
    runner.main(FUZZER)
