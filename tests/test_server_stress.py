"""The server under bursts of 200 requests of every kind at once, and what it holds in memory afterwards."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import httpx
import pytest
from server_process import serving

N_REQUESTS = 200
N_BURSTS = 3
SHORT = {"max_tokens": 4, "temperature": 0}
ENDLESS = {"max_tokens": 6000, "grammar": "root ::= [a-z ] root", "stream": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("stress"), n_slots=2, send_timeout=1, max_waiting=N_REQUESTS) as running:
        yield running


def messages(i):
    return {"messages": [{"role": "user", "content": f"Question {i}: " + "the gardener carried water. " * (5 + i % 9)}]}


async def answer(client, i):
    response = await client.post("v1/chat/completions", json={**messages(i), **SHORT})
    return response.status_code, "usage" in response.json()


async def stream(client, i):
    async with client.stream("POST", "v1/chat/completions", json={**messages(i), **SHORT, "stream": True}) as response:
        lines = [line async for line in response.aiter_lines() if line]
    return response.status_code, lines[-1] == "data: [DONE]"


async def malformed(client, i):
    body = (b'{"messages": [', b"nonsense", b'{"messages": 3}', b"")[i % 4]
    response = await client.post("v1/chat/completions", content=body, headers={"content-type": "application/json"})
    return response.status_code, "error" in response.json()


async def too_long(client, i):
    body = {"messages": [{"role": "user", "content": "x " * 9000}], "stream": bool(i % 2)}
    response = await client.post("v1/chat/completions", json=body)
    return response.status_code, response.json()["error"]["code"] == "context_length_exceeded"


async def dropped(client, i):
    async with client.stream("POST", "v1/chat/completions", json={**messages(i), **ENDLESS}) as response:
        async for _ in response.aiter_bytes():
            break
    return response.status_code, True


async def dropped_in_line(client, i):
    try:
        response = await client.post(
            "v1/chat/completions", json={**messages(i), **SHORT}, timeout=0.2 + 0.01 * (i % 20)
        )
    except httpx.TimeoutException:
        return 200, True  # left, as it meant to
    return response.status_code, True


KINDS = {answer: 200, stream: 200, malformed: 400, too_long: 400, dropped: 200, dropped_in_line: 200}


async def burst(url):
    limits = httpx.Limits(max_connections=N_REQUESTS)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        kinds = [list(KINDS)[i % len(KINDS)] for i in range(N_REQUESTS)]
        answers = await asyncio.gather(*(kind(client, i) for i, kind in enumerate(kinds)))
    wrong = [(kind.__name__, got) for kind, got in zip(kinds, answers) if got != (KINDS[kind], True)]
    assert wrong == []


def idle(url):
    until = time.monotonic() + 60
    while True:
        state = httpx.get(url + "extras/slots").json()
        if not state["waiting"] and not any(slot["busy"] for slot in state["slots"]):
            return
        assert time.monotonic() < until, f"a slot stays busy: {state}"
        time.sleep(0.05)


@pytest.mark.slow
def test_bursts_leave_nothing_behind(server):
    asyncio.run(burst(server.url))  # allocators and caches warm up
    asyncio.run(burst(server.url))
    idle(server.url)
    before = server.resident_bytes()
    for _ in range(N_BURSTS):
        asyncio.run(burst(server.url))
    idle(server.url)
    assert server.resident_bytes() < 1.05 * before
    assert httpx.get(server.url + "metrics").text.count('status="500"') == 0


def test_slow_readers_hold_no_slot_and_are_dropped(server):
    host, port = server.url.split("//")[1].rstrip("/").split(":")
    body = json.dumps({**messages(1), **ENDLESS}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    readers = []
    for _ in range(2):  # as many as slots
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, int(port)))
        reader.sendall(head.encode() + body)
        readers.append(reader)
    response = httpx.post(server.url + "v1/chat/completions", json={**messages(2), **SHORT}, timeout=120)
    assert response.status_code == 200
    idle(server.url)
    for reader in readers:
        reader.settimeout(30)
        n_bytes = 0
        while data := reader.recv(65536):
            n_bytes += len(data)
        reader.close()
        assert n_bytes < 6000 * 150  # the rest was never sent


def test_it_still_answers(server):
    assert asyncio.run(_one(server.url)) == (200, True)


async def _one(url):
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        return await answer(client, 1)
