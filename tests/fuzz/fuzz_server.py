"""Requests that no client would send: none may end the process, and none may be answered with an error of the server's.

The app runs in the process of the runs, around the demo model, and goes on from run to run: a run that fails only after
others is seen again with --first, and not with --only.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

import httpx
from runner import Fuzzer, main

from compresskv_edge.apps.server.app import create_app
from compresskv_edge.apps.server.requests import ChatRequest, CompletionRequest
from compresskv_edge.apps.server.settings import ModelSettings, ServerSettings
from compresskv_edge.model.packaged import model_path

Dice = random.Random
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which code opens the lantern?"}]
CHAT = {"messages": MESSAGES, "max_tokens": 2}
# method, path, a body that is right, and fields that it might have as well
ROUTES: List[Tuple[str, str, Any, List[str]]] = [
    ("POST", "/v1/chat/completions", CHAT, list(ChatRequest.model_fields)),
    ("POST", "/v1/completions", {"prompt": "The code", "max_tokens": 2}, list(CompletionRequest.model_fields)),
    ("POST", "/v1/embeddings", {"input": "text"}, ["model", "user"]),
    ("POST", "/extras/tokenize", {"input": "text"}, ["model"]),
    ("POST", "/extras/tokenize/count", {"input": "text"}, ["model"]),
    ("POST", "/extras/detokenize", {"tokens": [1, 2, 3]}, ["model"]),
    ("POST", "/extras/kv/kept", {"messages": MESSAGES}, ["model"]),
    ("PUT", "/extras/sessions/chat", {"messages": MESSAGES, "turns": [{"role": "user"}]}, ["settings"]),
    ("POST", "/extras/sessions/chat/open", None, []),
    ("DELETE", "/extras/sessions/chat", None, []),
    ("POST", "/extras/document?name=a.txt", "text", []),
    ("GET", "/extras/sessions", None, []),
    ("GET", "/extras/slots", None, []),
    ("GET", "/extras/props", None, []),
    ("GET", "/metrics", None, []),
    ("GET", "/v1/models", None, []),
    ("GET", "/page/main.js", None, []),
    ("GET", "/", None, []),
]
TEXTS = [
    "",
    " ",
    "\x00",
    "x" * 3000,
    "ä🏮\u202e",
    "{{ 1/0 }}",
    "root ::= [a-z]",
    "root ::= (",
    "auto",
    "json_object",
    "../../x",
    "%s%n",
    "<|endoftext|>",
    "<s>",
    "user",
    "assistant",
    "tool",
    "NaN",
    "1",
    "\ufffd",
]
NUMBERS = [
    0,
    1,
    -1,
    2,
    255,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**32,
    2**63 - 1,
    2**63,
    10**40,
    0.0,
    -0.0,
    0.5,
    1e-45,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
]
HEADERS = [
    ("x-request-id", "a\tb"),
    ("x-request-id", "x" * 500),
    ("origin", "null"),
    ("origin", "http://localhost"),
    ("expect", "100-continue"),
    ("authorization", "Bearer \xff"),
    ("content-type", "text/plain"),
    ("content-type", "application/json; charset=utf-16"),
    ("content-type", "multipart/form-data"),
    ("sec-fetch-site", "cross-site"),
    ("host", "evil.example"),
    ("accept-encoding", "\xff"),
    ("content-length", "99999999999999999999"),
    ("transfer-encoding", "gzip"),
]
PIECES = [b"", b"\xff", b"\x00", b"[" * 300, b'"', b"}", b"\\ud800", b"1" * 5000]
NAMES = ["/..", "/%2e%2e", "/NUL", "/%F0%9F%8F%AE", "/%FF", "/" + "x" * 300, "/%00"]
ALLOWED = {503}  # too many at once: what `overloaded` says


@dataclass(frozen=True)
class Sent:
    """A request, as a failure shows it."""

    method: str
    path: str
    headers: List[Tuple[str, bytes]]
    body: bytes
    patience: Optional[float]  # seconds until the client leaves


def value(dice: Dice, depth: int = 0) -> Any:
    """Some JSON."""
    make: List[Callable[[], Any]] = [
        lambda: dice.choice(NUMBERS),
        lambda: dice.choice(TEXTS),
        lambda: dice.choice([None, True, False]),
        lambda: [value(dice, depth + 1) for _ in range(dice.randint(0, 3))],
        lambda: {dice.choice([*TEXTS, "type", "text", "content", "function"]): value(dice, depth + 1)},
        lambda: {"role": dice.choice(["user", "tool", "x"]), "content": value(dice, depth + 1)},
    ]
    return dice.choice(make if depth < 4 else make[:3])()


def places(data: Any) -> Iterator[Tuple[Any, Any]]:
    """Each container and key in it."""
    for key in list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ():
        yield data, key
        yield from places(data[key])


def changed(dice: Dice, body: Any, fields: List[str]) -> Any:
    """The body with one to three things wrong."""
    body = json.loads(json.dumps(body))
    for _ in range(dice.randint(1, 3)):
        found = list(places(body))
        if isinstance(body, dict) and fields and dice.random() < 0.6:
            body[dice.choice(fields)] = value(dice)
        elif found and dice.random() < 0.9:
            holder, key = dice.choice(found)
            if dice.random() < 0.2:
                del holder[key]
            else:
                holder[key] = value(dice)
        else:
            body = value(dice)
    return body


def torn(dice: Dice, raw: bytes) -> bytes:
    """Bytes that were cut, changed or repeated."""
    data = bytearray(raw or b"{}")
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data) + 1)
        data[at : at + dice.randint(0, 3)] = dice.choice(
            [b"", b"\xff", b"\x00", b"[" * 300, b'"', b"}", b"\\ud800", b"1" * 5000]
        )
    return bytes(data)


def request(dice: Dice) -> Sent:
    """A random one."""
    method, path, body, fields = dice.choices(ROUTES, [20, 10] + [3] * (len(ROUTES) - 2))[0]
    if dice.random() < (0.05 if body is None else 0.9):
        body = changed(dice, body, fields)
    raw = b"" if body is None else json.dumps(body).encode()
    raw = torn(dice, raw) if raw and dice.random() < 0.15 else raw
    if "document" in path:
        path = f"/extras/document?name={dice.choice(['a.txt', 'a.PDF', '..', '%00', '%FF.md', ''])}"
    if "sessions/" in path and dice.random() < 0.3:
        path = path.replace(
            "/chat", dice.choice(["/..", "/%2e%2e", "/NUL", "/%F0%9F%8F%AE", "/%FF", "/" + "x" * 300, "/%00"])
        )
    headers = {"content-type": "application/json", **dict(dice.choices(HEADERS, k=dice.choice([0, 0, 0, 1, 2])))}
    method = dice.choice(["BREW", "PATCH", "OPTIONS", "HEAD"]) if dice.random() < 0.03 else method
    patience = dice.uniform(0, 0.02) if dice.random() < 0.1 else None
    return Sent(method, path, [(name, text.encode("latin-1")) for name, text in headers.items()], raw, patience)


async def status_of(client: httpx.AsyncClient, sent: Sent) -> Tuple[int, str]:
    """Status and text; 499 if the client left."""
    asked = client.request(sent.method, sent.path, headers=sent.headers, content=sent.body)
    try:
        answer = await asyncio.wait_for(asked, sent.patience)
    except asyncio.TimeoutError:
        return 499, ""
    return answer.status_code, answer.text


class Served:
    """The app in an event loop of its own, which stands still between two requests."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        settings = ServerSettings(sessions_dir=self.folder.name, document_timeout=20)
        model = ModelSettings(
            model=str(model_path()), kv_profile="uniform", kv_budget=64, n_ctx=256, n_threads=1, n_threads_batch=1
        )
        self.app = create_app(settings, [model])
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")
        self.loop = asyncio.new_event_loop()
        self.lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run_until_complete(self.lifespan.__aenter__())
        atexit.register(self.close)

    def send(self, sent: Sent) -> Tuple[int, str]:
        """Status and text."""
        return self.loop.run_until_complete(status_of(self.client, sent))

    def close(self) -> None:
        """As a server ends."""
        self.loop.run_until_complete(self.lifespan.__aexit__(None, None, None))
        self.folder.cleanup()


@functools.cache
def served() -> Served:
    """One for all runs of a process."""
    logging.disable(logging.CRITICAL)
    return Served()


def one(dice: Dice) -> str:
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


if __name__ == "__main__":
    main(Fuzzer(one, native=True))
