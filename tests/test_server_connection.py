"""Limits of connections, on a real socket around an app that answers with as much as it is asked for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading

import pytest
import uvicorn

from compresskv_edge.apps.server.connection import limited
from compresskv_edge.apps.server.settings import ServerSettings

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
PIECE = b"x" * 65536


async def app(scope, receive, send):
    n = 400 if scope["path"] == "/large" else 0
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(n):
        await send({"type": "http.response.body", "body": PIECE, "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


@contextlib.contextmanager
def listening(**settings):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=limited(ServerSettings(**settings)), ws="none", lifespan="off", log_level="critical"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    listener.listen()
    thread.start()
    try:
        yield listener.getsockname(), server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def connect(address):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect(address)
    return client


def answer(client):
    """The next one, which is a short one."""
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        got += client.recv(1000)
    return got


def ended(client):
    """All that comes until the server hangs up; a reset is an end as well."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            got += data
    client.close()
    return got


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(sent):
    with listening(body_timeout=0.2) as (address, _):
        client = connect(address)
        client.sendall(sent)
        assert ended(client) == b""


def test_nor_the_next_one_on_a_connection_that_was_used():
    with listening(body_timeout=0.2) as (address, _):
        client = connect(address)
        client.sendall(GET)
        assert answer(client).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET / HT")
        assert b"HTTP/1.1" not in ended(client)


def test_a_head_that_comes_in_time_is_answered_more_than_once():
    with listening(body_timeout=5) as (address, _):
        client = connect(address)
        for _ in range(3):
            for byte in GET:
                client.sendall(bytes([byte]))
            assert answer(client).startswith(b"HTTP/1.1 200")
        client.close()


def test_one_connection_too_many_is_told_so():
    with listening(max_connections=2) as (address, _):
        waiting = [connect(address) for _ in range(2)]
        for client in waiting:
            client.sendall(GET)
            answer(client)  # both are there
        third = connect(address)
        third.sendall(GET)
        head, _, body = ended(third).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert json.loads(body)["error"]["code"] == "overloaded"
        waiting.pop().close()
        waiting[0].sendall(GET)  # who was there stays
        assert answer(waiting.pop()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_an_answer_that_is_not_read_is_not_kept(close):
    with listening(send_timeout=0.2) as (address, server):
        client = connect(address)
        client.sendall(LARGE.replace(b"\r\n\r\n", b"\r\n" + close + b"\r\n"))
        wait_for(lambda: server.server_state.total_requests or not server.server_state.connections)
        wait_for(lambda: not server.server_state.connections)
        assert len(ended(client)) < 400 * len(PIECE)


def test_a_short_answer_that_is_not_read_does_not_hold_the_connection():
    # it fits the buffer, so that uvicorn takes it for sent, and would wait without end to close
    with listening(send_timeout=0.2) as (address, server):
        client = connect(address)
        client.sendall(b"POST /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        wait_for(lambda: not server.server_state.connections)
        client.close()


def wait_for(condition):
    until = threading.Event()
    for _ in range(2000):
        if condition():
            return
        until.wait(0.01)
    raise AssertionError("it did not happen")
