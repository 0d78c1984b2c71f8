"""Layers on two RPC servers on loopback: the same answers and the same kept tokens, and errors where servers fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import devices
import numpy as np
import pytest
from rpc_servers import free_port, server

from compresskv_edge import Llama
from compresskv_edge.apps.bench import run as bench
from compresskv_edge.apps.bench.result import BenchPlan
from compresskv_edge.engine import native, rpc
from compresskv_edge.errors import EngineError

pytestmark = pytest.mark.rpc

PROMPT = "The survey confirms the limits of the first experiment, and no further comment is made. " * 30
QUESTION = "\n\nQuestion: Which code opens the amber lantern? Answer:"
DOCUMENT = f"{PROMPT}The secret code of the amber lantern is 4817. {PROMPT}{QUESTION}"


class Proxy:
    """A TCP relay that counts the bytes each way, so that a test can see what crosses the network."""

    def __init__(self, port: int) -> None:
        self.to_server = self.to_client = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            for pair in ((client, server, "to_server"), (server, client, "to_client")):
                for end in pair[:2]:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._relay, args=pair, daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, counter: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                setattr(self, counter, getattr(self, counter) + len(data))
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def proxies() -> Iterator[list[Proxy]]:
    with server() as (_, first), server() as (_, second):
        yield [Proxy(first), Proxy(second)]


@pytest.fixture(scope="module")
def servers(proxies: list[Proxy]) -> str:
    return ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)


def opened(model: Path, servers: str | None, **options: object) -> Llama:
    here = devices.available()[0].options
    there = {"rpc_servers": servers, "n_gpu_layers": -1, "tensor_split": [1.0, 1.0]}
    remote = here if servers is None else there
    return Llama(str(model), n_ctx=4096, n_threads=1, n_threads_batch=1, verbose=False, **remote, **options)


def answer(llm: Llama) -> tuple[list[int], np.ndarray]:
    """Eight greedy tokens and the logits of the last of them."""
    tokens: list[int] = []
    for token in llm.generate(llm.tokenize(DOCUMENT.encode()), temp=0.0):
        tokens.append(token)
        if len(tokens) == 8:
            break
    return tokens, np.ctypeslib.as_array(llm._ctx.get_logits(), (llm.n_vocab(),)).copy()


def kept(llm: Llama) -> list[list[int]]:
    return [list(native.positions(llm._ctx.ctx, layer)) for layer in range(5)]


@pytest.mark.parametrize("type_k", [1, 8], ids=["f16", "q8_0"])
def test_two_servers_give_what_one_machine_gives(demo_model: Path, servers: str, type_k: int) -> None:
    options = {"kv_profile": "demo", "kv_budget": 0.12, "type_k": type_k, "type_v": type_k}
    here, there = opened(demo_model, None, **options), opened(demo_model, servers, **options)
    tokens, logits = answer(here)
    remote_tokens, remote_logits = answer(there)
    assert kept(there) == kept(here)
    assert remote_tokens == tokens
    np.testing.assert_array_equal(remote_logits, logits)
    assert there.kv_stats().kv_bytes == here.kv_stats().kv_bytes < here.kv_stats().kv_bytes_peak


def test_without_a_profile_they_are_stock(demo_model: Path, servers: str) -> None:
    tokens, logits = answer(opened(demo_model, None))
    remote_tokens, remote_logits = answer(opened(demo_model, servers))
    assert remote_tokens == tokens
    np.testing.assert_array_equal(remote_logits, logits)


def test_an_eviction_moves_scores_and_indices_not_the_cache(
    demo_model: Path, servers: str, proxies: list[Proxy]
) -> None:
    llm = opened(demo_model, servers, kv_profile="demo", kv_budget=0.12, kv_prefill="full")
    tokens = llm.tokenize(DOCUMENT.encode())
    llm.eval(tokens)
    llm.compress()  # what the first graph of its kind sets up is not counted
    llm.reset()
    llm.eval(tokens)
    cache = native.stats(llm._ctx.ctx).kv_bytes
    before = [(proxy.to_client, proxy.to_server) for proxy in proxies]
    llm.compress()
    received = sum(proxy.to_client - b[0] for proxy, b in zip(proxies, before))
    sent = sum(proxy.to_server - b[1] for proxy, b in zip(proxies, before))
    scores = 5 * len(tokens) * 4
    assert received <= scores + 16384, "more than one float a token and layer came to the host"
    assert received >= scores // 2, "the scores did not come over the network: nothing was measured"
    assert sent < cache / 4, "the cache itself was sent"


def test_the_benchmark_measures_servers(demo_model: Path, servers: str, proxies: list[Proxy]) -> None:
    plan = BenchPlan(300, 64, 8, repeats=1, n_threads=1, tail_tokens=48, n_gpu_layers=-1, rpc_servers=servers)
    before = [proxy.to_server for proxy in proxies]
    result = bench.run(demo_model, plan)
    assert len(result.compressed.decode_ms) == 1
    weights = demo_model.stat().st_size
    assert sum(proxy.to_server - b for proxy, b in zip(proxies, before)) > 2.5 * weights, "three models on the servers"


def test_a_server_that_dies_is_an_error(demo_model: Path) -> None:
    script = Path(__file__).with_name("rpc_server_dies.py")
    with server() as (process, port):
        command = [sys.executable, str(script), str(demo_model), f"127.0.0.1:{port}", str(process.pid)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.split() == ["decoded", "EngineError", "EngineError", "closed", "EngineError", "alone"], (
        result.stderr
    )


@pytest.fixture
def namespace() -> Iterator[tuple[list[str], str]]:
    """A network of its own: what runs a command there, and its address. Its network device is called `there`."""
    name = f"ckv{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        link = ["ip", "link", "add", f"{name}h", "type", "veth", "peer", "name", "there", "netns", name]
        subprocess.run(link, check=True)
        for where, device, address in (([], f"{name}h", "10.77.13.1/30"), (inside, "there", "10.77.13.2/30")):
            subprocess.run([*where, "ip", "address", "add", address, "dev", device], check=True)
            subprocess.run([*where, "ip", "link", "set", device, "up"], check=True)
        yield inside, "10.77.13.2"
    finally:
        subprocess.run(["ip", "link", "delete", f"{name}h"])
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"),
    reason="a network that can be taken away needs a namespace of its own: Linux, root, iproute2",
)
def test_a_server_whose_network_goes_is_an_error(demo_model: Path, namespace: tuple[list[str], str]) -> None:
    """Nothing comes back, no connection is closed: as when a board loses its power."""
    inside, host = namespace
    script = Path(__file__).with_name("rpc_network_goes.py")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with server(host, inside) as (_, first), server(host, inside) as (_, second):
        clients = [
            subprocess.Popen([sys.executable, str(script), str(demo_model), f"{host}:{port}", when], **pipes)
            for port, when in ((first, "idle"), (second, "busy"))
        ]
        try:
            assert [client.stdout.readline() for client in clients] == ["decoded\n", "decoded\n"]
            time.sleep(1)  # the second one is busy
            subprocess.run([*inside, "ip", "link", "set", "there", "down"], check=True)
            ends = [client.communicate("\n", timeout=240)[0].split() for client in clients]
        finally:
            for client in clients:
                client.kill()
    assert ends == [["EngineError", "closed"]] * 2


def test_addresses_are_checked() -> None:
    for wrong in ("", "localhost", "localhost:", "localhost:x", "localhost:70000", ":50052"):
        with pytest.raises(EngineError):
            rpc.parse(wrong)
    assert rpc.parse("a:1, b:2") == ["a:1", "b:2"]


def test_nobody_there(demo_model: Path) -> None:
    with pytest.raises(EngineError, match="compresskv rpc-server"):
        Llama(str(demo_model), rpc_servers=f"127.0.0.1:{free_port()}", verbose=False)


def test_a_port_that_is_taken() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EngineError, match="choose another --port"),
    ):
        rpc.serve(port=taken.getsockname()[1])
