"""One process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from compresskv_edge.model.lock import exclusive

HOLD = """
import sys, pathlib
from compresskv_edge.model.lock import exclusive
with exclusive(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


class Waiting(Exception):
    """Instead of a wait."""


def wait() -> None:
    raise Waiting


def test_the_lock_of_a_process_that_is_killed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Waiting), exclusive(path, wait):
            pass
        holder.kill()
    with exclusive(path, wait):
        pass


def test_it_is_free_after_the_block_and_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "lock", wait):
            raise ZeroDivisionError
