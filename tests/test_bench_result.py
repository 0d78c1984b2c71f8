"""Arithmetic and the table, on made-up samples."""

from dataclasses import replace

import pytest

from compresskv_edge.apps.bench import result as bench_result
from compresskv_edge.apps.bench.result import BenchPlan, BenchResult, Check, Eviction, KVBytes, Peaks, Rival, Samples

MIB = 2**20
RESULT = BenchResult(
    plan=BenchPlan(prompt_tokens=1024, budget_tokens=128, n_threads=2),
    model={"name": "m"},
    profile="p",
    machine={"cpu": "c"},
    tokens_kept=(128, 128),
    kv=KVBytes(stock=96 * MIB, limit=18 * MIB, before=96 * MIB, after=18 * MIB, peak=114 * MIB, expected=18 * MIB),
    evictions=(Eviction(ms=1.5, wall_ms=2.0, resident_before=300 * MIB, resident_after=200 * MIB),),
    stock=Samples(prefill_ms=((400.0, 600.0),), decode_ms=(30.0, 27.0, 60.0)),
    compressed=Samples(prefill_ms=((404.0, 606.0),), decode_ms=(10.0, 9.0, 20.0)),
    limit=Samples(prefill_ms=((40.0,),), decode_ms=(10.0, 9.0, 16.0)),
    peaks=Peaks(stock=130 * MIB, compressed=150 * MIB, limit=50 * MIB, against={}),
    against={},
)
RIVALS = replace(
    RESULT,
    plan=replace(RESULT.plan, against=("q8_0",)),
    peaks=replace(RESULT.peaks, against={"q8_0": 80 * MIB}),
    against={"q8_0": Rival(Samples(((500.0, 700.0),), (33.0, 25.0, 61.0)), 51 * MIB)},
)


def cells(result, name):
    return next(row for row in bench_result.rows(result) if row[0].startswith(name))


def test_prefill_is_the_sum_of_each_chunks_median():
    repeats = ((100.0, 200.0), (110.0, 900.0), (500.0, 210.0))
    assert bench_result.prefill_ms(Samples(repeats, ())) == 110.0 + 210.0


def test_ratios_are_taken_between_neighbours():
    """The machine was twice as slow for the last pair: the ratio does not see it."""
    assert bench_result.paired_ratio([10.0, 10.0, 20.0], [8.0, 8.0, 16.0]) == 1.25


def test_summary():
    figures = bench_result.summary(RESULT)
    assert figures["prefill_ratio"] == pytest.approx(1.01)
    assert figures["prefill_ratio_paired"] == pytest.approx(1.01)
    assert figures["eviction_ratio"] == pytest.approx(2.0 / 1010.0)
    assert figures["decode_ms_stock"] == 30.0
    assert figures["decode_ratio_limit"] == 1.0
    assert figures["decode_speedup"] == 3.0
    assert figures["kv_ratio"] == pytest.approx(18 / 96)
    assert figures["kv_deviation"] == 0.0


def test_a_check_is_met_up_to_its_limit():
    assert Check("x", 1.05, 1.05).met
    assert not Check("x", 1.0501, 1.05).met
    assert Check("x", 1.0, 1.05).to_dict() == {"name": "x", "value": 1.0, "limit": 1.05, "met": True}


def test_checks_are_computed_from_the_samples():
    assert [check.met for check in bench_result.checks(RESULT)] == [True] * 4
    slow = replace(
        RESULT,
        compressed=Samples(((480.0, 606.0),), (12.0, 12.0, 20.0)),
        evictions=(replace(RESULT.evictions[0], wall_ms=11.0),),
        kv=replace(RESULT.kv, after=17 * MIB),  # too little is as suspicious as too much
    )
    assert [check.met for check in bench_result.checks(slow)] == [False] * 4


def test_rows_show_figures_and_verdicts():
    assert cells(RESULT, "prefill")[1:] == ("1000", "1010", "", "1.010 x stock", "<= 1.020", "yes")
    assert cells(RESULT, "eviction")[2:] == ("2.0", "", "0.20% of prefill", "<= 1.00%", "yes")
    assert cells(RESULT, "decode, ms")[1:4] == ("30.00 (27.00..60.00)", "10.00 (9.00..20.00)", "10.00 (9.00..16.00)")
    assert cells(RESULT, "process")[2] == "300.0 -> 200.0"
    slow = replace(RESULT, compressed=replace(RESULT.compressed, prefill_ms=((500.0, 606.0),)))
    assert cells(slow, "prefill")[-1] == "NO"


def test_rivals_have_a_row_and_a_figure():
    assert bench_result.summary(RIVALS)["decode_ms_q8_0"] == 33.0
    assert cells(RIVALS, "stock with q8_0")[1] == "33.00 (25.00..61.00)\n51.0 MiB"
    assert cells(RIVALS, "stock with q8_0")[4] == "3.30 x compressed"
    assert cells(RIVALS, "peak beside weights")[1:4] == ("130.0", "150.0", "50.0")
    assert {len(row) for row in bench_result.rows(RIVALS)} == {7}


def test_unknown_memory_is_a_question_mark():
    unknown = replace(RESULT.evictions[0], resident_before=None, resident_after=None)
    assert cells(replace(RESULT, evictions=(unknown,)), "process")[2] == "? -> ?"


def test_every_row_has_a_cell_for_every_column():
    table = bench_result.table(RESULT)
    assert {len(row) for row in bench_result.rows(RESULT)} == {len(table.columns)}
    assert table.row_count == len(bench_result.rows(RESULT))
    assert "128 kept a layer" in table.title
    assert "Profile: p. Machine: c." in table.caption


def test_number_of_steps():
    plan = BenchPlan(prompt_tokens=1025, budget_tokens=512, decode_tokens=17, repeats=2, prefill_repeats=3)
    assert plan.n_steps == 2 * 3 * 3 + 1 + 3 * 2 * 2
    assert replace(plan, against=("q8_0", "q4_0")).n_steps == 4 * 3 * 3 + 1 + 5 * 2 * 2
    assert plan.threads >= 1
    assert RESULT.plan.threads == 2
