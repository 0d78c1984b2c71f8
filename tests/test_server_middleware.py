"""Limits of every request, on an app that only says how much it was sent; and the API key, on a real server."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace

import httpx
import openai
import pytest
from server_process import serving

from compresskv_edge.apps.server.metrics import Metrics
from compresskv_edge.apps.server.middleware import Guard
from compresskv_edge.apps.server.settings import ServerSettings


async def counting_app(scope, receive, send):
    scope["route"] = SimpleNamespace(path="/count")
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Client:
    """Sends messages to a Guard around `counting_app`: bytes are pieces of the body, None is silence."""

    def __init__(self, **settings):
        self.metrics = Metrics()
        self.guard = Guard(counting_app, ServerSettings(**settings), self.metrics)

    def __call__(self, *pieces, host="localhost:8000", length=None):
        self.pieces = list(pieces)
        self.answer = []
        headers = [(b"host", host.encode())] + ([(b"content-length", str(length).encode())] if length else [])
        asyncio.run(self.guard({"type": "http", "method": "POST", "headers": headers}, self._receive, self._send))
        if not self.answer:
            return None, b""
        return self.answer[0]["status"], self.answer[1]["body"]

    async def _receive(self):
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        if piece is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def _send(self, message):
        self.answer.append(message)


def test_a_body_within_the_limit_arrives_whole():
    assert Client(max_body_bytes=1024)(b"x" * 1000, b"y" * 24) == (200, b"1024")
    assert Client()(b"") == (200, b"0")


@pytest.mark.parametrize("length", [None, 1025])
def test_a_larger_one_is_refused_whether_it_says_so_or_not(length):
    client = Client(max_body_bytes=1024)
    status, body = client(b"x" * 1000, b"y" * 25, length=length)
    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
    assert client.pieces == []  # read to the end, so that the client reads the answer
    assert 'path="other",status="413"} 1.0' in client.metrics.text().decode()


def test_a_length_that_lies_does_not_help():
    assert Client(max_body_bytes=1024)(b"x" * 2000, length=10)[0] == 413


def test_a_body_that_does_not_come_is_not_waited_for():
    status, body = Client(body_timeout=0.05)(b"x", None)
    assert status == 408
    assert "0.05 s" in json.loads(body)["error"]["message"]


def test_a_client_that_leaves_while_it_sends_gets_nothing():
    client = Client()
    client.guard.app = None  # would raise
    assert client() == (None, b"")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
def test_names_of_this_machine(host):
    assert Client()(b"", host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "", "[::2]"])
def test_a_page_whose_name_was_pointed_here_is_refused(host):
    assert Client()(b"", host=host)[0] == 403


def test_other_names_where_they_are_wanted():
    assert Client(allowed_hosts=["pi.local"])(b"", host="pi.local:80")[0] == 200
    assert Client(allowed_hosts=["pi.local"])(b"", host="localhost")[0] == 403
    assert Client(host="0.0.0.0")(b"", host="pi.local")[0] == 200


def test_answers_are_counted_by_route():
    client = Client()
    client(b"")
    assert 'method="POST",path="/count",status="200"} 1.0' in client.metrics.text().decode()


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    with serving(
        tmp_path_factory.mktemp("locked"), api_key="schlüssel", max_body_bytes=50_000, body_timeout=1
    ) as server:
        yield server


@pytest.mark.parametrize("path", ["v1/models", "metrics", "extras/slots", "extras/sessions", "extras/props"])
def test_nothing_without_the_key(locked, path):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": b"Basic schl\xc3\xbcssel"}):
        answer = httpx.get(locked.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(locked.url + path, headers={"authorization": b"bearer schl\xc3\xbcssel"}).status_code == 200


def test_openai_client_says_that_the_key_is_wrong(locked):
    client = openai.OpenAI(base_url=f"{locked.url}v1", api_key="wrong", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError, match="needs its API key"):
        client.chat.completions.create(model="any", messages=[{"role": "user", "content": "x"}])


def test_page_and_health_are_open(locked):
    assert httpx.get(locked.url).status_code == 200
    assert httpx.get(locked.url + "health").status_code == 200


def test_large_and_slow_bodies_on_a_real_connection(locked):
    assert httpx.post(locked.url + "v1/completions", content=b"x" * 1_000_000).status_code == 413
    host, port = locked.url.split("//")[1].rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
