"""A compiler cache that is installed later does not compile everything again (cmake/compiler_cache.cmake)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODULE = Path(__file__).parent.parent / "cmake" / "compiler_cache.cmake"
PROJECT = f"""
cmake_minimum_required(VERSION 3.21)
project(x LANGUAGES NONE)
include("{MODULE.as_posix()}")
option(GGML_CCACHE "as upstream declares it" ON)
"""


@pytest.fixture
def configure(tmp_path: Path):
    """`configure(*options)`: the value of GGML_CCACHE after a configuration that finds programs in tmp/bin only."""
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("needs cmake")
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    (tmp_path / "bin").mkdir()

    def run(*options: str) -> str:
        only = ("-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=OFF", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")
        only += (f"-DCMAKE_PROGRAM_PATH={tmp_path / 'bin'}", f"-DCMAKE_MAKE_PROGRAM={cmake}")  # nothing is built
        command = [cmake, "-G", "Unix Makefiles", *only, *options]
        env = {**os.environ, "PATH": os.defpath}
        subprocess.run([*command, "-S", tmp_path, "-B", tmp_path / "build"], check=True, env=env, capture_output=True)
        found = re.search(r"^GGML_CCACHE:BOOL=(\w+)$", (tmp_path / "build/CMakeCache.txt").read_text(), re.MULTILINE)
        assert found
        return found.group(1)

    return run


def install(folder: Path) -> None:
    program = folder / "bin" / "ccache"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)


def test_installed_later_it_stays_out(configure, tmp_path: Path) -> None:
    assert configure() == "OFF"
    install(tmp_path)
    assert configure() == "OFF"


def test_found_first_it_is_used(configure, tmp_path: Path) -> None:
    install(tmp_path)
    assert configure() == "ON"
    assert configure() == "ON"


def test_the_user_decides(configure, tmp_path: Path) -> None:
    assert configure("-DGGML_CCACHE=ON") == "ON"
    install(tmp_path)
    assert configure("-DGGML_CCACHE=OFF") == "OFF"
