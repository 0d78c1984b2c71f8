"""Plans of a grid and the table of its results, on made-up samples."""

from dataclasses import replace

from test_bench_result import MIB, RESULT, RIVALS

from compresskv_edge.apps.bench import grid as bench_grid
from compresskv_edge.apps.bench.result import BenchPlan


def test_every_prompt_meets_every_budget():
    plans = bench_grid.plans(BenchPlan(n_threads=3, against=("q8_0",)), [2048, 4096], [128, 256])
    assert [(plan.prompt_tokens, plan.budget_tokens) for plan in plans] == [
        (2048, 128), (2048, 256), (4096, 128), (4096, 256),
    ]  # fmt: skip
    assert {(plan.n_threads, plan.against) for plan in plans} == {(3, ("q8_0",))}


def test_one_run_is_written_as_ever_and_several_as_a_list():
    assert bench_grid.to_dict([RESULT]) == RESULT.to_dict()
    assert bench_grid.to_dict([RESULT, RIVALS]) == {"runs": [RESULT.to_dict(), RIVALS.to_dict()]}


def test_a_row_says_time_memory_and_targets():
    cells = dict(zip(bench_grid.columns(RIVALS), bench_grid.row(RIVALS)))
    assert cells == {
        "prompt\nbudget": "1024\n128",
        "stock f16\nms/token\nKV, peak MiB": "30.00\n96.0, 130.0",
        "stock q8_0\nms/token\nKV, peak MiB": "33.00\n51.0, 80.0",
        "compressed\nms/token\nKV, peak MiB": "10.00\n18.0, 150.0",
        "stock at the budget\nms/token\ncompressed / it": "10.00\n1.000",
        "eviction, ms\nof prefill": "2.0\n0.20%",
        "prefill, ms\n/ stock": "1010\n1.010",
        "targets": "met",
    }


def test_missed_targets_are_named():
    slow = replace(
        RESULT, kv=replace(RESULT.kv, after=30 * MIB), evictions=(replace(RESULT.evictions[0], wall_ms=99.0),)
    )
    assert bench_grid.row(slow)[-1] == "eviction / prefill, KV bytes"


def test_the_table_has_a_line_a_run_and_names_the_device():
    on_gpu = replace(RIVALS, plan=replace(RIVALS.plan, n_gpu_layers=-1), machine={"cpu": "c", "devices": ["g (GPU)"]})
    table = bench_grid.table([on_gpu, on_gpu])
    assert table.row_count == 2
    assert len(table.columns) == len(bench_grid.row(on_gpu))
    assert "all layers on the GPU" in table.title
    assert table.caption.endswith("Machine: c, g (GPU).")
    assert "0 GPU layers" in bench_grid.table([RESULT]).title
