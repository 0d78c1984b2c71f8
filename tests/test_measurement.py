from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compresskv_edge.errors import ProfileError
from compresskv_edge.model.measurement import Calibration, pack_directions
from compresskv_edge.model.profile import Profile

MEANS = [np.arange(1, 17).reshape(2, 8), np.zeros((2, 8)), np.full((1, 4), -2.0)]


def valid() -> dict[str, Any]:
    return {
        "heads_calibrated": True,
        "n_prompts": 9,
        "n_counted": 4,
        "semantic_scores": [[0.5, 0.25], [0.0, 1.0], [2.0]],
        "semantic_spread": [[0.1, 0.1], [0.0, 0.2], [0.4]],
        "classic_scores": [[0.0, 0.0], [0.0, 0.5], [0.25]],
        "tensor_hash": "sha256:00",
        "query_directions": list(pack_directions(MEANS)),
    }


def profile(**changes: Any) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "model": {"architecture": "llama", "n_layer": 3, "n_head": [2, 2, 1], "n_head_kv": 1, "head_dim": [8, 8, 4]},
        "heads_ranked": [[0, 1], [1, 0], [0]],
        "layer_errors": [0.5, 0.25, 0.25],
        "default_budget": 0.25,
        "provenance": {"how": "by hand", "text": "none", "date": "", "version": "0"},
        "calibration": {**valid(), **changes},
    }


def test_directions_survive_the_file() -> None:
    found = Calibration(**json.loads(json.dumps(valid())))
    np.testing.assert_allclose(
        found.query_direction(0), MEANS[0] / np.linalg.norm(MEANS[0], axis=1, keepdims=True), atol=1e-3
    )
    assert found.query_directions[1] == ""
    assert found.query_direction(1).shape == (0, 0)
    np.testing.assert_allclose(found.query_direction(2), [[-0.5] * 4])


@given(st.lists(st.floats(-1e3, 1e3).filter(lambda x: abs(x) > 1e-3), min_size=2, max_size=6))
def test_directions_are_unit_vectors(values: list[float]) -> None:
    found = Calibration(**{**valid(), "query_directions": pack_directions([np.array([values, values])])})
    np.testing.assert_allclose(np.linalg.norm(found.query_direction(0), axis=1), 1.0, atol=2e-3)


def test_scores_of_layers_that_differ_in_heads() -> None:
    scores = Calibration(**valid()).scores("semantic_scores")
    np.testing.assert_array_equal(scores, [[0.5, 0.25], [0.0, 1.0], [2.0, np.nan]])


def test_a_profile_with_a_calibration_is_read_and_written_alike() -> None:
    loaded = Profile.load(profile())
    assert loaded.calibration == Calibration(**valid())
    assert Profile.load(json.loads(loaded.to_json())) == loaded


def test_a_profile_without_one_does_not_mention_it() -> None:
    assert "calibration" not in json.loads(Profile.load("llama-3.1-8b-instruct").to_json())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("semantic_scores", [[0.5], [0.0, 1.0], [2.0]], r"semantic_scores has scores of \[1, 2, 1\] heads"),
        ("classic_scores", [[0.5, 0.5]], "classic_scores has scores"),
        ("semantic_spread", [[0.5, -0.5], [0.0, 1.0], [2.0]], "semantic_spread"),
        ("query_directions", ["", ""], "query_directions has 2 layers"),
        ("query_directions", ["!", "", ""], "layer 0 is not base64"),
        ("query_directions", ["AAAA", "", ""], r"query_directions\[0\] is not one vector for each of 2 heads"),
        ("n_counted", -1, "n_counted"),
        ("extra", 1, "extra"),
    ],
)
def test_wrong_fields_are_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        Profile.load(profile(**{field: value}))
