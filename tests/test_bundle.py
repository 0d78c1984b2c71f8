"""tools/bundle.py packs, tools/bundle_run.py unpacks and runs; `make rehearse-bundle` does both with all there is."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import lzma
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Callable

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
THIS = f"{sys.version_info[0]}.{sys.version_info[1]}"

FAKE_PYTEST = """
import sys
print("pytest", sys.argv[1:])
for argument in sys.argv:
    if argument.startswith("--junitxml="):
        suite = '<testsuites><testsuite tests="3" failures="1" errors="0" skipped="0"/></testsuites>'
        open(argument.partition("=")[2], "w").write(suite)
        sys.exit(1)
"""
FAKE_COMMAND = """
import sys
if "--json" in sys.argv:
    open(sys.argv[sys.argv.index("--json") + 1], "w").write(sys.argv[sys.argv.index("--budget") + 1])
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """`load(name)`: a module of tools/, which has modules of its own beside it."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def make(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)  # dataclasses ask for it
        spec.loader.exec_module(module)
        return module

    return make


@pytest.fixture
def bundle(load: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """tools/bundle.py with almost nothing to pack."""
    module = load("bundle")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    files = [("app/compresskv_edge/__init__.py", b""), ("app/compresskv_edge/__main__.py", FAKE_COMMAND.encode())]
    monkeypatch.setattr(module, "libraries", lambda build: [("lib/libggml.so", b"1"), ("stock/libllama.so", b"2")])
    monkeypatch.setattr(module, "own_files", lambda: files)
    both = [(f"site-{python}/pytest.py", FAKE_PYTEST.encode()) for python in (THIS, "2.7")]
    monkeypatch.setattr(module, "dependencies", lambda pythons: both)
    return module


@pytest.fixture
def runner(load: Callable[[str], ModuleType]) -> ModuleType:
    return load("bundle_run")


#
# packing
#


def test_of_a_wheel_only_what_is_imported_is_kept(bundle: ModuleType, tmp_path: Path) -> None:
    unused = ["a/tests/test_a.py", "a/a.pyi", "a/include/a.h", "a-1.dist-info/RECORD", "a-1.data/scripts/a", "a/"]
    used = ["a/__init__.py", "a/c.so", "a/testing/x.py", "a-1.dist-info/METADATA", "a-1.dist-info/entry_points.txt"]
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*unused, *used, "a-1.data/purelib/b.py", "a-1.data/platlib/c.py"):
            archive.writestr(name, name)
    names = [name for name, _ in bundle.unpacked([wheel], "3.12")]
    assert names == [f"site-3.12/{name}" for name in (*used, "b.py", "c.py")]


def test_equal_files_stand_side_by_side(bundle: ModuleType) -> None:
    files = [(f"site-{python}/{name}", name.encode()) for python in ("3.10", "3.12") for name in ("numpy/a", "cffi/b")]
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(bundle.packed(files)))) as tar:
        assert tar.getnames() == ["site-3.10/cffi/b", "site-3.12/cffi/b", "site-3.10/numpy/a", "site-3.12/numpy/a"]
        member = tar.extractfile("site-3.12/numpy/a")
        assert member is not None
        assert member.read() == b"numpy/a"


def test_the_binding_comes_without_its_wheel(bundle: ModuleType) -> None:
    needs = bundle.requirements()
    assert "pytest" in needs
    assert any(need.startswith("diskcache") for need in needs), "what the binding needs"
    assert not any(need.startswith("llama-cpp-python") or "extra ==" in need for need in needs)


def test_a_bundle_that_is_too_large_is_told(bundle: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_MIB", 0)
    with pytest.raises(bundle.BundleError, match=r"MiB, more than 0: name fewer Pythons"):
        bundle.write(bundle.ROOT / "dist" / "x.pyz", bundle.cpu_build(), [THIS])


def test_a_missing_build_is_told(load: Callable[[str], ModuleType], tmp_path: Path) -> None:
    module = load("bundle")
    build = dataclasses.replace(module.cpu_build(), folder=tmp_path)
    with pytest.raises(module.BundleError, match="make setup stock"):
        list(module.libraries(build))


#
# running
#


@pytest.fixture
def started(bundle: ModuleType, tmp_path: Path) -> Callable[..., Any]:
    """`started(*options, **plan)`: (exit status, report.json, folder) of such a bundle, run by this Python alone."""

    def start(*options: str, **changes: Any) -> Any:
        path, out = tmp_path / "dist" / "bundle.pyz", tmp_path / "out"
        bundle.write(path, dataclasses.replace(bundle.cpu_build(), **changes), [THIS])
        command = [sys.executable, "-I", str(path), "--out", str(out), *options]
        status = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode
        return status, json.loads((out / "report.json").read_text()), out

    return start


def test_every_step_is_in_the_report(started: Callable[..., Any]) -> None:
    status, report, out = started(budgets=(64, 128))
    assert status == 1
    steps = {step["name"]: step["status"] for step in report["steps"]}
    fine = dict.fromkeys(("doctor", "self-test", "bench-64", "bench-128"), "ok")
    assert steps == {**fine, "tests": "exit 1"}, (out / "log.txt").read_text()
    assert report["tests"] == {"tests": 3, "failures": 1, "errors": 0, "skipped": 0}
    assert report["error"] is None
    assert (out / "bench-64.json").read_text() == "64"
    assert "'-k', 'cpu'" in (out / "log.txt").read_text()


def test_without_time_nothing_is_begun(started: Callable[..., Any]) -> None:
    status, report, _ = started("--minutes", "0.01")
    assert status == 1
    assert {step["status"] for step in report["steps"]} == {"no time was left"}


def test_what_the_machine_lacks_is_in_the_report(bundle: ModuleType, started: Callable[..., Any]) -> None:
    status, report, _ = started(runtime=(Path("libcudart.so.99"),))
    assert (status, report["steps"]) == (1, [])
    assert "no libcublas.so.99" in report["error"]
    assert "CUDA_PATH" in report["error"]


def test_another_python_is_refused(runner: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(runner.RunError, match=r"made for Python 2.7 on .*try python2.7, or BUNDLE_PYTHONS="):
        runner.unpack(None, {"machine": platform.machine(), "pythons": ["2.7"]}, tmp_path)


@pytest.mark.parametrize(
    ("code", "limit_s", "want"),
    [
        ("print('said')", 60, "ok"),
        ("raise SystemExit(3)", 60, "exit 3"),
        ("print('said', flush=True); import time; time.sleep(600)", 2, "stopped: out of time"),
        ("import time, signal; signal.signal(2, signal.SIG_IGN); time.sleep(600)", 2, "killed: out of time"),
    ],
    ids=["ok", "exit", "stopped", "killed"],
)
def test_how_a_command_ended(
    code: str, limit_s: float, want: str, runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RESERVE_S", 4)
    log = tmp_path / "log.txt"
    assert runner.run([sys.executable, "-c", code], None, limit_s, tmp_path, log) == want
    assert ("\nsaid" in log.read_text()) == ("said" in code)


def test_cublas_is_found_in_a_toolkit_and_in_wheels(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "libcublas.so.99"
    for folder in ("site/nvidia/cu99/lib", "toolkit/targets/x86_64-linux/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert runner.find_cublas(name) == str(tmp_path / "site/nvidia/cu99/lib")
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "toolkit"))
    assert runner.find_cublas(name) == str(tmp_path / "toolkit/targets/x86_64-linux/lib")
