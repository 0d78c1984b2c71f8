"""vendor/fetch.py on small source distributions."""

import io
import re
import tarfile

import pytest
from vendored import ROOT, fetch, snapshot

PREFIX = "binding-1.0/vendor/llama.cpp/"
NEEDED = ("CMakeLists.txt", "LICENSE", "src/CMakeLists.txt", "ggml/CMakeLists.txt", "ggml/src/ggml.c")


@pytest.fixture
def pin(tmp_path, monkeypatch):
    """A small source distribution, given by COMPRESSKV_SDIST, and its pin."""
    archive = tmp_path / "binding-1.0.tar.gz"
    write_archive(archive, [*NEEDED, "docs/not-needed.md", "tools/not-needed.cpp"])
    monkeypatch.setenv("COMPRESSKV_SDIST", str(archive))
    return {"package": "binding", "version": "1.0", "sha256": fetch.sha256_of(archive)}


def write_archive(path, names, link=None):
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(PREFIX + name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
        if link:
            member = tarfile.TarInfo(PREFIX + link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)


def refuse_index(*_):
    raise AssertionError("the index was asked")


def test_fetch_unpacks_what_is_needed(tmp_path, pin):
    tree = tmp_path / "vendor" / "llama.cpp"
    assert fetch.fetch(tree, pin, tmp_path / "cache")
    files = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()}
    assert files == {*NEEDED, fetch.STAMP}
    assert [path.name for path in tree.parent.iterdir()] == ["llama.cpp"]


def test_second_fetch_needs_no_archive_and_touches_nothing(tmp_path, pin, monkeypatch):
    tree = tmp_path / "vendor" / "llama.cpp"
    fetch.fetch(tree, pin, tmp_path / "cache")
    before = snapshot(tree)
    monkeypatch.delenv("COMPRESSKV_SDIST")
    monkeypatch.setattr(fetch, "download", refuse_index)
    assert not fetch.fetch(tree, pin, tmp_path / "cache")
    assert snapshot(tree) == before


def test_moved_pin_replaces_the_tree(tmp_path, pin, monkeypatch):
    tree = tmp_path / "vendor" / "llama.cpp"
    fetch.fetch(tree, pin, tmp_path / "cache")
    archive = tmp_path / "newer.tar.gz"
    write_archive(archive, [*NEEDED, "src/new.cpp"])
    monkeypatch.setenv("COMPRESSKV_SDIST", str(archive))
    fetch.fetch(tree, {**pin, "sha256": fetch.sha256_of(archive)}, tmp_path / "cache")
    assert (tree / "src/new.cpp").is_file()


def test_wrong_hash_is_refused(tmp_path, pin):
    tree = tmp_path / "vendor" / "llama.cpp"
    with pytest.raises(fetch.VendorError, match=r"SHA-256 is .* the pin says 000"):
        fetch.fetch(tree, {**pin, "sha256": "0" * 64}, tmp_path / "cache")
    assert not tree.exists()


@pytest.mark.parametrize(
    ("names", "link", "message"),
    [
        (NEEDED[:2], None, "has no complete"),
        (NEEDED, "src/passwd", "is a link"),
        ([*NEEDED, "src/../../../evil"], None, "leaves its folder"),
    ],
)
def test_unexpected_archive_leaves_no_half_tree(tmp_path, monkeypatch, names, link, message):
    archive = tmp_path / "binding-1.0.tar.gz"
    write_archive(archive, names, link)
    monkeypatch.setenv("COMPRESSKV_SDIST", str(archive))
    pin = {"package": "binding", "version": "1.0", "sha256": fetch.sha256_of(archive)}
    tree = tmp_path / "vendor" / "llama.cpp"
    with pytest.raises(fetch.VendorError, match=message):
        fetch.fetch(tree, pin, tmp_path / "cache")
    assert list(tree.parent.iterdir()) == []


def test_truncated_archive_leaves_no_half_tree(tmp_path, pin, monkeypatch):
    archive = tmp_path / "cut.tar.gz"
    archive.write_bytes((tmp_path / "binding-1.0.tar.gz").read_bytes()[:-40])
    monkeypatch.setenv("COMPRESSKV_SDIST", str(archive))
    tree = tmp_path / "vendor" / "llama.cpp"
    with pytest.raises((OSError, EOFError, tarfile.TarError)):
        fetch.fetch(tree, {**pin, "sha256": fetch.sha256_of(archive)}, tmp_path / "cache")
    assert list(tree.parent.iterdir()) == []


def test_half_tree_is_refused(tmp_path, pin):
    tree = tmp_path / "vendor" / "llama.cpp"
    (tree / "src").mkdir(parents=True)
    with pytest.raises(fetch.VendorError, match="delete the folder"):
        fetch.fetch(tree, pin, tmp_path / "cache")


def test_tree_that_lost_a_file_is_refused(tmp_path, pin):
    tree = tmp_path / "vendor" / "llama.cpp"
    fetch.fetch(tree, pin, tmp_path / "cache")
    (tree / "ggml/src/ggml.c").unlink()
    with pytest.raises(fetch.VendorError, match=r"ggml/src/ggml\.c.*delete the folder"):
        fetch.fetch(tree, pin, tmp_path / "cache")


def test_missing_archive_is_named(tmp_path, pin, monkeypatch):
    monkeypatch.setenv("COMPRESSKV_SDIST", str(tmp_path / "nowhere.tar.gz"))
    with pytest.raises(fetch.VendorError, match=r"nowhere\.tar\.gz: no such file"):
        fetch.fetch(tmp_path / "vendor" / "llama.cpp", pin, tmp_path / "cache")


# what is in the repository


def test_pin_and_dependency_agree():
    pin = fetch.read_pin(ROOT / "vendor" / "llama_cpp.pin")
    assert f'"{pin["package"]}=={pin["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.fullmatch("[0-9a-f]{64}", pin["sha256"])
    assert re.fullmatch("[0-9a-f]{40}", pin["upstream_commit"])
