"""tools/vulkan.py decides what to install and which device to use; the build itself is `make test-vulkan`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any, Optional

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
    monkeypatch.setattr(module, "DRIVER", tmp_path / "driver")
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
    monkeypatch.setattr(vulkan, "newer_driver", lambda: None)
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


@pytest.mark.parametrize(
    ("installed", "want"), [("22.3.6-1+deb12u2", 22), ("1:25.0.7-2", 25), ("", None), ("unknown", None)], ids=str
)
def test_mesas_version_is_read(
    installed: str, want: Optional[int], vulkan: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vulkan.shutil, "which", lambda name: name)
    monkeypatch.setattr(vulkan, "output_of", lambda *command, **options: installed)
    assert vulkan.driver_version() == want


@pytest.mark.parametrize(("version", "n_unpacked"), [(22, 1), (25, 0), (None, 0)], ids=str)
def test_an_old_software_driver_is_not_used(
    version: Optional[int], n_unpacked: int, vulkan: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = []

    def unpack(packages: Any, suite: str, folder: Path, complaint: str) -> None:
        unpacked.append(folder)
        (folder / "usr/lib/any").mkdir(parents=True)
        (folder / "usr/lib/any/libvulkan_lvp.so").touch()

    monkeypatch.setattr(vulkan, "unpack", unpack)
    monkeypatch.setattr(vulkan, "driver_version", lambda: version)
    monkeypatch.setattr(vulkan, "n_devices", lambda env: 0)
    monkeypatch.delenv("GGML_VK_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("VK_ICD_FILENAMES", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    for _ in range(2):
        env = vulkan.environment()
    assert unpacked == [vulkan.DRIVER] * n_unpacked
    if not n_unpacked:
        assert "VK_ICD_FILENAMES" not in env
        return
    library = json.loads(Path(env["VK_ICD_FILENAMES"]).read_text(encoding="utf-8"))["ICD"]["library_path"]
    assert Path(library) == vulkan.DRIVER / "usr/lib/any/libvulkan_lvp.so"
    assert env["LD_LIBRARY_PATH"].split(":") == [str(Path(library).parent), "/before"]
    monkeypatch.setattr(vulkan, "n_devices", lambda env: 1)  # a GPU has its own driver
    assert "VK_ICD_FILENAMES" not in vulkan.environment()


def test_without_debian_an_old_software_driver_is_refused(vulkan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "driver_version", lambda: 22)
    monkeypatch.setattr(vulkan, "output_of", lambda *command, **options: "")
    with pytest.raises(vulkan.VulkanError, match="Mesa 25"):
        vulkan.newer_driver()
