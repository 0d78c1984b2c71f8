"""tools/vulkan.py decides what to install and which device to use; the build itself is `make test-vulkan`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "vulkan.py"


@pytest.fixture
def vulkan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The tool, with a build folder of its own."""
    spec = importlib.util.spec_from_file_location("vulkan_tool", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BUILD", tmp_path)
    monkeypatch.setattr(module, "HEADERS", tmp_path / "headers")
    return module


def write_headers(include: Path, version: int) -> None:
    (include / "vulkan").mkdir(parents=True)
    (include / "vulkan" / "vulkan_core.h").write_text(f"// x\n#define VK_HEADER_VERSION {version}\n#define Y 1\n")


def test_new_system_headers_are_taken(vulkan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_headers(tmp_path / "sdk" / "include", vulkan.OLDEST_HEADERS)
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "sdk"))
    assert vulkan.find_headers() is None


def test_old_system_headers_are_not(vulkan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_headers(tmp_path / "sdk" / "include", vulkan.OLDEST_HEADERS - 1)
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "sdk"))
    fetched = tmp_path / "headers" / "usr" / "include"
    monkeypatch.setattr(vulkan, "unpack_newer_headers", lambda: write_headers(fetched, vulkan.OLDEST_HEADERS))
    assert vulkan.find_headers() == fetched
    monkeypatch.setattr(vulkan, "unpack_newer_headers", lambda: pytest.fail("they are there"))
    assert vulkan.find_headers() == fetched


def test_a_system_without_debians_packages_is_told_what_to_do(
    vulkan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VULKAN_SDK", str(tmp_path / "nothing"))
    monkeypatch.setattr(vulkan, "KEYRING", tmp_path / "no-keyring")
    with pytest.raises(vulkan.VulkanError, match="Vulkan SDK"):
        vulkan.find_headers()


@pytest.mark.parametrize(
    ("n_gpus", "given", "want"), [(0, None, "0"), (2, None, None), (0, "1", "1"), (0, "", "")], ids=str
)
def test_the_software_driver_is_named_only_without_a_gpu(
    n_gpus: int, given: Any, want: Any, vulkan: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", given)
    monkeypatch.setattr(vulkan, "n_devices", lambda env: n_gpus)
    assert vulkan.environment().get("GGML_VK_VISIBLE_DEVICES") == want


def test_a_command_is_refused_without_a_device(
    vulkan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulkan, "LIBRARIES", tmp_path)
    with pytest.raises(vulkan.VulkanError, match="make build-vulkan"):
        vulkan.run_with_build(["true"])
    (tmp_path / "libllama.so").touch()
    monkeypatch.setattr(vulkan, "n_devices", lambda env: 0)
    with pytest.raises(vulkan.VulkanError, match="no Vulkan device"):
        vulkan.run_with_build(["true"])
