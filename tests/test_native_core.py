"""The rooms of csrc: the unit tests of core/ pass, and each room uses only what it may.

CKV_CORE_TESTS names another build of the unit tests; `make stock` builds them where doctest is installed.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "compresskv_edge" / "csrc"
BUILT = ROOT / "build" / "cmake" / "bin" / "ckv-core-tests"

# the internals that one room knows
INTERNALS = {"llama-context.h", "llama-kv-cache.h", "llama-kv-cache-iswa.h", "llama-kv-cells.h"}


def core_tests() -> Path:
    """The built tests. Without doctest they are skipped, or an error where CI_REQUIRE_DOCTEST=1."""
    program = Path(os.environ.get("CKV_CORE_TESTS", BUILT))
    if not program.exists():
        said = f"{program} is not built: it needs doctest. On Debian or Ubuntu: sudo make doctest, then make stock"
        if os.environ.get("CI_REQUIRE_DOCTEST") == "1":
            pytest.fail(said)
        pytest.skip(said)
    return program


def test_core() -> None:
    run = subprocess.run([core_tests()], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    assert "Status: SUCCESS!" in run.stdout


def sources() -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in {".h", ".cpp"})


def includes(path: Path) -> set[str]:
    return set(re.findall(r'^#include "([^"]+)"', path.read_text(), re.MULTILINE))


def test_core_knows_neither_llama_nor_ggml() -> None:
    for path in sources():
        if path.parent.name == "core":
            assert all(name.startswith("core/") for name in includes(path)), path


def test_only_one_room_knows_upstreams_internals() -> None:
    used = {path.parent.name for path in sources() if includes(path) & INTERNALS}
    assert used == {"upstream"}


def rooms(path: Path) -> set[str]:
    return {name.split("/")[0] for name in includes(path) if "/" in name} - {path.parent.name}


def test_a_room_knows_no_upper_one() -> None:
    for path in sources():
        room = path.parent.name
        if room == "graph":  # of the cache what it holds, not what is done to it
            assert rooms(path) <= {"core", "upstream", "cache"}, path
            assert {name for name in includes(path) if name.startswith("cache/")} <= {"cache/cache.h"}, path
        elif room == "cache":
            assert rooms(path) <= {"core", "upstream", "graph"}, path
        elif room == "upstream" and path.name != "hooks.cpp":  # upstream calls the hooks: they stand above all rooms
            assert rooms(path) <= {"core"}, path


def test_every_entry_is_guarded() -> None:
    """What is thrown must not cross extern "C": an entry returns at once what its guarded body returns."""
    text = "\n".join(path.read_text() for path in (CSRC / "api").glob("*.cpp"))
    entries = re.findall(r"^int32_t (llama_ckv_\w+)\([^{]*\) \{\n    return (\w+)\(", text, re.MULTILINE)
    declared = re.findall(r"^LLAMA_API int32_t (llama_ckv_\w+)", (CSRC / "ckv.h").read_text(), re.MULTILINE)
    assert {name for name, _ in entries} == set(declared)
    assert {name for name, call in entries if call != "ckv_guard"} == {"llama_ckv_fail_at"}  # which sets two numbers


def test_headers_include_one_another_in_no_circle() -> None:
    below = {str(p.relative_to(CSRC)): includes(p) for p in sources() if p.suffix == ".h"}
    done: set[str] = set()
    while len(done) < len(below):
        ready = {name for name, used in below.items() if name not in done and used & set(below) <= done}
        assert ready, f"a circle among {sorted(set(below) - done)}"
        done |= ready


def test_files_are_short() -> None:
    for path in sources():
        assert len(path.read_text().splitlines()) <= 350, path
