"""Where profiles lie: shipped ones by name, a user's by path."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskv_edge.errors import ProfileError
from compresskv_edge.model.profile import Profile

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1', "not json", "\ufeff", "[" * 100_000])
def test_truncated_file(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ProfileError, match=r"m\.json' is not JSON or is truncated .* again"):
        Profile.load(path)


def test_binary_file(tmp_path):
    path = tmp_path / "m.json"
    path.write_bytes(b"GGUF\xff\xfe\x00")
    with pytest.raises(ProfileError, match="is not JSON"):
        Profile.load(path)


def test_missing_file(tmp_path):
    with pytest.raises(ProfileError, match=r"cannot read profile .*none\.json.*demo"):
        Profile.load(tmp_path / "none.json")


def test_unknown_name():
    with pytest.raises(ProfileError, match="no profile is named 'demos': did you mean 'demo'"):
        Profile.load("demos")


def test_names_are_the_shipped_files():
    published = ("llama-3.1-8b-instruct", "mistral-7b-instruct-v0.3")
    measured = ("gemma-3-270m", "qwen2.5-coder-0.5b-instruct", "smollm2-135m-instruct")
    assert Profile.names() == tuple(sorted(("demo", *published, *measured)))


@pytest.mark.parametrize("name", Profile.names())
def test_shipped_files_are_as_saved(name):
    profile = Profile.load(name)
    assert (ROOT / "profiles" / f"{name}.json").read_text() == profile.to_json()
    assert profile.provenance.how
    assert name in (ROOT / "profiles" / "README.md").read_text()
