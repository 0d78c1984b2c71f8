"""Profiles that nobody has to measure: which model a shipped one is for."""

from __future__ import annotations

from compresskv_edge import Profile
from compresskv_edge.model import known
from compresskv_edge.model.facts import ModelFacts


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
