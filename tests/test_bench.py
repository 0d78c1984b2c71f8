"""A run on a tiny model: sizes and structure. Times are measured but never judged here."""

import json
from dataclasses import replace

import pytest

from compresskv_edge.apps.bench import contexts
from compresskv_edge.apps.bench import run as bench
from compresskv_edge.apps.bench.result import MAX_KV_DEVIATION, BenchPlan
from compresskv_edge.engine.machine import machine_facts, resident_bytes
from compresskv_edge.engine.native import LayerShape
from compresskv_edge.errors import BudgetError, UnsupportedModelError
from compresskv_edge.model.kv_types import row_bytes

PLAN = BenchPlan(
    prompt_tokens=300, budget_tokens=64, decode_tokens=20, repeats=2, prefill_repeats=2, n_threads=1, tail_tokens=48
)


@pytest.fixture(scope="module")
def measured(tiny_gguf):
    steps = []
    return bench.run(tiny_gguf("qwen2"), PLAN, step=steps.append), steps


def test_there_is_one_sample_for_everything_measured(measured):
    result, _ = measured
    assert [len(repeat) for repeat in result.stock.prefill_ms] == [1, 1]
    assert [len(repeat) for repeat in result.compressed.prefill_ms] == [1, 1]
    assert len(result.evictions) == 2
    blocks = [len(samples.decode_ms) for samples in (result.stock, result.compressed, result.limit)]
    assert blocks == [4, 4, 4]  # of 16 and 4 tokens, twice


def test_every_step_is_reported(measured):
    _, steps = measured
    assert len(steps) == PLAN.n_steps
    assert set(steps) == {"prefill", "decode"}


def test_kv_bytes_shrink_to_what_is_expected(measured):
    result, _ = measured
    kv = result.kv
    assert result.tokens_kept == (64, 64, 64)
    assert kv.after < kv.before <= kv.stock
    assert kv.before < kv.peak  # both caches are there while tokens move
    assert kv.expected == 3 * (64 + 48) * 2 * 2 * 32 * 2  # layers, rows, K and V, heads, head_dim, f16
    assert abs(kv.after / kv.expected - 1) <= 0.08  # the window is counted in both: much in a cache as small as this


def test_json_holds_every_field(measured):
    result, _ = measured
    data = json.loads(json.dumps(result.to_dict()))
    assert data["plan"]["prompt_tokens"] == 300
    assert data["model"]["name"] == "tiny-qwen2"
    assert data["model"]["n_layer"] == 3
    assert data["machine"]["devices"] == [] or all("(" in name for name in data["machine"]["devices"])
    assert set(data["kv"]) == {"stock", "limit", "before", "after", "peak", "expected"}
    assert [check["name"].split(" ")[0] for check in data["checks"]] == ["prefill", "eviction", "decode", "KV"]
    assert all(isinstance(value, float) for value in data["summary"].values())
    assert data["evictions"][0]["wall_ms"] >= data["evictions"][0]["ms"] > 0
    for side in ("stock", "compressed", "limit"):
        assert min(data[side]["decode_ms"]) > 0


def test_json_tells_no_paths(measured, tiny_gguf):
    result, _ = measured
    text = json.dumps(result.to_dict())
    assert str(tiny_gguf("qwen2").parent) not in text
    assert result.model["file"] == "qwen2-F32-0.gguf"


@pytest.mark.parametrize(("arch", "type_k"), [("llama", "q8_0"), ("gemma3", "f16")])
def test_expected_bytes_hold_for_other_models_and_types(tiny_gguf, arch, type_k):
    """With the default tail the window is within the tolerance. gemma3: most layers are sliding-window ones."""
    plan = replace(PLAN, prompt_tokens=1100, budget_tokens=100, prefill_repeats=1, repeats=1, tail_tokens=512)
    result = bench.run(tiny_gguf(arch), replace(plan, type_k=type_k, type_v=type_k))
    assert abs(result.kv.after / result.kv.expected - 1) <= MAX_KV_DEVIATION
    assert result.kv.after < result.kv.before


def test_a_given_profile_is_used(tiny_gguf):
    path = tiny_gguf("qwen2")
    profile = contexts.uniform_profile(path).model_copy(update={"layer_errors": (0.5, 0.25, 0.25)})
    result = bench.run(path, replace(PLAN, prefill_repeats=1, repeats=1), profile)
    assert result.tokens_kept[0] > result.tokens_kept[1]
    assert sum(result.tokens_kept) == 3 * 64
    assert result.profile.startswith("tiny-qwen2")


def test_rivals_hold_the_whole_prompt_in_their_type(tiny_gguf):
    plan = replace(PLAN, prefill_repeats=1, repeats=1, against=("q8_0", "q4_0"))
    steps = []
    result = bench.run(tiny_gguf("qwen2"), plan, step=steps.append)
    assert len(steps) == plan.n_steps
    assert list(result.against) == ["q8_0", "q4_0"]
    for name, rival in result.against.items():
        assert rival.kv_bytes / result.kv.stock == row_bytes(64, name) / row_bytes(64, "f16")
        assert [len(repeat) for repeat in rival.samples.prefill_ms] == [1]
        assert len(rival.samples.decode_ms) == 2
        assert min(rival.samples.decode_ms) > 0


def test_peaks_hold_the_cache_and_what_computes(measured):
    result, _ = measured
    peaks, kv = result.peaks, result.kv
    assert peaks.stock > kv.stock
    assert peaks.limit > kv.limit
    assert peaks.compressed > kv.peak > kv.after
    assert peaks.against == {}


def test_all_plans_are_checked_before_the_first_runs(tiny_gguf):
    steps = []
    with pytest.raises(BudgetError, match="the budget is 300 tokens"):
        bench.run_all(tiny_gguf("qwen2"), [PLAN, replace(PLAN, budget_tokens=300)], step=steps.append)
    assert steps == []


def test_prompts_may_be_longer_than_those_of_the_training(tmp_path):
    """Times do not depend on positions: `make bench-cuda` takes 128k tokens through any model."""
    shape = replace(contexts.random_gguf.TINY_SHAPES["qwen2"], n_ctx_train=128)
    path = contexts.random_gguf.write_random_gguf(tmp_path / "short.gguf", shape)
    result = bench.run(path, replace(PLAN, prefill_repeats=1, repeats=1))
    assert result.tokens_kept == (64, 64, 64)


def test_nothing_to_evict(tiny_gguf):
    with pytest.raises(BudgetError, match="nothing to evict"):
        bench.run(tiny_gguf("qwen2"), replace(PLAN, budget_tokens=300))


def test_the_tail_must_hold_what_is_decoded(tiny_gguf):
    with pytest.raises(BudgetError, match="do not fit the tail of 48"):
        bench.run(tiny_gguf("qwen2"), replace(PLAN, decode_tokens=41))


def test_missing_model(tmp_path):
    with pytest.raises(UnsupportedModelError, match=r"none\.gguf"):
        bench.run(tmp_path / "none.gguf", PLAN)


def test_bytes_of_a_layer():
    layer = LayerShape(n_head=8, n_head_kv=2, head_dim_k=64, head_dim_v=32, evictable=True)
    assert bench._layer_row_bytes(layer, "q8_0", "f16") == 4 * 34 + 128


def test_a_random_model_is_written_once(tmp_path, monkeypatch):
    shapes = {"small": contexts.random_gguf.TINY_SHAPES["qwen2"]}
    monkeypatch.setattr(contexts.random_gguf, "SHAPES", shapes)
    path = contexts.write_model("small", "Q4_0", tmp_path / "new")
    written = path.stat().st_mtime_ns
    assert contexts.write_model("small", "Q4_0", tmp_path / "new") == path
    assert path.stat().st_mtime_ns == written
    assert [entry.name for entry in path.parent.iterdir()] == ["small-q4_0.gguf"]


def test_machine_facts():
    facts = machine_facts()
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["library"].startswith(facts["compresskv_edge"])
    assert resident_bytes() > 2**20
