"""A prompt is read once for all policies and budgets, a stopped run goes on, the numbers are the engine's."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from compresskv_edge import Llama, Profile
from compresskv_edge.errors import CompressKVError, EvaluationError
from compresskv_edge.evaluate import fidelity, grid, suite_run
from compresskv_edge.evaluate.attention import Attention, RememberingLayer
from compresskv_edge.evaluate.forced import Greedy
from compresskv_edge.evaluate.journal import Journal
from compresskv_edge.evaluate.outcome import Outcome
from compresskv_edge.evaluate.player import Player, Prefill
from compresskv_edge.evaluate.sample import SuitePlan
from compresskv_edge.evaluate.suite_run import Setup, SuiteRun
from compresskv_edge.policies.layer import Layer
from compresskv_edge.runtime import applied

NAMES = ("compresskv", "snapkv", "pyramidkv", "cake", "streaming_llm", "tova", "keydiff", "knorm", "random", "h2o")
BUDGETS = (0.03, 0.06, 0.12, 0.25, 64)
PLAN = SuitePlan(contexts=(400,), depths=2)


@pytest.fixture
def start(demo_model: Path, tmp_path: Path) -> Callable[..., SuiteRun]:
    """`start(suite, plan=..., journal=...)`: a run on the model that ships with the package."""

    def make(suite: str = "niah", plan: SuitePlan = PLAN, journal: str = "run.jsonl") -> SuiteRun:
        return SuiteRun(suite, Setup(demo_model, "demo", tail=64), plan, tmp_path / journal)

    return make


@pytest.fixture
def random_layer() -> Layer:
    rng = np.random.default_rng(1)
    k, queries = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 40, 16), (4, 8, 16)))
    return Layer(3, np.arange(40), {"keys": k, "queries": queries})


def content(outcome: Outcome) -> Outcome:
    """Without times,"""
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


def test_attention_is_computed_once_and_what_it_took_counts_for_all() -> None:
    shared, computed = Attention(), []

    def compute() -> Iterator[Any]:
        computed.append(1)
        time.sleep(0.01)
        yield np.ones(3)

    first, again = (list(shared.of((0, 8), compute())) for _ in range(2))
    assert first[0] is again[0]
    assert computed == [1]
    assert shared.saved_s >= 0.01
    shared.n_bytes = 1 << 40
    assert next(shared.of((1, 8), compute())) is not first[0]
    assert list(shared.known) == [(0, 8)]


def test_a_remembering_layer_attends_as_any(random_layer: Layer) -> None:
    layer = RememberingLayer(**vars(random_layer))
    for window in (4, 8, 4):
        pairs = zip(layer.attention(window), random_layer.attention(window))
        assert all(np.array_equal(a, b) for a, b in pairs)
    (one,) = layer.attention(8, heads=[1])
    np.testing.assert_array_equal(one, list(random_layer.attention(8))[1])
    assert replace(layer, protected=np.zeros(40, dtype=bool)).shared is layer.shared


def test_outcomes_are_those_of_the_engine_run_alone(start: Callable[..., SuiteRun], demo_model: Path) -> None:
    """Restored and in any order, a policy finds what it finds when the prompt is read for it alone."""
    run = start()
    names = ("streaming_llm", "snapkv", "compresskv")
    run.run(names, (0.12,))
    found = {(outcome.sample, outcome.policy): outcome for outcome in run.journal.outcomes()}
    for sample in run.samples:
        for name in names:
            llm = Llama(
                str(demo_model), kv_profile="demo", kv_prefill="full", kv_tail=64, n_ctx=2048,
                n_threads=1, n_threads_batch=1, verbose=False,
            )  # fmt: skip
            tokens = run._player._prompter.opening(sample)
            seen = applied.read(llm, tokens, [name])
            kept = applied.apply(llm, name, 0.12, seen)
            outcome = found[sample.name, name]
            assert outcome.n_prompt == len(tokens)
            assert outcome.n_kept == pytest.approx(np.mean(kept))
            assert outcome.kv_bytes == llm.kv_stats().kv_bytes


def test_answers_are_those_of_free_generation(start: Callable[..., SuiteRun], monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeding the full cache's answer first, to compare, changes no answer: those of h2o start again, others go on."""
    names = ("streaming_llm", "compresskv", "h2o")
    compared = start(journal="compared.jsonl")
    compared.run(names, (0.06, 0.25))
    monkeypatch.setattr(Player, "_compared", lambda self, prefill, reference, policy, budget: (free(self, prefill), {}))
    alone = start(journal="alone.jsonl")
    alone.run(names, (0.06, 0.25))

    def answers(run: SuiteRun) -> dict[tuple[str, str, float], str]:
        return {(o.sample, o.policy, o.budget): o.scores[0].answer for o in run.journal.outcomes()}

    assert answers(compared) == answers(alone)
    extras = [o.scores[0].extra for o in compared.journal.outcomes()]
    assert {extra["agreement"] for extra in extras} == {0.0, 1.0}
    for outcome in compared.journal.outcomes():
        full = next(o for o in compared.journal.outcomes() if (o.sample, o.policy) == (outcome.sample, "full"))
        same = outcome.scores[0].answer == full.scores[0].answer
        assert not outcome.scores[0].extra["agreement"] or same


def free(player: Player, prefill: Prefill) -> Greedy:
    turn = prefill.sample.turns[0]
    return player._go_on(prefill.logits, turn, player._prompter.stops(prefill.sample, turn))


def test_evidence_that_is_held(start: Callable[..., SuiteRun]) -> None:
    run = start(plan=replace(PLAN, depths=3))
    summary = run.run(("compresskv", "streaming_llm"), (0.12,)).summary
    rows = {row["policy"]: row for row in summary["rows"]}
    assert (rows["full"]["evidence"], rows["full"]["evidence_any"]) == (1.0, 1.0)
    assert rows["streaming_llm"]["evidence"] < rows["compresskv"]["evidence"] < rows["compresskv"]["evidence_any"]
    assert rows["compresskv"]["intervals"]["evidence"][0] < rows["compresskv"]["evidence"]
    held = {row["policy"]: row["layers"] for row in summary["held"]}
    assert np.mean(held["compresskv"]) == pytest.approx(rows["compresskv"]["evidence"], abs=1e-3)
    assert len(held["full"]) == len(run._llm.kv_layers)


def test_a_document_is_read_once_for_its_questions(start: Callable[..., SuiteRun], demo_model: Path) -> None:
    """And what policies see of a prompt is what they see where it is read in the same two parts, alone."""
    plan = replace(PLAN, depths=4, questions=3)
    run = start(plan=plan)
    result = run.run(("compresskv", "snapkv", "h2o"), (0.12, 48))
    outcomes = run.journal.outcomes()
    n_prompts = sum(o.n_prompt for o in outcomes if o.policy == "full")
    assert result.counters["prompts"] == len(run.samples) == 12
    assert result.counters["prefill"] < 0.5 * n_prompts
    assert result.summary["n_documents"] == 4
    alone = start(plan=plan, journal="alone.jsonl")
    alone.samples = [alone.samples[1]]
    alone.run(("compresskv", "snapkv", "h2o"), (0.12, 48))
    mine = [content(o) for o in outcomes if o.sample == alone.samples[0].name]
    assert list(map(content, alone.journal.outcomes())) == mine


def test_documents_are_kept_for_later_policies(demo_model: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, depths=2, questions=2)
    setup = Setup(demo_model, "demo", tail=64, states=tmp_path / "states")
    names = ("compresskv", "snapkv")
    first = SuiteRun("niah", setup, plan, tmp_path / "first.jsonl").run(("compresskv", "snapkv"), (48,))
    later = SuiteRun("niah", setup, plan, tmp_path / "later.jsonl")
    assert later.run(names, (48,)).counters["prefill"] < 0.2 * first.counters["prefill"]
    found = [
        list(map(content, run.outcomes())) for run in (Journal(first.journal, later.journal.header), later.journal)
    ]
    assert found[0] == found[1]
    more = SuiteRun("niah", setup, plan, tmp_path / "more.jsonl").run(("h2o",), (48,))  # it needs what was not recorded
    assert more.counters["prefill"] >= first.counters["prefill"]
    for path in (tmp_path / "states").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(EvaluationError, match="is damaged"):
        SuiteRun("niah", setup, plan, tmp_path / "damaged.jsonl").run(names, (48,))


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


def test_a_window_of_its_own_is_no_matter_of_larger_budgets(
    start: Callable[..., SuiteRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the model that all share, beside a policy that looks at 32 queries, edge keeps what it keeps on its own."""
    names = ("edge", "edge:budgets=errors", "snapkv")
    shared = start(journal="shared.jsonl").run(names, (48, 128))
    assert shared.counters["prompts"] == len(start().samples)
    monkeypatch.setattr(suite_run, "_window_alone", lambda name, *_: 4 if name.startswith("edge") else 0)
    alone = start(journal="alone.jsonl").run(names, (48, 128))
    assert alone.counters["prompts"] == 2 * len(start().samples)
    for name in names:
        mine, its = ([r for r in run.summary["rows"] if r["policy"] == name] for run in (shared, alone))
        for row, other in zip(mine, its):
            same = ("budget", "score", "n_kept", "agreement", "evidence", "evidence_any")
            assert [row[key] for key in same] == [other[key] for key in same]
            assert row["kl"] == pytest.approx(other["kl"], rel=0.05, abs=1e-3)
    held = [[row for row in run.summary["held"] if row["policy"].startswith("edge")] for run in (shared, alone)]
    assert held[0] == held[1]


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


def test_full_is_full(start: Callable[..., SuiteRun]) -> None:
    """At a budget of the whole prompt every policy answers as the full cache does."""
    run = start(plan=replace(PLAN, depths=1))
    run.run(("compresskv", "snapkv", "streaming_llm"), (1.0,))
    outcomes = run.journal.outcomes()
    assert {tuple(score.answer for score in outcome.scores) for outcome in outcomes} == {
        tuple(score.answer for score in outcomes[0].scores)
    }
    assert outcomes[0].scores[0].score == 1.0


def test_conversations(start: Callable[..., SuiteRun]) -> None:
    run = start("multi_turn", replace(PLAN, contexts=(512,), depths=1, tasks=("questions",)))
    run.run(("compresskv", "h2o"), (0.25,))
    full, *others = run.journal.outcomes()
    assert [score.task for score in full.scores] == [f"question {i}" for i in range(1, 6)]
    assert sum(score.score for score in full.scores) >= 4
    assert all(len(outcome.scores) == 5 for outcome in others)


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


def test_fidelity_of_the_full_cache_is_perfect_and_of_less_is_less(start: Callable[..., SuiteRun]) -> None:
    plan = replace(PLAN, depths=1, decode_tokens=80)  # more than the tail holds
    rows = start("fidelity", plan).run(("compresskv", "streaming_llm"), (0.06, 1.0)).summary["rows"]
    by_cell = {(row["policy"], row["budget"]): row for row in rows}
    assert (by_cell["full", 1.0]["score"], by_cell["full", 1.0]["kl"]) == (1.0, 0.0)
    for name in ("compresskv", "streaming_llm"):
        assert by_cell[name, 0.06]["kl"] > by_cell[name, 1.0]["kl"] >= 0.0
        assert by_cell[name, 0.06]["score"] < 1.0


def test_fidelity_goes_on_without_running_full_again_for_the_journal(start: Callable[..., SuiteRun]) -> None:
    plan = replace(PLAN, depths=1, decode_tokens=20)
    start("fidelity", plan).run((), (0.12,))
    run = start("fidelity", plan)
    run.run(("random",), (0.12,))
    assert [outcome.policy for outcome in run.journal.outcomes()] == ["full", "random"]


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
