"""Ten thousand requests of every kind at one server, many of which leave early: does its memory stand still?

    python tools/soak_server.py --requests 10000

Starts `compresskv serve demo` on loopback and prints its resident memory as it goes. The exit status is 1 if, after the
first thousand requests, it grows by more than 1 % (`growth_of`), or if any answer was not the expected one.
Memory that has a bound reaches it first: each slot holds one conversation of full length, as ggml's buffers stay as
large as the longest needed them, and the first thousand come twice as many at once, as Python's allocator keeps blocks
of 1 MiB from its busiest moment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, List

import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from server_process import ServerProcess, serving

WARM_UP = 1000
AT_ONCE = 8
N_SLOTS, N_CTX = 2, 2048
ALLOWED_GROWTH = 0.01
SHORT = {"max_tokens": 4, "temperature": 0}
ENDLESS = {"max_tokens": 2000, "grammar": "root ::= [a-z ] root", "stream": True}
CHAT = "v1/chat/completions"

Client = httpx.AsyncClient
Dice = random.Random


def messages(dice: Dice) -> Dict[str, Any]:
    """A conversation that no other request has, of 20 to 80 tokens."""
    text = "the gardener carried water. " * dice.randint(1, 8)
    return {"messages": [{"role": "user", "content": f"Question {dice.random()}: {text}"}]}


async def whole(client: Client, dice: Dice) -> bool:
    """An answer in one piece."""
    response = await client.post(CHAT, json={**messages(dice), **SHORT})
    return response.status_code == 200 and "usage" in response.json()


async def stream(client: Client, dice: Dice) -> bool:
    """An answer as a stream, read to its end."""
    async with client.stream("POST", CHAT, json={**messages(dice), **SHORT, "stream": True}) as response:
        lines = [line async for line in response.aiter_lines() if line]
    return lines[-1] == "data: [DONE]"


async def dropped(client: Client, dice: Dice) -> bool:
    """A stream that its client leaves after the first piece."""
    async with client.stream("POST", CHAT, json={**messages(dice), **ENDLESS}) as response:
        async for _ in response.aiter_bytes():
            break
    return response.status_code == 200


async def left(client: Client, dice: Dice) -> bool:
    """A client that leaves in line, in the prompt or in the answer, as it comes."""
    with contextlib.suppress(httpx.TimeoutException):
        await client.post(CHAT, json={**messages(dice), **SHORT}, timeout=dice.uniform(0.001, 0.2))
    return True


async def malformed(client: Client, dice: Dice) -> bool:
    """What is no request."""
    body = dice.choice([b'{"messages": [', b"nonsense", b'{"messages": 3}', b""])
    response = await client.post(CHAT, content=body, headers={"content-type": "application/json"})
    return response.status_code == 400


async def saved(client: Client, dice: Dice) -> bool:
    """A chat that is saved, opened and deleted."""
    path = f"extras/sessions/chat {dice.randint(1, 10**9)}"
    said = messages(dice)["messages"]
    answers = [
        await client.put(path, json={"messages": said, "turns": said}),
        await client.post(f"{path}/open"),
        await client.delete(path),
    ]
    return [answer.status_code for answer in answers] == [200] * 3


async def looked(client: Client, dice: Dice) -> bool:
    """What monitoring and the page ask for."""
    response = await client.get(dice.choice(["metrics", "extras/slots", "extras/props", "health", "", "nowhere"]))
    return response.status_code in (200, 404)


Kind = Callable[[Client, Dice], Awaitable[bool]]
KINDS: Dict[Kind, int] = {whole: 30, stream: 20, dropped: 15, left: 20, malformed: 5, saved: 3, looked: 7}


async def send(url: str, n: int, at_once: int, dice: Dice, failed: Counter[str]) -> None:
    """`n` requests, `at_once` at a time."""
    todo = iter(dice.choices(list(KINDS), list(KINDS.values()), k=n))

    async def worker(client: Client) -> None:
        for kind in todo:
            if not await kind(client, dice):
                failed[kind.__name__] += 1

    # the server hangs up on idle connections, and a client on a busy machine may notice too late: each is used once
    limits = httpx.Limits(max_keepalive_connections=0)
    async with Client(base_url=url, timeout=300, limits=limits) as client:
        await asyncio.gather(*(worker(client) for _ in range(at_once)))


def fill(url: str) -> None:
    """A conversation to the last position in each slot."""
    with httpx.Client(base_url=url, timeout=300) as client:
        for i in range(N_SLOTS):
            words = f"{i} " + "lantern. " * (N_CTX // 4)
            body = {"messages": [{"role": "user", "content": words}], **ENDLESS, "stream": False}
            client.post(CHAT, json=body).raise_for_status()


def settle(url: str) -> None:
    """Bring the slots into the same state each time: what a slot holds depends on its last conversation."""
    with httpx.Client(base_url=url, timeout=300) as client:
        while any(slot["busy"] for slot in client.get("extras/slots").json()["slots"]):
            time.sleep(0.02)  # the threads of those that were left have to notice
        for text in (
            "lanterns. " * 100,
            "gardens. " * 100,
        ):  # one a slot: a new conversation takes the one idle longest
            body = {"messages": [{"role": "user", "content": text}], **SHORT}
            client.post(CHAT, json=body).raise_for_status()


def soak(server: ServerProcess, n_requests: int, step: int, dice: Dice) -> Dict[str, Any]:
    """Resident bytes after each step."""
    failed: Counter[str] = Counter()
    resident: List[int] = []
    fill(server.url)
    for done in range(step, n_requests + 1, step):
        at_once = 2 * AT_ONCE if done <= WARM_UP else AT_ONCE
        asyncio.run(send(server.url, step, at_once, dice, failed))
        settle(server.url)
        resident.append(server.resident_bytes())
        print(f"{done:6} requests: {resident[-1] / 2**20:.2f} MiB", flush=True)
    growth = growth_of(resident[WARM_UP // step - 1 :])
    return {"requests": n_requests, "growth": growth, "failed": dict(failed), "resident_bytes": resident}


def growth_of(resident: List[int]) -> float:
    """From the median of the first quarter of the samples to that of the last; one sample varies by half a per cent."""
    quarter = max(len(resident) // 4, 1)
    return statistics.median(resident[-quarter:]) / statistics.median(resident[:quarter]) - 1


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--step", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), n_slots=N_SLOTS, n_ctx=N_CTX, max_waiting=64) as server,
    ):
        try:
            result = soak(server, given.requests, given.step, random.Random(given.seed))
        except httpx.HTTPError:
            print(
                f"the server's process: {server.process.poll()}", (Path(folder) / "log.txt").read_text(encoding="utf-8")
            )
            raise
        crashed = server.process.poll() is not None
        log = (Path(folder) / "log.txt").read_text(encoding="utf-8")
    print(f"growth after the first {WARM_UP}: {result['growth']:.2%}; unexpected answers: {result['failed'] or 'none'}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "Traceback" in log:
        print(log, file=sys.stderr)
    return int(result["growth"] > ALLOWED_GROWTH or bool(result["failed"]) or crashed or "Traceback" in log)


if __name__ == "__main__":
    raise SystemExit(main())
