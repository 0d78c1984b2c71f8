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

from compresskv_edge.apps.server.gate import Gate
from compresskv_edge.apps.server.metrics import Metrics
from compresskv_edge.apps.server.middleware import Guard
from compresskv_edge.apps.server.settings import ServerSettings


async def counting_app(scope, receive, send):
    scope["route"] = SimpleNamespace(path="/count")
    size, more, scope["n_messages"] = 0, True, 0
    while more:
        message = await receive()
        size, more = size + len(message["body"]), message["more_body"]
        scope["n_messages"] += 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


class Client:
    """Sends messages to a Guard around `counting_app`: bytes are pieces of the body, None is silence."""

    def __init__(self, app=counting_app, **settings):
        self.metrics = Metrics()
        made = ServerSettings(**settings)
        self.guard = Guard(app, made, self.metrics, Gate(made, ["GET", "POST"]))

    def __call__(self, *pieces, **more):
        return asyncio.run(self.send(*pieces, **more))

    async def send(self, *pieces, method="POST", length=None, **headers):
        self.pieces, self.n_received = list(pieces), 0
        self.answer = []
        headers = {"host": "localhost:8000", **headers, **({"content-length": str(length)} if length else {})}
        sent = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": "/count", "headers": sent}
        await self.guard(scope, self._receive, self._send)
        self.n_messages = scope.get("n_messages")
        if not self.answer:
            return None, b""
        return self.answer[0]["status"], self.answer[1]["body"]

    async def _receive(self):
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces.pop(0)
        self.n_received += 1
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


def test_a_refused_request_is_not_read_first():
    async def never(scope, receive, send):
        raise AssertionError

    client = Client(never, api_key="secret", body_timeout=0.05)
    assert client(b"x" * 1000, b"y" * 1000, expect="100-continue")[0] == 401
    assert client.n_received == 0
    assert client(b"x" * 2000, method="BREW")[0] == 405
    assert client(b"x" * 2000, origin="https://evil.example", authorization="Bearer secret")[0] == 403


def test_methods_without_a_body_bring_none():
    assert Client()(b"", method="GET") == (200, b"0")
    assert Client()(b"x", method="GET")[0] == 413


def test_many_small_pieces_are_joined_once():
    client = Client(max_body_bytes=1 << 20)
    assert client(*[b"x" * 8] * 20_000) == (200, b"160000")
    assert client.n_messages == 1  # the app gets one


def test_bodies_of_all_requests_together_have_a_limit():
    async def scene():
        client = Client(max_body_bytes=1024)
        client.guard._n_bytes = 4 * 1024 - 10  # what other requests hold
        return client, await client.send(b"x" * 11), await client.send(b"x" * 10)

    client, refused, taken = asyncio.run(scene())
    assert refused[0] == 503
    assert json.loads(refused[1])["error"]["code"] == "overloaded"
    assert taken == (200, b"10")
    assert client.guard._n_bytes == 4 * 1024 - 10  # and gives it back


def test_invented_methods_are_no_labels():
    client = Client()
    for i in range(20):
        assert client(b"", method=f"BREW{i}")[0] == 405
    text = client.metrics.text().decode()
    assert "BREW" not in text
    assert 'method="other",path="other",status="405"} 20.0' in text


@pytest.mark.parametrize("given", ["x" * 65, "a\tb", "über", "<script>", ""])
def test_a_request_id_that_no_log_can_bear_is_replaced(given):
    client = Client()
    client(b"", x_request_id=given)
    answered = dict(client.answer[0]["headers"])[b"x-request-id"]
    assert len(answered) == 32


def test_a_request_id_comes_back():
    client = Client()
    client(b"", x_request_id="mine-1.a:b_c")
    assert dict(client.answer[0]["headers"])[b"x-request-id"] == b"mine-1.a:b_c"


def test_what_nobody_foresaw_is_for_the_log_only(caplog):
    async def breaks(scope, receive, send):
        raise OSError("/home/me/secret.gguf")

    client = Client(breaks)
    status, body = client(b"", x_request_id="mine")
    assert status == 500
    assert "secret" not in body.decode()
    assert "mine" in json.loads(body)["error"]["message"]
    assert "secret.gguf" in caplog.text
    assert "request mine failed" in caplog.text
    assert 'status="500"} 1.0' in client.metrics.text().decode()


def test_a_failure_in_the_middle_of_an_answer_ends_the_connection():
    async def breaks(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("in the middle")

    with pytest.raises(OSError, match="in the middle"):
        Client(breaks)(b"")


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Client().guard({"type": "websocket", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


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
    key = {"authorization": b"Bearer schl\xc3\xbcssel"}
    large = httpx.post(locked.url + "v1/completions", content=b"x" * 1_000_000, headers=key)
    assert large.status_code == 413
    host, port = locked.url.split("//")[1].rstrip("/").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n")
        slow.sendall(b"Authorization: Bearer schl\xc3\xbcssel\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")
