"""One prompt under many policies: numbers are the engine's, answers those of free generation, documents read once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from test_evaluate_grid import PLAN, content
from test_evaluate_grid import start as start

from compresskv_edge import Llama
from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate import suite_run
from compresskv_edge.evaluate.attention import Attention, RememberingLayer
from compresskv_edge.evaluate.forced import Greedy
from compresskv_edge.evaluate.journal import Journal
from compresskv_edge.evaluate.player import Player, Prefill
from compresskv_edge.evaluate.suite_run import Setup, SuiteRun
from compresskv_edge.policies.layer import Layer
from compresskv_edge.runtime import applied


@pytest.fixture
def random_layer() -> Layer:
    rng = np.random.default_rng(1)
    k, queries = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 40, 16), (4, 8, 16)))
    return Layer(3, np.arange(40), {"keys": k, "queries": queries})


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
