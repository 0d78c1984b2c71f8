"""vendor/apply.py on small trees, and what patches/ may contain."""

import re

import pytest
from vendored import ROOT, apply, snapshot

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


def test_patches_leave_the_kernels_alone():
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
    assert n_removed <= n_added
