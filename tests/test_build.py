"""The build's own scripts: vendor/fetch.py and vendor/apply.py on small trees, and what patches/ may contain."""

import importlib.util
import io
import re
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "vendor" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fetch = load("fetch")
apply = load("apply")

SOURCE = "".join(f"line {i}\n" for i in range(1, 21))
PATCH = """\
Why: a test.

--- a/src/a.cpp
+++ b/src/a.cpp
@@ -2,3 +2,4 @@ some function
 line 2
 line 3
+hook();
 line 4
@@ -17,2 +18,3 @@
 line 17
+hook_2();
 line 18
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with two source files, as fetched."""
    (tmp_path / "tree" / "src").mkdir(parents=True)
    for name in ("a.cpp", "b.cpp"):
        (tmp_path / "tree" / "src" / name).write_text(SOURCE)
    return tmp_path / "tree"


def patches_in(tmp_path, *texts):
    paths = [tmp_path / f"{i:04}-test.patch" for i in range(1, len(texts) + 1)]
    for path, text in zip(paths, texts):
        path.write_text(text)
    return paths


def snapshot(folder):
    """Every file's content and time of change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# apply.py


def test_patch_adds_its_lines_and_leaves_the_rest(tree, tmp_path):
    patches = patches_in(tmp_path, PATCH)
    assert apply.apply_all(tree, patches) == ["src/a.cpp"]
    apply.verify(tree, patches)
    expected = SOURCE.replace("line 3\n", "line 3\nhook();\n").replace("line 17\n", "line 17\nhook_2();\n")
    assert (tree / "src/a.cpp").read_text() == expected
    assert (tree / "src/b.cpp").read_text() == SOURCE


def test_second_run_touches_nothing(tree, tmp_path):
    patches = patches_in(tmp_path, PATCH)
    apply.apply_all(tree, patches)
    before = snapshot(tree)
    assert apply.apply_all(tree, patches) == []
    assert snapshot(tree) == before


def test_edited_patch_starts_from_the_pristine_file(tree, tmp_path):
    apply.apply_all(tree, patches_in(tmp_path, PATCH))
    apply.apply_all(tree, patches_in(tmp_path, PATCH.replace("hook();", "other_hook();")))
    text = (tree / "src/a.cpp").read_text()
    assert "other_hook();" in text
    assert "\nhook();" not in text


def test_removed_patch_restores_the_file(tree, tmp_path):
    apply.apply_all(tree, patches_in(tmp_path, PATCH))
    assert apply.apply_all(tree, []) == ["src/a.cpp"]
    assert (tree / "src/a.cpp").read_text() == SOURCE


def test_later_patch_builds_on_an_earlier_one(tree, tmp_path):
    second = PATCH.replace(" line 3\n+hook();\n", " line 3\n hook();\n+hook_3();\n").replace("-2,3 +2,4", "-2,4 +2,5")
    second = second[: second.index("@@ -17")]
    apply.apply_all(tree, patches_in(tmp_path, PATCH, second))
    assert "hook();\nhook_3();\nline 4" in (tree / "src/a.cpp").read_text()


def test_wrong_line_number_is_fine_while_the_place_is_unique(tree, tmp_path):
    apply.apply_all(tree, patches_in(tmp_path, PATCH.replace("@@ -2,3 +2,4", "@@ -9,3 +9,4")))
    assert "line 3\nhook();\nline 4" in (tree / "src/a.cpp").read_text()


BAD = {
    "context": (PATCH.replace(" line 3", " line 3 "), "does not apply"),
    "blank": (PATCH.replace(" line 4", "  line 4"), "does not apply"),
    "file": (PATCH.replace("src/a.cpp", "src/c.cpp"), "src/c.cpp"),
    "no-op": (PATCH.replace("+hook();\n", "").replace("-2,3 +2,4", "-2,3 +2,3"), "changes nothing"),
    "empty": ("", "contains no hunk"),
    "no-hunk": ("--- a/src/a.cpp\n+++ b/src/a.cpp\n", "contains no hunk"),
    "short": (PATCH.replace("-17,2 +18,3", "-17,4 +18,5"), "inside a hunk"),
    "new-file": ("--- /dev/null\n+++ b/src/c.cpp\n@@ -0,0 +1,1 @@\n+line\n", "new, removed or renamed"),
    "outside": (PATCH.replace("src/a.cpp", "../a.cpp"), "new, removed or renamed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_patch_names_its_file_and_changes_nothing(tree, tmp_path, case):
    text, message = BAD[case]
    patches = patches_in(tmp_path, PATCH.replace("a.cpp", "b.cpp"), text)
    before = snapshot(tree)
    with pytest.raises(apply.PatchError, match=message) as error:
        apply.apply_all(tree, patches)
    assert "0002-test.patch" in str(error.value)
    assert snapshot(tree) == before


def test_ambiguous_place_is_refused(tree, tmp_path):
    (tree / "src/a.cpp").write_text("moved\n" + SOURCE + SOURCE)
    with pytest.raises(apply.PatchError, match="more than once"):
        apply.apply_all(tree, patches_in(tmp_path, PATCH.replace("@@ -2,3 +2,4", "@@ -9,3 +9,4")))


def test_edit_by_hand_is_not_overwritten(tree, tmp_path):
    patches = patches_in(tmp_path, PATCH)
    apply.apply_all(tree, patches)
    with open(tree / "src/a.cpp", "a") as file:
        file.write("an experiment\n")
    with pytest.raises(apply.PatchError, match="edited by hand"):
        apply.apply_all(tree, patches)
    assert "an experiment" in (tree / "src/a.cpp").read_text()


def test_verify_misses_no_lost_line(tree, tmp_path):
    patches = patches_in(tmp_path, PATCH)
    apply.apply_all(tree, patches)
    (tree / "src/a.cpp").write_text(SOURCE.replace("line 3\n", "line 3\nhook();\n"))
    with pytest.raises(apply.PatchError, match="hook_2"):
        apply.verify(tree, patches)


def test_pristine_copy_is_without_patches(tree, tmp_path):
    apply.apply_all(tree, patches_in(tmp_path, PATCH))
    apply.copy_pristine(tree, tmp_path / "stock")
    before = snapshot(tmp_path / "stock")
    assert {content for content, _ in before.values()} == {SOURCE.encode()}
    apply.copy_pristine(tree, tmp_path / "stock")
    assert snapshot(tmp_path / "stock") == before


# fetch.py

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


def test_patches_stay_small_and_leave_the_kernels_alone():
    n_added = n_removed = 0
    for patch in sorted((ROOT / "patches").glob("*.patch")):
        text = patch.read_text(encoding="utf-8")
        for path, _ in apply.parse(text, patch.name):
            shared = not path.startswith("src/")
            assert not shared or path.startswith("ggml/src/ggml-rpc/"), (
                f"{patch.name} touches {path}: the stock library shares ggml, so it would no longer be stock"
            )
        n_added += len(re.findall(r"^\+(?!\+\+ )", text, re.MULTILINE))
        n_removed += len(re.findall(r"^-(?!-- )", text, re.MULTILINE))
    assert n_added < 100
    assert n_removed <= n_added
