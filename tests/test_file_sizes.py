"""Files that can be read in one go: the limits of CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMITS = {
    300: [("compresskv_edge", "*.py"), ("tests", "*.py"), ("tools", "*.py"), ("examples", "*.py"), ("vendor", "*.py")],
    350: [("compresskv_edge/csrc", "*.cpp"), ("compresskv_edge/csrc", "*.h"), ("tests/native", "*")],
}
MAX_HOOK_LINES = 100  # that all patches together add to upstream

# on their way out: what other branches split
KNOWN: set[str] = set()


def files(limit: int) -> Iterator[Path]:
    for folder, pattern in LIMITS[limit]:
        found = sorted((ROOT / folder).rglob(pattern))
        # vendor/llama.cpp is upstream's
        yield from (path for path in found if path.is_file() and "llama.cpp" not in path.parts)


@pytest.mark.parametrize("limit", LIMITS)
def test_no_file_is_too_long(limit: int) -> None:
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files(limit)
    }
    assert len(lengths) > 5
    assert {name: n for name, n in lengths.items() if n > limit and name not in KNOWN} == {}


def added(patch: Path) -> int:
    """Lines that a patch adds."""
    return len(re.findall(r"^\+(?!\+\+ )", patch.read_text(encoding="utf-8"), flags=re.MULTILINE))


def test_the_patches_stay_small() -> None:
    patches = sorted((ROOT / "patches").glob("*.patch"))
    assert patches
    assert 0 < sum(map(added, patches)) < MAX_HOOK_LINES


@pytest.mark.parametrize("page", ["README.md", "docs/faq.md", "docs/how-it-works.md"])
def test_pages_tell_the_limit_of_the_patches(page: str) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert f"fewer than {MAX_HOOK_LINES} lines" in text.lower()
