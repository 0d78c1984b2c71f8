"""Requests that no client would send, at random."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple

from compresskv_edge.apps.server.requests import ChatRequest, CompletionRequest

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


@dataclass(frozen=True)
class Sent:
    """A request, as a failure shows it."""

    method: str
    path: str
    headers: List[Tuple[str, bytes]]
    body: bytes
    patience: Optional[int]  # turns of the event loop until the client leaves


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
        data[at : at + dice.randint(0, 3)] = dice.choice(PIECES)
    return bytes(data)


# what reads a body is worth most; what only tells something has little to get wrong
_WEIGHTS = [20, 10] + [3 if method != "GET" else 0.5 for method, _, _, _ in ROUTES[2:]]


def request(dice: Dice) -> Sent:
    """A random one."""
    method, path, body, fields = dice.choices(ROUTES, _WEIGHTS)[0]
    if dice.random() < (0.05 if body is None else 0.9):
        body = changed(dice, body, fields)
    raw = b"" if body is None else json.dumps(body).encode()
    raw = torn(dice, raw) if raw and dice.random() < 0.15 else raw
    if "document" in path:
        pdf = dice.random() < 0.002  # read in a process of its own, for a second
        path = f"/extras/document?name={'a.PDF' if pdf else dice.choice(['a.txt', '..', '%00', '%FF.md', ''])}"
    if "sessions/" in path and dice.random() < 0.3:
        path = path.replace("/chat", dice.choice(NAMES))
    headers = {"content-type": "application/json", **dict(dice.choices(HEADERS, k=dice.choice([0, 0, 0, 1, 2])))}
    method = dice.choice(["BREW", "PATCH", "OPTIONS", "HEAD"]) if dice.random() < 0.03 else method
    patience = dice.randrange(60) if dice.random() < 0.1 else None
    return Sent(method, path, [(name, text.encode("latin-1")) for name, text in headers.items()], raw, patience)
