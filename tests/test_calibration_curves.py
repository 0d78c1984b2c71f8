"""Error curves: measured through the engine, on the shipped model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from compresskv_edge import Llama, Profile
from compresskv_edge.calibration import Corpus, Plan, calibrate, curves
from compresskv_edge.calibration.runner import Runner, open_engine
from compresskv_edge.errors import CalibrationError, ProfileError
from compresskv_edge.model.measurement import ErrorCurves

PLAN = Plan(n_documents=4, n_error_documents=1, n_curve_documents=1, n_questions=1, min_tokens=400, max_tokens=500)


def test_moved_probability_by_hand() -> None:
    """Half and half against 3/4 and 1/4: a quarter moved."""
    half, other = np.log(np.float32([1, 1])), np.log(np.float32([3, 1]))
    assert curves.moved(half, other) == pytest.approx(0.25, rel=1e-6)
    assert curves.moved(half, half + 7) == pytest.approx(0.0, abs=1e-6)
    assert curves.moved(np.float32([90, 0]), np.float32([0, 90])) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def calibrated(demo_model: Path) -> Profile:
    return calibrate(demo_model, plan=PLAN, n_threads=1)


def test_a_profile_with_curves(calibrated: Profile, tmp_path: Path) -> None:
    found = calibrated.error_curves
    assert found is not None
    assert found.tokens == curves.POINTS
    asked, later = found.arrays()
    assert asked.shape == later.shape == (calibrated.model.n_layer, len(curves.POINTS))
    assert asked[:, 0].max() > 10 * asked[:, -2].max(), "128 of 500 tokens hold what an answer needs, one does not"
    assert later[:, 0].max() > later[:, -2].max()
    assert "error curves: one layer compressed at a time, 1 answers" in calibrated.provenance.how
    calibrated.save(tmp_path / "p.json")
    assert Profile.load(tmp_path / "p.json") == calibrated


def test_the_numbers_come_from_one_layer_compressed(calibrated: Profile, demo_model: Path) -> None:
    assert calibrated.error_curves is not None
    with open_engine(demo_model, PLAN, n_threads=1) as engine:
        run = Runner(engine, Corpus.load(model_name=engine.facts.name), PLAN)
        assert run.run() == calibrated
        document, heads = run.documents[-1], run._heads_before_errors()
        tokens = engine.tokens(document.ask(document.needles[0], engine.render))
        engine.restart()
        engine.read(tokens)
        engine.answer(PLAN.answer_tokens)  # from here on as in the run
        again, short = curves.asked(engine, tokens, heads), curves.asked(engine, tokens[:40], heads)
        text = curves._Text(engine, tokens)
        text.follow(2, np.arange(5, 25))
        kept = [engine.llm.kv_kept(layer).tolist() for layer in range(engine.facts.n_layer)]
    np.testing.assert_allclose(calibrated.error_curves.arrays()[0], again, rtol=1e-4, atol=1e-5)
    assert (short[:, np.asarray(curves.POINTS) >= 40] == 0.0).all(), "a prompt within the budget loses nothing"
    n, steps = len(tokens), len(text.forced)
    assert kept[2] == [*range(5, 25), *range(n - 8, n + steps)]
    assert all(rows == list(range(n + steps)) for layer, rows in enumerate(kept) if layer != 2)


def test_without_curves_nothing_changes(demo_model: Path, calibrated: Profile) -> None:
    plain = calibrate(demo_model, plan=dataclasses.replace(PLAN, n_curve_documents=0), n_threads=1)
    assert plain.error_curves is None
    assert "error_curves" not in plain.to_json()
    assert (plain.heads_ranked, plain.layer_errors) == (calibrated.heads_ranked, calibrated.layer_errors)


def test_edge_runs_on_them(calibrated: Profile, demo_model: Path) -> None:
    llm = Llama(
        str(demo_model), kv_profile=calibrated, kv_policy="edge", kv_budget=24, n_ctx=1024, n_threads=1, verbose=False
    )
    prompt = "The harbour was quiet. " * 40
    llm.create_completion(prompt, max_tokens=4, temperature=0.0)
    kept = [len(llm.kv_kept(layer)) for layer in range(calibrated.model.n_layer)]
    assert len(set(kept)) > 1, "layers get what their curves say"
    assert sum(kept) <= 24 * len(kept) + 4 * len(kept)


def test_more_documents_than_there_are() -> None:
    with pytest.raises(CalibrationError, match="no more for curves than for errors"):
        Plan(n_documents=2, n_error_documents=1, n_curve_documents=3)


@pytest.mark.parametrize(
    ("tokens", "n", "message"),
    [
        ((1,), 1, "two numbers or more, ascending"),
        ((4, 4), 2, "two numbers or more, ascending"),
        ((1, 4), 3, "error_curves.later has rows .*: give 6 rows of 2"),
    ],
)
def test_curves_that_do_not_fit(tokens: tuple[int, ...], n: int, message: str, demo_model: Path) -> None:
    profile = Profile.uniform(demo_model)
    rows = ((0.5,) * len(tokens),) * profile.model.n_layer
    made = ErrorCurves(tokens=tokens, asked=rows, later=((0.5,) * n,) * profile.model.n_layer)
    with pytest.raises(ProfileError, match=message.replace("6", str(profile.model.n_layer))):
        Profile.load({**profile.model_dump(mode="json"), "error_curves": made.model_dump(mode="json")})
