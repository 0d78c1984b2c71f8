"""Free memory: what the system says, within control groups (as files say them), and on the devices of a cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import devices, memory

GIB = 1 << 30


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 GiB, half of them free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB, total=16 * GIB))


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n", encoding="utf-8")
    return root


def test_without_control_groups_the_system_says_it(tmp_path: Path) -> None:
    assert memory.free_bytes(tmp_path) == 8 * GIB
    assert memory.total_bytes(tmp_path) == 16 * GIB


def test_the_groups_of_a_container_of_today(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": 2 * GIB,
            "sys/fs/cgroup/memory.current": GIB,
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB // 4}",
        },
    )
    assert memory.free_bytes(root) == GIB + GIB // 4
    assert memory.total_bytes(root) == 2 * GIB


def test_the_tightest_of_nested_groups_decides(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/our.service",
            "sys/fs/cgroup/system.slice/our.service/memory.max": "max",
            "sys/fs/cgroup/system.slice/our.service/memory.current": 7,
            "sys/fs/cgroup/system.slice/memory.max": 3 * GIB,
            "sys/fs/cgroup/system.slice/memory.current": 2 * GIB,
        },
    )
    assert memory.free_bytes(root) == GIB
    assert memory.total_bytes(root) == 3 * GIB


def test_groups_of_the_first_kind(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "9:name=systemd:/\n4:cpuset,memory:/docker/abc\n1:cpu:/",
            "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": GIB,
            "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": GIB // 2,
            "sys/fs/cgroup/memory/docker/abc/memory.stat": f"total_inactive_file {GIB // 8}",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 9223372036854771712,  # no limit
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 6 * GIB,
        },
    )
    assert memory.free_bytes(root) == GIB // 2 + GIB // 8
    assert memory.total_bytes(root) == GIB


def test_a_path_of_the_host_inside_a_container(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": GIB,
            "sys/fs/cgroup/memory/memory.usage_in_bytes": 2 * GIB,  # more than the limit: nothing is left
        },
    )
    assert memory.free_bytes(root) == 0


def gpu(free: int, kind: str = devices.GPU, name: str = "GPU0") -> devices.Device:
    return devices.Device(name, "a card", kind, free, 24 * GIB if free else 0)


def model(n_gpu_layers: int, split: Any = None) -> Any:
    return SimpleNamespace(n_gpu_layers=n_gpu_layers, tensor_split=split)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda *found: monkeypatch.setattr(devices, "for_layers", lambda params: found)


def test_a_cache_in_video_memory_has_the_devices_figure(cards: Callable[..., None]) -> None:
    cards(gpu(3 * GIB))
    context = SimpleNamespace(offload_kqv=True)
    assert memory.free_for_cache(model(-1), context, 32) == 3 * GIB
    assert memory.free_for_cache(model(33), context, 32) == 3 * GIB
    assert memory.free_for_cache(model(0), context, 32) == 8 * GIB
    assert memory.free_for_cache(model(-1), SimpleNamespace(offload_kqv=False), 32) == 8 * GIB


def test_of_several_places_the_tightest_decides(cards: Callable[..., None]) -> None:
    cards(gpu(3 * GIB))
    context = SimpleNamespace(offload_kqv=True)
    assert memory.free_for_cache(model(17), context, 32) == 6 * GIB, "half of the layers: the card has room for twice"
    cards(gpu(30 * GIB))
    assert memory.free_for_cache(model(17), context, 32) == 16 * GIB, "then the host is the tight one"
    cards(gpu(3 * GIB), gpu(GIB, name="GPU1"))
    assert memory.free_for_cache(model(-1), context, 32) == 4 * GIB, "layers are laid by what is free"
    assert memory.free_for_cache(model(-1, [1.0, 1.0]), context, 32) == 2 * GIB


def test_devices_that_share_the_hosts_memory_or_do_not_tell(cards: Callable[..., None]) -> None:
    context = SimpleNamespace(offload_kqv=True)
    cards(gpu(20 * GIB, devices.INTEGRATED))
    assert memory.free_for_cache(model(-1), context, 32) == 8 * GIB
    cards(gpu(0))
    assert memory.free_for_cache(model(-1), context, 32) == 8 * GIB
    cards()
    assert memory.free_for_cache(model(-1), context, 32) == 8 * GIB


def test_a_loaded_model_asks_where_its_cache_lies(load: Callable[..., Llama], monkeypatch: pytest.MonkeyPatch) -> None:
    llm = load(n_gpu_layers=-1)
    monkeypatch.setattr(devices, "for_layers", lambda params: (gpu(300 << 20),))
    assert llm._compression is not None
    stats = SimpleNamespace(kv_bytes_stock=100 << 20, kv_bytes=0)
    assert llm._compression.choose_prefill(1000, 2000, stats) == "guided", "44 MiB beside the margin are not 50"
    monkeypatch.setattr(devices, "for_layers", lambda params: (gpu(310 << 20),))
    assert llm._compression.choose_prefill(1000, 2000, stats) == "full"


def test_the_real_parameters_are_read(path: str) -> None:
    llm = Llama(path, kv_profile=Profile.uniform(path), n_ctx=256, n_gpu_layers=-1, verbose=False)
    found = devices.for_layers(llm.model_params)
    assert all(device.kind in (devices.GPU, devices.INTEGRATED) for device in found)
    places = (llm.model_params, llm.context_params, 2)
    assert memory.free_for_cache(*places) <= max([8 * GIB, *(2 * device.memory_free for device in found)])
