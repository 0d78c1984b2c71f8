"""What is written replaces a file and nothing else; JSON of strangers raises ValueError and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from compresskv_edge import files


def test_a_new_file_and_its_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.replace_text(tmp_path / "a", "first")
        files.replace(tmp_path / "b", [b"fir", b"st"], private=True)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "first"
    if os.name == "posix":
        assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o640, 0o600]
    (tmp_path / "a").chmod(0o604)
    files.replace_text(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "second"
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", tmp_path / "b"]


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe and links")
def test_devices_pipes_and_folders_stay_what_they_are(tmp_path: Path) -> None:
    """A pipe stands for the devices: a failure of this test would replace them."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "folder", "link"):
        with pytest.raises(files.NotAFile, match="not a file"):
            files.replace(tmp_path / name, [b"x"])
        with pytest.raises(files.NotAFile):
            files.check_file(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "folder").is_dir()
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.name != "posix", reason="makes links")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("new")
    files.replace_text(tmp_path / "link", "new")
    files.replace_text(tmp_path / "dangling", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "real").read_text() == (tmp_path / "new").read_text() == "new"


def test_a_system_that_opens_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows: the file is replaced by then, so that there is nothing to complain about."""
    real = os.open

    def windows(path: os.PathLike[str], flags: int, *mode: int) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", windows)
    files.replace_text(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"


def test_a_name_as_long_as_the_system_takes(tmp_path: Path) -> None:
    name = "\N{GRINNING FACE}" * 63  # 252 bytes of 255
    files.replace_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 200_000, b'{"a":' * 200_000, b"9" * 100_000, b"\xff\xfe", b'"\xed\xa0\x80"', b"[1,]", b"\0"],
    ids=["empty", "cut", "lists", "objects", "digits", "utf-16", "surrogate", "comma", "zero"],
)
def test_json_raises_value_errors_only(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whatever it says)
        files.parse_json(text)


def test_json_of_a_size() -> None:
    assert files.parse_json(b'{"a": [1, -2.5, null, "\\u00e9"]}') == {"a": [1, -2.5, None, "\xe9"]}
    files.check_size({"a": [1] * 8}, 9)
    with pytest.raises(ValueError, match="too many values"):
        files.check_size({"a": [1] * 9}, 9)
    nested: object = 1
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(ValueError, match="too deeply"):
        files.check_size(nested, 1 << 20)
    assert len(files.short(nested)) <= 60
    assert files.short([1, 2]) == "[1, 2]"


def test_no_more_is_read_than_may_be(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    assert files.read_bytes(tmp_path / "a", 10) == bytes(10)
    with pytest.raises(ValueError, match="more than 9 bytes"):
        files.read_bytes(tmp_path / "a", 9)
