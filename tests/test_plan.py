"""What fits a memory: the plan agrees with itself, with the sizes, and with what a user is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from compresskv_edge import Llama, Profile
from compresskv_edge.apps import cli, plan
from compresskv_edge.apps.plan import PlannedCache
from compresskv_edge.errors import BudgetError
from compresskv_edge.model.shapes import USUAL
from compresskv_edge.model.sizes import ModelSizes

GIB = 1 << 30
EIGHT_B = ModelSizes.from_shape(USUAL["llama-3.1-8b"])


@pytest.fixture
def compresskv(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TERM", "dumb")
    return lambda *args: CliRunner().invoke(cli.app, [str(arg) for arg in args], prog_name="compresskv")


def test_the_largest_context_is_the_last_that_fits() -> None:
    for cache in (PlannedCache(None), PlannedCache(None, "q8_0", "q8_0"), PlannedCache(1024)):
        for full in (False, True) if cache.budget else (False,):
            largest = plan.largest_context(EIGHT_B, cache, 8 * GIB, full_prefill=full)
            assert plan.total_bytes(EIGHT_B, cache, largest, full_prefill=full) <= 8 * GIB
            if largest < EIGHT_B.n_ctx_train:
                assert plan.total_bytes(EIGHT_B, cache, largest + 256, full_prefill=full) > 8 * GIB


def test_a_compressed_cache_reaches_the_trained_context_where_stock_does_not() -> None:
    stock, ours = plan.make(EIGHT_B, 8 * GIB, budgets=(1024,), kv_types=("f16",)).rows
    assert stock.largest_context < 32_768
    assert ours.largest_context == EIGHT_B.n_ctx_train
    assert ours.full_prefill == pytest.approx(stock.largest_context, abs=512)
    assert ours.kv_bytes[-1] == EIGHT_B.kv_bytes(1024 + 512)


def test_nothing_fits_a_memory_smaller_than_the_weights() -> None:
    for row in plan.make(EIGHT_B, EIGHT_B.weights_bytes).rows:
        assert row.largest_context == row.full_prefill == 0


def test_a_budget_of_the_window_alone() -> None:
    with pytest.raises(BudgetError, match="8 tokens holds no more than"):
        plan.make(EIGHT_B, GIB, budgets=(8,))


@pytest.mark.parametrize("mode", ["full", "guided"])
def test_the_cache_never_takes_more_than_planned(mode: str, tiny_gguf: Any, text: str) -> None:
    path, cache = str(tiny_gguf("llama")), PlannedCache(200)
    sizes = ModelSizes.from_gguf(path)
    options: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1, "verbose": False}
    llm = Llama(path, kv_profile=Profile.uniform(path), kv_budget=200, kv_prefill=mode, n_ctx=4096, **options)
    llm.create_completion(llm.tokenize(text.encode())[:3000], max_tokens=4)
    planned = plan._kv_peak(sizes, cache, 3072, plan.TAIL, mode == "full")
    assert llm.kv_stats().kv_bytes_peak <= planned
    assert llm.kv_stats().kv_bytes_peak == pytest.approx(planned, rel=0.35)
    llm.close()


def test_the_command_shows_all_rows_in_80_columns(compresskv: Any) -> None:
    result = compresskv("plan", "--shape", "llama-3.1-8b", "--memory", "8GB")
    assert result.exit_code == 0, result.output
    rows = [line for line in result.stdout.splitlines() if " f16 " in line or " q8_0 " in line or " q4_0 " in line]
    assert len(rows) == 3 * (1 + len(plan.BUDGETS))
    assert "(8.91)" in rows[0]
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_the_caption_names_a_budget_that_is_shown(compresskv: Any) -> None:
    for budget in (700, 1024):
        shown = compresskv("plan", "--shape", "llama-3.1-8b", "--memory", "8GB", "--budget", budget).stdout
        assert f" {budget}: so many\ntokens a layer" in shown


def test_the_command_reads_a_header_and_writes_json(compresskv: Any, tiny_gguf: Any) -> None:
    result = compresskv(
        "plan", tiny_gguf("qwen2"), "--memory", "100MB", "--budget", 64, "--budget", 128, "--kv", "q8_0", "--json"
    )
    made = json.loads(result.stdout)
    assert made["memory_bytes"] == 100 << 20
    assert [row["cache"]["budget"] for row in made["rows"]] == [None, 64, 128]
    assert {row["cache"]["type_k"] for row in made["rows"]} == {"q8_0"}


def test_by_default_the_memory_is_what_is_free(
    compresskv: Any, tiny_gguf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compresskv_edge.apps.cli.plan.free_bytes", lambda: 123 << 20)
    assert json.loads(compresskv("plan", tiny_gguf("qwen2"), "--json").stdout)["memory_bytes"] == 123 << 20


@pytest.mark.parametrize(
    ("args", "named", "status"),
    [
        ([], "GGUF file or --shape", 2),
        (["a.gguf", "--shape", "llama-3.1-8b"], "one of the two", 2),
        (["a.gguf", "--memory", "4 apples"], "'4 apples' is not a size", 2),
        (["a.gguf", "--kv", "q3"], "'q3' is not one of f16", 2),
        (["--shape", "gpt-9"], "'gpt-9' is not one of", 2),
        (["none.gguf"], "none.gguf", 1),
        (["--shape", "qwen3-4b", "--budget", "3"], "a budget of 3 tokens", 1),
    ],
)
def test_errors_say_what_is_wrong(compresskv: Any, args: list[str], named: str, status: int) -> None:
    result = compresskv("plan", *args)
    assert result.exit_code == status
    assert named in " ".join(result.output.replace("│", " ").split())
