"""The loaded library is ours, of the pinned version, and made for the header that we read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from compresskv_edge import native
from compresskv_edge.errors import (
    LibraryError,
)


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

    out = run_python("import compresskv_edge.native as n; n.library()", COMPRESSKV_LIB_PATH=str(stock_library()))
    assert "is a stock llama.cpp" in out.stderr


def test_the_library_is_of_the_pinned_version() -> None:
    pin = (Path(__file__).parent.parent / "vendor" / "llama_cpp.pin").read_text()
    facts = dict(line.split("=", 1) for line in pin.replace(" ", "").splitlines() if line[0] != "#")
    assert native.version().split(" ")[2] == facts["upstream_version"]
    assert facts["version"] == native.BINDING_VERSION


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "__version__", "0.0.1")
    with pytest.raises(LibraryError, match=r"compresskv_edge 0\.0\.1 .*reinstall"):
        native.library.__wrapped__()
