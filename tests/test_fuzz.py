"""Each fuzzer of tests/fuzz for a moment: `make fuzz` runs them for a minute each. New ones are found by name."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "fuzz"
RUNS = {"fuzz_server.py": 300, "fuzz_session.py": 300}  # that take longest: all together about ten seconds
FUZZERS = sorted(path.name for path in FOLDER.glob("fuzz_*.py"))

sys.path.append(str(FOLDER))

import mutate  # noqa: E402
import runner  # noqa: E402


@pytest.mark.parametrize("name", FUZZERS)
def test_a_moment_of(name: str) -> None:
    runs = RUNS.get(name, 1000)
    command = [sys.executable, str(FOLDER / name), "--runs", str(runs), "--seed", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"{runs} r" in done.stdout  # runs, or requests


def test_a_finding_is_told_and_repeated() -> None:
    def one(rng: random.Random) -> str:
        assert rng.random() < 0.99
        return "fine"

    fuzzer = runner.Fuzzer(one)
    with pytest.raises(AssertionError, match=r"run \d+ of seed 3") as caught:
        runner.run(fuzzer, runs=10_000, seed=3)
    number = int(str(caught.value).split()[1])
    assert runner.run(fuzzer, runs=number, seed=3) == {"fine": number}
    with pytest.raises(AssertionError):
        runner.repeat(fuzzer, 3, number)


DIES = """
import os, sys
sys.path.insert(0, {folder!r})
import runner
def one(rng):
    value = rng.random()
    if value < 0.05: os.abort()
    if value < 0.1: raise ValueError("a finding")
    return "fine"
runner.main(runner.Fuzzer(one, native=True))
"""


def test_a_run_that_ends_the_process_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "fuzz_x.py").write_text(DIES.format(folder=str(FOLDER)))
    command = [sys.executable, str(tmp_path / "fuzz_x.py"), "--runs", "60"]
    done = subprocess.run(command, capture_output=True, text=True)
    values = [random.Random(i).random() for i in range(60)]
    dead, found = ([i for i, value in enumerate(values) if low <= value < low + 0.05] for low in (0.0, 0.05))
    assert done.returncode == 1
    assert "60 runs" in done.stdout
    for i in dead:
        assert f"--seed 0 --only {i} ended the process" in done.stdout
    assert dead
    assert found


def test_changes_of_json_and_bytes_can_be_repeated() -> None:
    value = {"a": [1, 2.5, "x", None, {"b": True}], "c": {}}
    before = repr(value)
    changed = [repr(mutate.json_value(random.Random(i), value)) for i in range(500)]
    assert changed == [repr(mutate.json_value(random.Random(i), value)) for i in range(500)]
    assert repr(value) == before
    assert len(set(changed)) > 100
    raw = bytes(range(100))
    assert len({mutate.data(random.Random(i), raw, [8, 12]) for i in range(500)}) > 300
