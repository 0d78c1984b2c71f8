"""The self-test without Python says what Python says: kept tokens and answer of one needle prompt.

CKV_SELFTEST names another build of it, with what runs it: `make test-arm` gives one for 64-bit ARM, under qemu-user.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import selftest_case

BUILT = Path(__file__).parent.parent / "build" / "cmake" / "bin" / "ckv-selftest"


@pytest.fixture(scope="module")
def command() -> list[str]:
    return shlex.split(os.environ.get("CKV_SELFTEST", str(BUILT)))


def test_it_answers_as_python_does(command: list[str], demo_model: Path) -> None:
    run = subprocess.run([*command, str(demo_model)], input=selftest_case.case(), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, expected = lines(run.stdout), lines(selftest_case.answer())
    if "CKV_SELFTEST" not in os.environ:
        assert found == expected
    *kept, answer = found
    *expected_kept, expected_answer = expected
    assert answer == expected_answer
    for layer, expected_layer in zip(kept, expected_kept):  # kernels of another machine round otherwise
        assert len(layer) == len(expected_layer)
        assert len(set(layer) - set(expected_layer)) <= 0.02 * len(layer)


def lines(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_bad_input_is_told(command: list[str], demo_model: Path, tmp_path: Path) -> None:
    short = subprocess.run([*command, str(demo_model)], input="1 2 3", capture_output=True, text=True)
    assert (short.returncode, "too short" in short.stderr) == (2, True)
    missing = subprocess.run(
        [*command, str(tmp_path / "none.gguf")], input=selftest_case.case(), capture_output=True, text=True
    )
    assert (missing.returncode, "cannot load" in missing.stderr) == (1, True)
