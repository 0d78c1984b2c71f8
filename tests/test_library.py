"""The loaded library is ours, of the pinned version, and made for the header that we read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compresskv_edge.engine import library
from compresskv_edge.errors import LibraryError


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_stock_llama_cpp_imported_first(path: str) -> None:
    from test_stock import stock_library

    code = f"import llama_cpp, compresskv_edge; compresskv_edge.Llama({path!r})"
    out = run_python(code, LLAMA_CPP_LIB_PATH=str(stock_library()))
    assert out.returncode == 1
    assert "LibraryError" in out.stderr
    assert "import compresskv_edge before llama_cpp" in out.stderr


def test_a_stock_library_in_the_place_of_ours() -> None:
    from test_stock import stock_library

    out = run_python("import compresskv_edge.engine.library as l; l.load()", COMPRESSKV_LIB_PATH=str(stock_library()))
    assert "is a stock llama.cpp" in out.stderr


def test_the_library_is_of_the_pinned_version() -> None:
    pin = (Path(__file__).parent.parent / "vendor" / "llama_cpp.pin").read_text()
    facts = dict(line.split("=", 1) for line in pin.replace(" ", "").splitlines() if line[0] != "#")
    assert library.version().split(" ")[2] == facts["upstream_version"]
    assert facts["version"] == library.BINDING_VERSION


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__version__", "0.0.1")
    with pytest.raises(LibraryError, match=r"compresskv_edge 0\.0\.1 .*reinstall"):
        library.load.__wrapped__()


#
# builds whose backends are files of their own, as wheels are (tools/check_dist.py --variants tries one)
#


class FakeGGML:
    """Stands for libggml: so many backends are there, and this is what was asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.loaded = count, []

    def ggml_backend_reg_count(self) -> int:
        return self.count

    def ggml_backend_load_all_from_path(self, folder: bytes) -> None:
        self.loaded.append(folder)


@pytest.fixture
def build_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a build, with nothing but names in it."""
    monkeypatch.setenv("COMPRESSKV_LIB_PATH", str(tmp_path))
    for name in ("llama", "ggml", "ggml-base", "ggml-cpu"):
        for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll"):
            (tmp_path / file).touch()
    return tmp_path


@pytest.mark.parametrize("variant", ["libggml-cpu-haswell.so", "libggml-cpu-armv8.2_1.so", "ggml-cpu-zen4.dll"])
@pytest.mark.parametrize(("count", "is_loaded"), [(0, True), (2, False)])
def test_variants_are_loaded_once(
    build_folder: Path, monkeypatch: pytest.MonkeyPatch, variant: str, count: int, is_loaded: bool
) -> None:
    (build_folder / variant).touch()
    fake = FakeGGML(count)
    monkeypatch.setattr(library, "ggml", lambda declarations: (None, fake))
    library.load_backends()
    assert fake.loaded == ([str(build_folder).encode()] if is_loaded else [])


def test_a_build_with_one_kind_of_cpu_code_is_not_opened_early(
    build_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "ggml", lambda declarations: pytest.fail("opened"))
    assert not library.has_variants(build_folder)
    library.load_backends()


def test_a_broken_build_is_told_when_it_is_used_not_when_imported(build_folder: Path) -> None:
    (build_folder / "libggml-cpu-x64.so").touch()  # and libggml is an empty file
    out = run_python("import compresskv_edge; print('imported'); compresskv_edge.engine.library.load()")
    assert out.stdout == "imported\n"
    assert out.returncode == 1
    assert "libllama" in out.stderr


def test_functions_are_found_in_any_of_several_libraries() -> None:
    class Base:
        ggml_backend_dev_name = "base"

    class Registry:
        ggml_backend_dev_name = "registry"
        ggml_backend_reg_count = "registry"

    lib = library.Together([Base(), Registry()])
    assert (lib.ggml_backend_dev_name, lib.ggml_backend_reg_count) == ("base", "registry")
    with pytest.raises(AttributeError, match="no library has ggml_none"):
        _ = lib.ggml_none
