"""Profiles that nobody has to measure: which model a shipped one is for."""

from __future__ import annotations

import pytest

from compresskv_edge import Profile
from compresskv_edge.model import known
from compresskv_edge.model.facts import ModelFacts


@pytest.mark.parametrize("name", [name for name in Profile.names() if Profile.load(name).calibration])
def test_a_measured_profile_is_found_by_its_file(name: str) -> None:
    profile = Profile.load(name)
    assert profile.calibration is not None
    renamed = profile.model.model_copy(update={"name": "something else"})
    assert known.shipped(renamed, profile.calibration.tensor_hash) == profile
    assert known.shipped(renamed, "sha256:0") is None


def test_shipped_profiles_are_found_by_name_and_shape() -> None:
    llama = Profile.load("llama-3.1-8b-instruct").model
    for name, expected in [
        ("Meta Llama 3.1 8B Instruct", "llama"), ("Llama-3.1-8B-Instruct", "llama"),
        ("mistral 7b instruct v0.3", "mistral"), ("A merge", None), ("", None),
        ("Llama-3.1-8B-Instruct-abliterated", None),
    ]:  # fmt: skip
        found = known.shipped(llama.model_copy(update={"name": name}), "sha256:0")
        assert (found.model.name.lower().split("-")[0] if found else None) == expected
    other = ModelFacts(architecture="llama", n_layer=4, n_head=4, n_head_kv=2, head_dim=64, name=llama.name)
    assert known.shipped(other, "sha256:0") is None
