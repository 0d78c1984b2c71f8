"""The prompts are what they say, and the demo model finds needles as well as docs/results/needle.json reports."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compresskv_edge.errors import CompressKVError
from compresskv_edge.evaluate import haystack, needle, needle_report
from compresskv_edge.evaluate.needle_report import NeedleOutcome
from compresskv_edge.model.profile import Profile

N_SAMPLE = 18
PUBLISHED = Path(__file__).parents[1] / "docs" / "results" / "needle.json"


def words(text):
    return len(text.split())


@pytest.fixture(scope="module")
def count():
    return needle.token_counter(needle.open_model(None, None, 1.0))


@pytest.fixture(scope="module")
def sample(count):
    return needle.make_prompts(N_SAMPLE, count, seed=11, contexts=(1024,), distractors=(0,))


#
# text
#


@settings(deadline=None)
@given(seed=st.integers(0, 10**9), kind=st.sampled_from(haystack.KINDS), n=st.integers(1, 12))
def test_facts_of_a_document_do_not_clash(seed, kind, n):
    facts = haystack.draw_facts(random.Random(seed), [kind] * n)
    assert len({fact.key for fact in facts}) == n
    for fact in facts:
        assert [fact.answer in other.sentence for other in facts].count(True) == 1


@settings(deadline=None)
@given(seed=st.integers(0, 10**9), kind=st.sampled_from(haystack.KINDS))
def test_hay_holds_no_answer(seed, kind):
    rng = random.Random(seed)
    assert haystack.draw_fact(rng, kind).answer not in haystack.document(rng, [], 2000, words)


@settings(deadline=None)
@given(seed=st.integers(0, 10**9), n_tokens=st.integers(60, 3000), depth=st.floats(0, 1))
def test_document_fills_its_size_and_places_sentences(seed, n_tokens, depth):
    text = haystack.document(random.Random(seed), [(depth, "HERE IT IS.")], n_tokens, words)
    assert n_tokens - 40 < words(text) <= n_tokens
    before = words(text[: text.index("HERE")])
    assert abs(before - depth * (words(text) - 3)) <= 20


def test_document_too_short_for_its_facts():
    with pytest.raises(ValueError, match="2 tokens are too few for 1 facts: raise n_tokens by 1"):
        haystack.document(random.Random(0), [(0.5, "Three words here.")], 2, words)


def test_depths_0_and_1_are_the_ends():
    text = haystack.document(random.Random(0), [(0.0, "First."), (1.0, "Last.")], 200, words)
    assert text.startswith(" First.")
    assert text.endswith(" Last.")


#
# prompts
#


@pytest.mark.parametrize("n_context", [512, 1024, 4000])
@pytest.mark.parametrize("n_distractors", [0, 4])
def test_prompt_has_the_size_that_the_model_sees(count, n_context, n_distractors):
    prompt = needle.make_prompt(0, count, n_context=n_context, depth=0.5, n_distractors=n_distractors, kind="food")
    assert count(prompt.text) + 1 == prompt.n_tokens
    assert n_context - 60 < prompt.n_tokens <= n_context


def test_prompts_are_the_same_every_time_and_differ_by_seed(count):
    first, again, other = (needle.make_prompts(6, count, seed=seed, contexts=(512,)) for seed in (1, 1, 2))
    assert first == again
    assert not {prompt.text for prompt in first} & {prompt.text for prompt in other}


def test_prompts_cover_depths_kinds_and_distractors(count):
    prompts = needle.make_prompts(44, count, contexts=(512, 600))
    assert {prompt.depth for prompt in prompts} == set(needle.DEPTHS)
    assert {prompt.kind for prompt in prompts} == set(haystack.KINDS)
    assert {(prompt.n_context, prompt.n_distractors) for prompt in prompts} == {
        (c, d) for c in (512, 600) for d in (0, 4)
    }
    for prompt in prompts:
        assert prompt.text.count(prompt.answer) == 1
        at = prompt.text.index(prompt.sentence) / prompt.text.index("\n\nQuestion:")
        assert abs(at - prompt.depth) < 0.2


#
# scores and tables
#


@pytest.mark.parametrize(
    ("answer", "right"), [(" 4817.", True), ("4817", True), (" 4818.", False), (" 48170.", False), ("", False)]
)
def test_is_correct(answer, right):
    assert needle.is_correct(answer, "4817") is right


def test_report_and_tables():
    def outcome(policy, budget, depth, correct):
        return NeedleOutcome(policy, budget, 512, depth, 0, correct, "", n_kept=100, kv_bytes=1000)

    outcomes = [
        outcome("full", 1.0, 0.0, True),
        outcome("full", 1.0, 1.0, True),
        outcome("compresskv", 0.25, 0.0, False),
    ]
    results = needle_report.report(outcomes, {"seed": 1})
    assert results["settings"] == {"seed": 1}
    assert [row["n_right"] for row in results["overall"]] == [2, 0]
    assert needle_report.markdown(results).splitlines() == [
        "| policy | 100% | 25% |",
        "| --- | --- | --- |",
        "| full | 1.00 (0.34 to 1.00) |  |",
        "| compresskv |  | 0.00 (0.00 to 0.79) |",
    ]
    assert needle_report.markdown(results, "depth").splitlines()[0] == "| policy, cache | 0.0 | 1.0 |"


def test_command_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    outcome = NeedleOutcome("full", 1.0, 512, 0.0, 0, True, "", n_kept=100, kv_bytes=1000)
    monkeypatch.setattr(needle, "measure", lambda prompts, **_: [outcome] * len(prompts))
    needle.main(["--prompts", "3", "--seed", "5", "--json", str(tmp_path / "new" / "needle.json")])
    results = json.loads((tmp_path / "new" / "needle.json").read_text())
    assert results["overall"][0]["n"] == 3
    assert needle_report.markdown(results) in capsys.readouterr().out


def test_prefill_modes_are_compared_at_the_smallest_budget(monkeypatch):
    runs = []
    monkeypatch.setattr(needle, "run_needle", lambda prompts, policy, budget, **_: runs.append((policy, budget)) or [])
    needle.main(["--prompts", "2", "--prefill"])
    assert runs == [("full", 1.0), *((policy, needle.BUDGETS[-1]) for policy in needle.PREFILL_MODES)]


@pytest.mark.parametrize("mode", ["chunked", "guided"])
def test_bounded_modes_are_bounded(mode):
    prompts = [needle.make_prompt(1, lambda text: len(text.split()), n_context=900, depth=0.5)]
    (outcome,) = needle.run_needle(prompts, f"compresskv_{mode}", 0.12)
    (whole,) = needle.run_needle(prompts, "compresskv", 0.12)
    assert outcome.n_kept == whole.n_kept
    assert outcome.policy == f"compresskv_{mode}"


def test_published_results_are_of_the_shipped_profile():
    results = json.loads(PUBLISHED.read_text())
    assert results["settings"].items() >= Profile.load(needle.PROFILE).settings.model_dump().items()
    assert {row["n"] for row in results["overall"]} == {results["settings"]["n_prompts"]}


def test_unknown_policy():
    with pytest.raises(ValueError, match=r"policy is 'snapkv': use one of full, compresskv, .*, streaming_llm"):
        needle.run_needle([], "snapkv")


def test_budget_below_the_window():
    with pytest.raises(CompressKVError, match="window"):
        needle.run_needle([], "compresskv", 4)


#
# the demo model
#


@pytest.mark.slow
def test_needle_accuracy_of_the_demo_model(sample):
    """18 prompts of 1024 tokens, no distractors."""
    right = {}
    for policy, budget in (("full", 1.0), ("compresskv", 0.25), ("streaming_llm", 0.25)):
        outcomes = needle.run_needle(sample, policy, budget)
        right[policy] = sum(outcome.correct for outcome in outcomes)
        for outcome, prompt in zip(outcomes, sample):
            assert outcome.n_kept == pytest.approx(budget * prompt.n_tokens, abs=1)
    print(right)
    assert right["full"] >= N_SAMPLE - 1
    assert right["compresskv"] >= N_SAMPLE - 4
    assert right["compresskv"] - right["streaming_llm"] >= 6
