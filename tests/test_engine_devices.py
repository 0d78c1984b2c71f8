"""What ggml can compute on."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

import pytest
from rpc_servers import server

from compresskv_edge.engine import devices, rpc


def test_the_cpu_is_a_backend() -> None:
    found = [device for device in devices.found() if device.kind == devices.CPU]
    assert len(found) == 1
    assert found[0].memory_total == pytest.approx(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), rel=0.01)


@pytest.mark.rpc
def test_a_server_tells_its_memory_and_one_that_has_gone_does_not_end_the_process() -> None:
    with server() as (_, port):
        endpoint = f"127.0.0.1:{port}"
        there = rpc.devices(rpc.add_servers(endpoint))
        params = SimpleNamespace(devices=ctypes.cast(there, ctypes.c_void_p), split_mode=1, main_gpu=0)
        alive = devices.for_layers(params)[0]
        assert (alive.description, alive.kind) == (endpoint, devices.GPU)
        assert 0 < alive.memory_free <= alive.memory_total
    gone = next(device for device in devices.found() if device.description == endpoint)
    assert (gone.memory_free, gone.memory_total) == (0, 0)


@pytest.mark.rpc
def test_one_device_alone() -> None:
    with server() as (_, first), server() as (_, second):
        there = rpc.devices(rpc.add_servers(f"127.0.0.1:{first},127.0.0.1:{second}"))
        params = SimpleNamespace(devices=ctypes.cast(there, ctypes.c_void_p), split_mode=0, main_gpu=1)
        assert [device.description for device in devices.for_layers(params)] == [f"127.0.0.1:{second}"]
