"""Requests that no client would send: none may end the process, and none may be answered with an error of the server's.

    python tests/fuzz/server_requests.py --seconds 60

The app runs in this process, around the demo model. A failure prints the request; --seed and --requests repeat it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import httpx

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


async def fuzz(dice: Dice, goes_on: Callable[[int], bool], last: Path) -> Dict[int, int]:
    """How often each status came. Raises AssertionError for one that must not. `last` holds the request under way."""
    seen: Counter[int] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        model = ModelSettings(
            model=str(model_path()), kv_profile="uniform", kv_budget=64, n_ctx=256, n_threads=1, n_threads_batch=1
        )
        app = create_app(ServerSettings(sessions_dir=folder, document_timeout=20), [model])
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), client:
            while goes_on(sum(seen.values())):
                sent = request(dice)
                last.write_text(repr(sent), encoding="utf-8")
                status, text = await status_of(client, sent)
                seen[status] += 1
                failed = (status >= 500 and status not in ALLOWED) or '"code": "failed"' in text
                assert not failed, f"{status} {text[:300]}\nfor {sent}"
            usual = {**CHAT, "temperature": 0}
            answer = await client.post("/v1/chat/completions", json=usual)
            assert answer.status_code == 200, f"the server does not answer any more: {answer.text}"
    return dict(sorted(seen.items()))


def watched() -> int:
    """All of it in a process of its own, which a request may end; then that request is shown."""
    with tempfile.TemporaryDirectory() as folder:
        last = Path(folder) / "last.txt"
        status = subprocess.run([sys.executable, "-X", "faulthandler", *sys.argv, "--within", str(last)]).returncode
        if status not in (0, 1):
            print(f"the process ended with {status} at {last.read_text(encoding='utf-8')}", file=sys.stderr)
    return int(status != 0)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", "--runs", type=int, help="so many, in place of --seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)  # the process that may be ended
    given = parser.parse_args()
    if given.within is None:
        return watched()
    until = time.monotonic() + given.seconds

    def goes_on(done: int) -> bool:
        return done < given.requests if given.requests is not None else time.monotonic() < until

    seen = asyncio.run(fuzz(Dice(given.seed), goes_on, given.within))
    print(f"{sum(seen.values())} requests with seed {given.seed}; how often each status: {seen}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
