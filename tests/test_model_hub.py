"""Files of Hugging Face, from a stand-in for it."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import stand_in_hub
import stand_in_index

from compresskv_edge.errors import ModelError
from compresskv_edge.model import hub
from compresskv_edge.model.catalogue import HubFile

MODEL = stand_in_index.model()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> stand_in_hub.Hub:
    files = {"README.md": b"", "tiny.gguf": stand_in_index.BYTES, "tiny-q8_0.gguf": b"q8", "q4/tiny-q4_0.gguf": b"q4"}
    (tmp_path / "q4").mkdir()
    return stand_in_hub.use(monkeypatch, files, tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "begun"
    path.mkdir()
    return path


def test_names() -> None:
    assert hub.parse("some/tiny-GGUF:*q8_0.gguf") == HubFile("some/tiny-GGUF", "*q8_0.gguf")
    for name in ("none.gguf", "repo/name", "some/deep/path.gguf", "C:model.gguf", ""):
        assert hub.parse(name) is None


@pytest.mark.parametrize(
    ("wanted", "file"), [("tiny.gguf", "tiny.gguf"), ("*q8_0.gguf", "tiny-q8_0.gguf"), ("q4/*", "q4/tiny-q4_0.gguf")]
)
def test_a_file_and_patterns(site: stand_in_hub.Hub, tmp_path: Path, wanted: str, file: str) -> None:
    assert hub.fetch(HubFile("some/tiny", wanted)) == tmp_path / file
    assert site.downloaded == [f"some/tiny:{file}"]


def test_a_pattern_of_no_file_or_several(site: stand_in_hub.Hub) -> None:
    with pytest.raises(ModelError, match=r"'\*q9.gguf' fits no file of 'some/tiny' on Hugging Face: name one file"):
        hub.fetch(HubFile("some/tiny", "*q9.gguf"))
    with pytest.raises(ModelError, match=r"fits 3 files, tiny.gguf, tiny-q8_0.gguf, q4/"):
        hub.fetch(HubFile("some/tiny", "*.gguf"))


def test_a_network_that_is_down(site: stand_in_hub.Hub, folder: Path) -> None:
    site.down = ConnectionError("no route to host")
    with pytest.raises(ModelError, match=r"cannot fetch 'x.gguf' of 'some/tiny' from Hugging Face: no route to host"):
        hub.fetch(HubFile("some/tiny", "x.gguf"))
    with pytest.raises(ModelError, match=r"cannot fetch 'tiny.gguf' of 'someone/tiny' .*: no route to host"):
        hub.fetch_model(MODEL, folder, lambda _: None)


def test_without_huggingface_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_hub.leave_out(monkeypatch)
    with pytest.raises(ModelError, match="pip install huggingface-hub"):
        hub.fetch(HubFile("some/tiny", "x.gguf"))


def test_a_model_of_the_catalogue(site: stand_in_hub.Hub, folder: Path) -> None:
    seen: list[int] = []
    assert hub.fetch_model(MODEL, folder, seen.append) == folder / "tiny.gguf"
    assert (folder / "tiny.gguf").read_bytes() == stand_in_index.BYTES
    assert seen == [MODEL.n_bytes]


def test_another_file_of_that_name_is_not_downloaded(site: stand_in_hub.Hub, folder: Path) -> None:
    site.files["tiny.gguf"] = b"newer"
    with pytest.raises(ModelError, match=r"has another file of that name, with SHA-256 [0-9a-f]{64}: 'tiny.gguf'"):
        hub.fetch_model(MODEL, folder, lambda _: None)
    del site.files["tiny.gguf"]
    with pytest.raises(ModelError, match=r"'someone/tiny' on Hugging Face has no such file: 'tiny.gguf'"):
        hub.fetch_model(MODEL, folder, lambda _: None)
    assert not site.downloaded


def test_no_room(site: stand_in_hub.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(folder)._replace(free=MODEL.n_bytes - 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(ModelError, match="make room"):
        hub.fetch_model(MODEL, folder, lambda _: None)
    (folder / "half").write_bytes(b"0123456789")  # begun earlier
    assert hub.fetch_model(MODEL, folder, lambda _: None).is_file()


def test_quiet_is_without_its_bars(caplog: pytest.LogCaptureFixture) -> None:
    utils = pytest.importorskip("huggingface_hub.utils", reason="huggingface-hub is in the extra 'chat'")
    caplog.set_level(logging.ERROR, logger="compresskv_edge")
    try:
        hub._hub(MODEL.hub)
        assert utils.are_progress_bars_disabled()
    finally:
        utils.enable_progress_bars()


def test_the_real_hub_takes_these_arguments() -> None:
    """As far as can be told without a network: the stand-in's calls fit huggingface-hub's signatures."""
    import inspect

    real = pytest.importorskip("huggingface_hub", reason="huggingface-hub is in the extra 'chat'")
    inspect.signature(real.hf_hub_download).bind(repo_id="a/b", filename="c", local_dir=Path())
    inspect.signature(real.HfApi.get_paths_info).bind(real.HfApi(), "a/b", ["c"])
    inspect.signature(real.HfApi.list_repo_files).bind(real.HfApi(), "a/b")
    assert "sha256" in inspect.signature(inspect.getmodule(real.HfApi).BlobLfsInfo).parameters  # type: ignore[union-attr]
