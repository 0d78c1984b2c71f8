"""A cache on disk and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import chat_model
import numpy as np
import pytest

from compresskv_edge.errors import EngineError
from compresskv_edge.runtime.session import snapshot


@pytest.fixture
def llm() -> Any:
    model = chat_model.load()
    yield model
    model.close()


def logits(llm: Any) -> Any:
    return np.ctypeslib.as_array(llm._ctx.get_logits(), shape=(llm.n_vocab(),)).copy()


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    return tmp_path / "documents"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_restored_cache_gives_the_same_logits(compressed: bool, llm: Any, tmp_path: Path) -> None:
    llm.eval(llm.tokenize(chat_model.text().encode())[:700])
    if compressed:
        llm.compress()
    snapshot.write(llm, tmp_path / "kv")
    llm.eval([17])
    expected = logits(llm)
    assert np.ptp(expected) > 1
    other = chat_model.load()
    snapshot.restore(other, tmp_path / "kv")
    assert other.n_tokens == 700
    other.eval([17])
    np.testing.assert_array_equal(logits(other), expected)
    other.close()


def test_a_snapshot_goes_with_its_object(llm: Any, folder: Path) -> None:
    llm.eval([1, 2, 3, 4])
    kept = snapshot.Snapshot()
    kept.take(llm)
    assert len(list(folder.iterdir())) == 1
    assert kept.fits([1, 2, 3, 4, 5])
    assert not kept.fits([1, 2, 3, 4])
    assert not kept.fits([1, 2, 9, 4, 5])
    del kept
    assert list(folder.iterdir()) == []


def test_files_of_killed_processes_are_removed(llm: Any, folder: Path) -> None:
    folder.mkdir()
    (folder / f"{2**22 + 1}-dead.state").write_bytes(b"x")  # above any process number
    (folder / f"{os.getppid()}-alive.state").write_bytes(b"x")
    kept = snapshot.Snapshot()
    llm.eval([1, 2])
    kept.take(llm)
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == sorted([str(os.getpid()), str(os.getppid())])


@pytest.mark.parametrize("damage", ["cut", "empty", "missing"])
def test_a_damaged_file_leaves_an_empty_cache(damage: str, llm: Any, tmp_path: Path) -> None:
    path = tmp_path / "kv"
    llm.eval([1, 2, 3])
    snapshot.write(llm, path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "missing": b""}[damage])
    if damage == "missing":
        path.unlink()
    with pytest.raises(EngineError, match="cannot restore the cache"):
        snapshot.restore(llm, path)
    assert llm.n_tokens == 0
    llm.eval([5, 6])
    assert llm.n_tokens == 2
