"""The committed candidate for the demo model (docs/models.md) does what its card says, on a sample of prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compresskv_edge import Profile
from compresskv_edge.evaluate import needle
from compresskv_edge.profile import Settings

FOLDER = Path(__file__).parent / "models"
MODEL = str(FOLDER / "demo-candidate-q8_0.gguf")
SCORES = json.loads((FOLDER / "demo-candidate.srh.json").read_text())


@pytest.fixture(scope="module")
def prompts() -> list[needle.Prompt]:
    return needle.make_prompts(8, needle.token_counter(needle.open_model(MODEL, None, 1.0)), seed=5, contexts=(1024,))


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Its heads ranked by their semantic score, equal layers: two score, a layer has no more that retrieve."""
    ranked = tuple(tuple(sorted(range(len(row)), key=lambda h: -row[h])) for row in SCORES)
    return Profile.uniform(MODEL).model_copy(update={"heads_ranked": ranked, "settings": Settings(n_heads=2)})


def test_few_heads_hold_the_score() -> None:
    scores = sorted((score for row in SCORES for score in row), reverse=True)
    assert sum(scores[: len(scores) // 10 + 1]) > 0.9 * sum(scores)


@pytest.mark.parametrize(
    ("policy", "budget", "at_least", "at_most"),
    [("full", 1.0, 7, 8), ("compresskv", 0.03, 7, 8), ("streaming_llm", 0.06, 0, 3)],
)
def test_needles(
    policy: str, budget: float, at_least: int, at_most: int, prompts: list[needle.Prompt], profile: Profile
) -> None:
    outcomes = needle.run_needle(prompts, policy, budget, model=MODEL, profile=profile)
    assert at_least <= sum(outcome.correct for outcome in outcomes) <= at_most
