"""A prompt is read once for all policies and budgets, a stopped run goes on, the numbers are the engine's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from compresskv_edge import Profile
from compresskv_edge.errors import CompressKVError, EvaluationError
from compresskv_edge.evaluate import fidelity, grid, suite_run
from compresskv_edge.evaluate.outcome import Outcome
from compresskv_edge.evaluate.sample import SuitePlan
from compresskv_edge.evaluate.suite_run import Setup, SuiteRun

NAMES = ("compresskv", "snapkv", "pyramidkv", "cake", "streaming_llm", "tova", "keydiff", "knorm", "random", "h2o")
BUDGETS = (0.03, 0.06, 0.12, 0.25, 64)
PLAN = SuitePlan(contexts=(400,), depths=2)


@pytest.fixture
def start(demo_model: Path, tmp_path: Path) -> Callable[..., SuiteRun]:
    """`start(suite, plan=..., journal=...)`: a run on the model that ships with the package."""

    def make(suite: str = "niah", plan: SuitePlan = PLAN, journal: str = "run.jsonl") -> SuiteRun:
        return SuiteRun(suite, Setup(demo_model, "demo", tail=64), plan, tmp_path / journal)

    return make


def content(outcome: Outcome) -> Outcome:
    """Without times."""
    return replace(outcome, prefill_ms=0.0, evict_ms=0.0, decode_ms=0.0)


def test_a_grid_costs_one_prefill_a_prompt(start: Callable[..., SuiteRun]) -> None:
    run = start()
    counters = run.run(NAMES, BUDGETS).counters
    n_cells = 1 + len(NAMES) * len(BUDGETS)
    outcomes = run.journal.outcomes()
    by_sample = {outcome.sample: outcome.n_prompt for outcome in outcomes}
    assert len(outcomes) == n_cells * len(run.samples) == 51 * 2
    assert counters["prompts"] == len(run.samples)
    assert counters["prefill"] == sum(by_sample.values())
    assert counters["restored"] == len(outcomes)
    n_answer = max(turn.max_tokens for sample in run.samples for turn in sample.turns)
    assert 0 < counters["decoded"] <= n_answer * len(outcomes)


def test_a_stopped_run_goes_on(start: Callable[..., SuiteRun]) -> None:
    whole = start(journal="whole.jsonl")
    whole.run(NAMES[:3], BUDGETS[:2])
    stopped = start()

    def stop(step: grid.Step) -> None:
        if step.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped.run(NAMES[:3], BUDGETS[:2], stop)
    assert len(start().journal.outcomes()) == 4
    steps: list[grid.Step] = []
    again = start()
    counters = again.run(NAMES[:3], BUDGETS[:2], steps.append).counters
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (4, 14, 14)
    assert counters["restored"] == 11  # full again, to compare the others with
    assert list(map(content, again.journal.outcomes())) == list(map(content, whole.journal.outcomes()))
    assert again.run(NAMES[:3], BUDGETS[:2]).counters["restored"] == 11  # nothing is left to do


def test_more_policies_later(start: Callable[..., SuiteRun]) -> None:
    start().run(("compresskv",), (0.12,))
    result = start().run(("streaming_llm", "compresskv"), (0.25, 0.12))
    assert result.counters["restored"] == (3 + 1) * 2  # full again, to compare the others with
    assert [(row["policy"], row["budget"]) for row in result.summary["rows"]] == [
        *(("full", 1.0), ("streaming_llm", 0.12), ("streaming_llm", 0.25), ("compresskv", 0.12), ("compresskv", 0.25))
    ]


def test_a_policy_with_a_window_of_its_own_runs_on_a_model_of_its_own(start: Callable[..., SuiteRun]) -> None:
    """Budgets are so small that the window is most of them: 9 tokens are the least with 8, 5 with 4."""
    edge = "edge:budgets=errors"
    result = start().run((edge, "compresskv", "keydiff"), (0.007,))
    kept = {(row["policy"], row["budget"]): row["n_kept"] for row in result.summary["rows"]}
    assert (kept[edge, 0.007], kept["compresskv", 0.007], kept["keydiff", 0.007]) == (5, 9, 9)
    n_samples = len(start().samples)
    assert result.counters["prompts"] == 2 * n_samples
    assert start().run((edge, "compresskv", "keydiff"), (0.007,)).counters["prompts"] == 0


def test_more_prompts_later(start: Callable[..., SuiteRun]) -> None:
    start().run(("compresskv",), (0.12,))
    more = start(plan=replace(PLAN, repeats=2))
    result = more.run(("compresskv",), (0.12,))
    assert result.counters["prompts"] == 2
    assert (result.summary["n_prompts"], result.summary["settings"]["repeats"]) == (4, 2)
    fewer = start().run(("compresskv",), (0.12,))
    assert fewer.counters["prompts"] == 0
    assert fewer.summary["n_prompts"] == 2
    with pytest.raises(EvaluationError, match="of another run"):
        start(plan=replace(PLAN, depths=3))


def test_a_protected_system_prompt_stays_through_ten_turns(demo_model: Path, tmp_path: Path) -> None:
    plan = SuitePlan(contexts=(512,), depths=1, tasks=("system_form",))
    run = SuiteRun("multi_turn", Setup(demo_model, "demo", tail=64, protect_system=True), plan, tmp_path / "p.jsonl")
    n_system = run._player._prompter.n_system(run.samples[0])
    text = run._llm.detokenize(run._player._prompter.opening(run.samples[0])[:n_system]).decode()
    assert run.samples[0].system in text
    assert run.samples[0].document[1:9] not in text
    steps: list[grid.Step] = []
    run.run(("streaming_llm", "edge:budgets=equal", "compresskv"), (0.12,), steps.append)  # edge has a model to itself
    kept = {outcome.policy: outcome.n_kept for outcome in run.journal.outcomes()}
    assert kept["edge:budgets=equal"] == pytest.approx(kept["compresskv"], abs=1)
    assert (steps[-1].done, steps[-1].total) == (4, 4)
    assert {step.total for step in steps} == {4}
    for layer in range(3):
        assert set(range(n_system)) <= set(run._llm.kv_kept(layer).tolist())
    assert run.header["settings"]["protect_system"] is True
    run.close()


def test_numpy_gets_no_more_threads_than_the_engine(start: Callable[..., SuiteRun]) -> None:
    found: list[int] = []
    run = start(plan=replace(PLAN, depths=1))
    run.run(("random",), (0.5,), lambda _: found.extend(pool["num_threads"] for pool in threadpool_info()))
    assert set(found) <= {1}
    assert found or not threadpool_info()


def test_divergence() -> None:
    p, q = (np.array(row, dtype=np.float32) for row in ([1.0, 2.0, 3.0], [1.5, 2.0, 2.0]))
    a, b = (np.exp(row) / np.exp(row).sum() for row in (p.astype(float), q.astype(float)))
    assert fidelity.divergence(p, q) == pytest.approx(float((a * np.log(a / b)).sum()))
    assert fidelity.divergence(p, p + 7) == pytest.approx(0.0, abs=1e-7)


def test_cells_start_with_the_full_cache() -> None:
    assert grid.cells(["snapkv", "full", "snapkv"], [0.1, 256, 0.1]) == [
        *(("full", 1.0), ("snapkv", 0.1), ("snapkv", 256))
    ]


def test_what_is_wrong_is_said_before_a_model_is_loaded() -> None:
    suite_run.check(["snapkv:window=8"], [0.5, 256])
    with pytest.raises(CompressKVError, match="snapvk"):
        suite_run.check(["snapvk"], [0.5])
    with pytest.raises(CompressKVError, match=r"1\.5"):
        suite_run.check(["snapkv"], [1.5])


def test_prompts_longer_than_the_model_knows(start: Callable[..., SuiteRun]) -> None:
    with pytest.raises(EvaluationError, match="knows 8192 tokens, the prompts have 9000: lower --contexts"):
        start(plan=replace(PLAN, contexts=(9000,)))
    with pytest.raises(EvaluationError, match=r"takes .* tokens but the context holds 8192: lower --contexts"):
        start("multi_turn", replace(PLAN, contexts=(8100,), depths=1)).run((), (0.5,))


def test_the_summary_names_the_model_and_no_folder(start: Callable[..., SuiteRun], tmp_path: Path) -> None:
    (tmp_path / "hay").mkdir()
    (tmp_path / "hay" / "book.txt").write_text(" ".join(f"Sentence {i} is about the sea." for i in range(400)))
    summary: dict[str, Any] = start(plan=replace(PLAN, haystack=tmp_path / "hay")).run((), (0.5,)).summary
    assert summary["model"]["name"] == "demo"
    assert summary["settings"]["haystack"] == "hay"
    assert summary["profile"]["n_heads"] == Profile.load("demo").settings.n_heads
    assert str(tmp_path) not in json.dumps(summary)
