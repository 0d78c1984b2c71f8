"""Calibration end to end, on the demo model and on models that know nothing."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import compresskv_edge
from compresskv_edge import Llama, Profile
from compresskv_edge.calibration import Corpus, Plan, Progress, runner
from compresskv_edge.calibration.engine import Engine
from compresskv_edge.calibration.retrieval_score import rank
from compresskv_edge.calibration.state import State
from compresskv_edge.errors import CalibrationError, UnsupportedModelError
from compresskv_edge.model.gguf_file import GGUF
from compresskv_edge.runtime.prompt import common_prefix

DATA = Path(runner.__file__).parent / "data"
SMALL = Plan(n_documents=3, n_error_documents=2, n_questions=3, min_tokens=256, max_tokens=384, answer_tokens=12)


@pytest.fixture(scope="module")
def profile(demo_model: Path) -> Profile:
    return calibrate(demo_model)


def calibrate(path: Path, **options: object) -> Profile:
    return compresskv_edge.calibrate(path, **{"plan": SMALL, "n_threads": 1, **options})


def test_a_profile_of_the_demo_model(profile: Profile, demo_model: Path) -> None:
    found = profile.calibration
    assert found is not None
    assert found.heads_calibrated
    assert (found.n_prompts, found.n_counted >= 6, found.reason) == (9, True, "")
    assert found.tensor_hash == GGUF.open(demo_model).hash()
    assert sum(profile.layer_errors) == pytest.approx(1.0, abs=1e-5)
    scores = found.scores("semantic_scores")
    best = np.argsort(-scores, axis=None)[:5]
    assert {divmod(int(i), 8) for i in best} == {(2, 5), (3, 1), (3, 6), (4, 2), (4, 7)}  # where its retrieval sits
    assert np.sort(scores, axis=None)[-5:].sum() > 0.8 * scores.sum()
    classic = found.scores("classic_scores")
    assert classic[[2, 3, 3], [5, 1, 6]].max() < 0.1 < classic[4, 2]  # the top-1 count sees those that copy only
    for layer, ranking in enumerate(profile.heads_ranked):
        assert list(ranking) == sorted(range(8), key=lambda head: -scores[layer][head])
    assert profile.settings.n_heads == 4
    assert found.stability is not None
    assert sum(found.stability.n_counted) == found.n_counted
    assert found.stability.rank_correlation > 0.7
    assert found.stability.shared_heads > 0.5
    assert 0.0 < found.stability.error_difference < 0.2
    assert "9 greedy answers" in profile.provenance.how
    assert "disjoint" in profile.provenance.text


def test_the_profile_is_one_that_the_engine_takes(profile: Profile, demo_model: Path, tmp_path: Path) -> None:
    profile.save(tmp_path / "demo.json")
    again = Profile.load(tmp_path / "demo.json")
    assert again == profile
    llm = Llama(str(demo_model), kv_profile=again, kv_budget=64, n_ctx=1024, n_threads=1, verbose=False)
    llm.create_completion("The harbour was quiet that day. " * 40, max_tokens=2)
    assert sum(llm.kv_stats().n_tokens_kept) < 100 * profile.model.n_layer


def test_query_directions_are_unit_vectors(profile: Profile) -> None:
    assert profile.calibration is not None
    for layer in range(profile.model.n_layer):
        directions = profile.calibration.query_direction(layer)
        assert directions.shape == (8, 64)
        np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=2e-3)


def test_the_same_seed_gives_the_same_bytes(profile: Profile, demo_model: Path) -> None:
    assert calibrate(demo_model).to_json() == profile.to_json()
    other = calibrate(demo_model, plan=dataclasses.replace(SMALL, seed=1))
    assert other.to_json() != profile.to_json()


def test_the_same_bytes_with_two_threads(demo_model: Path) -> None:
    plan = dataclasses.replace(SMALL, n_documents=2, n_error_documents=1)
    assert len({calibrate(demo_model, plan=plan, n_threads=2).to_json() for _ in range(2)}) == 1


#
# each document is read once
#


def test_tokens_are_read_once(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n_read: list[int] = []
    evaluate = Engine.read

    def read(self: Engine, tokens: Sequence[int]) -> None:
        known = self.llm.input_ids[: self.llm.n_tokens].tolist()
        n_read.append(len(tokens) - min(common_prefix(known, tokens), len(tokens) - 8))
        evaluate(self, tokens)

    monkeypatch.setattr(Engine, "read", read)
    plan = dataclasses.replace(SMALL, n_curve_documents=1)
    calibrate(demo_model, plan=plan)
    assert len(n_read) == 9 + 2  # nine questions, and the curves' question and document
    assert sum(n_read) < sum(plan.lengths()) + 11 * 40
    assert sorted(n_read)[-4] < 60 < sorted(n_read)[-3], "three documents, all else are questions"


def test_layer_errors_use_the_heads_that_the_first_documents_ranked(demo_model: Path) -> None:
    with runner.open_engine(demo_model, SMALL, n_threads=1) as engine:
        run = runner.Runner(engine, Corpus.load(model_name="demo"), SMALL)
        run.run()
    assert run.state.read == [0, 2, 3]  # 1 is beside the plan: enough needles were found
    first = run.state.semantic[:3][run.state.recall[:3] > 0.5].mean(axis=0)
    assert run._heads_before_errors() == [rank(row)[:4] for row in first]


#
# stopped and resumed
#


class Stop(Exception):
    pass


@pytest.mark.parametrize("steps", [2, 3])
def test_a_stopped_calibration_goes_on(profile: Profile, demo_model: Path, tmp_path: Path, steps: int) -> None:
    state, reports = tmp_path / "state.npz", []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == steps:
            raise Stop

    with pytest.raises(Stop):
        calibrate(demo_model, state_path=state, report=stop)
    assert state.is_file()
    assert not list(tmp_path.glob(".*"))
    later: list[Progress] = []
    resumed = calibrate(demo_model, state_path=state, report=later.append)
    assert resumed.to_json() == profile.to_json()
    assert not state.exists()
    assert [progress.done for progress in later] == sorted(progress.done for progress in later)
    assert 0 < later[0].done < later[-1].done == later[-1].total


def test_a_state_of_another_calibration_is_not_mixed_in(profile: Profile, demo_model: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"

    def stop(progress: Progress) -> None:
        if progress.done:
            raise Stop

    with pytest.raises(Stop):
        calibrate(demo_model, plan=dataclasses.replace(SMALL, seed=5), state_path=state, report=stop)
    assert calibrate(demo_model, state_path=state).to_json() == profile.to_json()


@pytest.mark.parametrize("content", [b"", b"PK", b"not a state"])
def test_a_damaged_state_is_begun_anew(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.npz").write_bytes(content)
    assert State.load(tmp_path / "state.npz") is None
    np.savez(tmp_path / "other.npz", x=1)
    assert State.load(tmp_path / "other.npz") is None


#
# memory
#


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_one_full_cache_and_little_more(demo_model: Path) -> None:
    """Seen from outside; the attention of one layer to a whole prompt of 3900 tokens would be 490 MB."""
    script = Path(__file__).parent / "calibration_memory.py"
    out = subprocess.run([sys.executable, str(script), str(demo_model)], capture_output=True, text=True, check=True)
    grown, kv_bytes = map(int, out.stdout.split())
    assert grown < kv_bytes + 300e6


#
# models that know nothing
#


@pytest.mark.parametrize("arch", ["llama", "gpt2", "gemma2", "gemma3", "phi3"])
def test_a_model_that_never_finds_the_needle(arch: str, tiny_gguf: Callable[..., Path]) -> None:
    plan = Plan(n_documents=2, n_error_documents=1, n_questions=2, min_tokens=600, max_tokens=800, answer_tokens=6)
    path = tiny_gguf(arch)
    profile = calibrate(path, plan=plan)
    found = profile.calibration
    assert found is not None
    assert not found.heads_calibrated
    assert "0 of 6 prompts" in found.reason
    uniform = Profile.uniform(path)
    assert profile.heads_used() == uniform.heads_used()
    assert sum(profile.layer_errors) == pytest.approx(1.0, abs=1e-5)
    if arch.startswith("gemma"):  # only full-attention layers are measured
        assert [error > 0 for error in profile.layer_errors] == [bool(text) for text in found.query_directions]
    else:
        assert min(profile.layer_errors) > 0.0
    llm = Llama(str(path), kv_profile=profile, kv_budget=64, n_ctx=1024, n_threads=1, verbose=False)
    llm.create_completion("The harbour was quiet that day. " * 20, max_tokens=2)


def test_few_needles_found_is_said(profile: Profile, demo_model: Path, tmp_path: Path) -> None:
    """Two of three facts that nobody can know from the text."""
    ours = json.loads((DATA / "needles-demo.json").read_text())["needles"][:6]
    lost = [{**each, "answer": "zanzibar"} for each in ours[2:]]
    (tmp_path / "n.json").write_text(json.dumps([*ours[:2], *lost]))
    found = calibrate(demo_model, needles=tmp_path / "n.json", plan=dataclasses.replace(SMALL, n_questions=6))
    assert found.calibration is not None
    assert found.calibration.n_prompts == 24, "one short document beside the plan, as few needles count"
    assert 3 <= found.calibration.n_counted <= 8
    assert f"found only {found.calibration.n_counted} of 24 needles" in found.provenance.remarks[0]
    assert not profile.provenance.remarks


def test_nothing_can_be_measured(tiny_gguf: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(n_documents=2, n_error_documents=1, n_questions=1, min_tokens=256, max_tokens=256, answer_tokens=4)
    monkeypatch.setattr(Engine, "_ends", lambda *_: True)
    with pytest.raises(CalibrationError, match=r"nothing could be measured: .* 0 of 3 prompts"):
        calibrate(tiny_gguf("llama"), plan=plan)


def test_without_layer_errors(demo_model: Path) -> None:
    found = calibrate(demo_model, plan=dataclasses.replace(SMALL, n_documents=1, n_error_documents=0))
    assert set(found.layer_errors) == set(Profile.uniform(demo_model).layer_errors)
    assert "layer errors were not measured" in found.provenance.remarks[0]


def test_errors_for_bad_input(tiny_gguf: Callable[..., Path], demo_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="mamba"):
        calibrate(tiny_gguf("mamba"))
    with pytest.raises(CalibrationError, match="context is 8192: use 8192 or less"):
        calibrate(demo_model, plan=dataclasses.replace(SMALL, max_tokens=9000))
    needle = {"sentence": "The quick answer is ninety-nine. " * 40, "question": "What?", "answer": "ninety-nine"}
    (tmp_path / "long.json").write_text(json.dumps([needle]))
    with pytest.raises(CalibrationError, match="passes max_tokens"):
        calibrate(demo_model, needles=tmp_path / "long.json")


def test_prompts_leave_room_for_the_answer_in_the_context(demo_model: Path) -> None:
    plan = runner.fit_to_context(dataclasses.replace(SMALL, max_tokens=9000), demo_model)
    assert plan.max_tokens + plan.answer_tokens + runner.MARGIN == 8192
    assert runner.fit_to_context(SMALL, demo_model) == SMALL


def test_the_default_corpus_of_a_model_with_a_template(tiny_gguf: Callable[..., Path]) -> None:
    with runner.open_engine(tiny_gguf("llama"), SMALL, n_threads=1) as engine:
        run = runner.Runner(engine, Corpus.load(), SMALL)
        prompt = run.documents[0].ask(run.documents[0].needles[0], engine.render)
        assert prompt.startswith("user: ")
        assert prompt.endswith("assistant: ")
        assert engine.tokens(prompt)[0] != engine.llm.token_bos()  # the template writes its own, this one none
    with runner.open_engine(tiny_gguf("llama"), SMALL, n_threads=1, use_chat=False) as engine:
        assert engine.tokens(engine.render("x"))[0] == engine.llm.token_bos()
