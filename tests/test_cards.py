"""The cards say what the shipped profiles hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compresskv_edge import Profile
from compresskv_edge.calibration import cards

ROOT = Path(__file__).parent.parent
RUNS = json.loads((ROOT / cards.RUNS).read_text(encoding="utf-8"))["runs"]


def test_the_page_is_made_from_the_profiles() -> None:
    assert (ROOT / cards.PAGE).read_text(encoding="utf-8") == cards.page(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_card(name: str) -> None:
    profile, run = Profile.load(name), RUNS[name]
    assert profile.calibration is not None
    card = cards.card(name, profile, run)
    assert f"{profile.calibration.n_counted} of {profile.calibration.n_prompts}" in card
    assert run["command"].startswith(f"compresskv calibrate {name} ")
    picture = ROOT / cards.FIGURES / f"{name}.png"
    assert picture.read_bytes()[1:4] == b"PNG"
    assert f"(cards/{picture.name})" in card


def test_few_answers_have_no_stability() -> None:
    name = next(iter(RUNS))
    profile = Profile.load(name)
    assert profile.calibration is not None
    calibration = profile.calibration.model_copy(update={"stability": None})
    assert "a half has too few answers" in cards.card(
        name, profile.model_copy(update={"calibration": calibration}), RUNS[name]
    )


def test_the_page_and_its_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for folder in (cards.FIGURES, cards.RUNS.parent):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / cards.RUNS).write_text(json.dumps({"runs": RUNS}))
    cards.write(tmp_path)
    assert (tmp_path / cards.PAGE).read_text(encoding="utf-8") == cards.page(RUNS)
    assert {path.name for path in (tmp_path / cards.FIGURES).iterdir()} == {f"{name}.png" for name in RUNS}
