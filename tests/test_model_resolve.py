"""A model by file or by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskv_edge.errors import ModelError
from compresskv_edge.model.catalogue import find
from compresskv_edge.model.resolve import resolve
from compresskv_edge.model.store import Store

NAME = "smollm2-135m-instruct"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With SmolLM2 in it, by its size."""
    store = Store(tmp_path / "models")
    store.folder.mkdir()
    with store.path(find(NAME)).open("wb") as file:
        file.truncate(find(NAME).n_bytes)  # sparse
    return store


def test_a_name_of_the_catalogue(store: Store) -> None:
    assert resolve("SmolLM2-135M-Instruct", store) == str(store.folder / f"{NAME}.gguf")


def test_a_name_that_was_not_pulled(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf'{NAME} is not on this machine: run "compresskv pull {NAME}" \(98 MB, Ap'):
        resolve(NAME, Store(tmp_path))


def test_half_a_file_is_not_there(store: Store) -> None:
    store.path(find(NAME)).write_bytes(b"half")
    with pytest.raises(ModelError, match="is not on this machine"):
        resolve(NAME, store)


def test_a_file_of_that_name_wins(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).write_bytes(b"mine")
    assert resolve(NAME, store) == NAME


def test_a_folder_of_that_name_does_not(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    assert resolve(NAME, store) == str(store.path(find(NAME)))


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").write_bytes(b"")
    assert resolve("~/model") == resolve(tmp_path / "model") == str(tmp_path / "model")


@pytest.mark.parametrize("source", ["none.gguf", "folder/none", "./none"])
def test_a_path_to_nothing_is_the_loaders_to_refuse(source: str) -> None:
    assert resolve(source) == source


def test_a_word_that_is_nothing() -> None:
    with pytest.raises(ModelError, match=r"no file 'qwen2.5' and no model of that name: did you mean"):
        resolve("qwen2.5")
