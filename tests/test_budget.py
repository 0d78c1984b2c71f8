import json
from pathlib import Path

import numpy as np
import pytest

from compresskv_edge.errors import BudgetError
from compresskv_edge.method.budget import allocate, resolve_mean_budget

GOLDEN = json.loads((Path(__file__).parent / "golden" / "budgets.json").read_text())
PUBLISHED = [(name, int(mean)) for name, model in GOLDEN["published"].items() for mean in model["budgets"]]


@pytest.mark.parametrize(("name", "mean"), PUBLISHED)
def test_equal_to_published_budgets(name, mean):
    model = GOLDEN["published"][name]
    assert allocate(model["layer_error"], mean) == model["budgets"][str(mean)]


@pytest.mark.parametrize("case", GOLDEN["synthetic"].values(), ids=GOLDEN["synthetic"])
def test_equal_to_synthetic_budgets(case):
    budgets = allocate(case["layer_error"], case["mean_budget"], floor=case["min"], cap=case["max"])
    assert budgets == case["budgets"]


@pytest.mark.parametrize("seed", range(200))
def test_sum_floor_and_cap_hold(seed):
    rng = np.random.default_rng(seed)
    errors = rng.random(rng.integers(1, 64)) ** rng.integers(1, 20)
    mean = int(rng.integers(1, 5000))
    budgets = allocate(errors.tolist(), mean)
    assert sum(budgets) == mean * len(errors)
    assert min(32, mean) <= min(budgets)
    assert max(budgets) <= 3 * mean
    assert all(type(tokens) is int for tokens in budgets)
    order = np.argsort(errors, kind="stable")
    assert (np.diff(np.array(budgets)[order]) >= -1).all()  # never less for a larger error, but for a left-over token


def test_errors_of_any_scale_are_normalised():
    errors = [0.5, 0.25, 0.25]
    assert allocate([1e300 * e for e in errors], 100) == allocate(errors, 100) == [134, 83, 83]


def test_all_zero_errors_are_uniform():
    assert allocate([0.0] * 5, 77) == [77] * 5


def test_a_mean_below_the_floor_is_uniform():
    assert allocate([0.9, 0.1], 20, floor=32) == [20, 20]


def test_left_over_tokens_go_to_the_largest_errors_first():
    assert allocate([0.3, 0.4, 0.3], 33, floor=32, cap=99) == [32 + 1, 32 + 1, 32 + 1]
    assert allocate([0.24, 0.24, 0.28, 0.24], 10, floor=9, cap=30) == [10, 10, 10, 10]
    assert allocate([0.1, 0.2, 0.3, 0.4], 2, floor=1, cap=6) == [1, 2, 2, 3]


def test_a_cap_below_the_mean_is_reached_and_no_more():
    assert allocate([0.5, 0.5], 100, floor=10, cap=60) == [60, 60]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 64), "layer_errors is empty"),
        (([0.5, float("nan")], 64), r"layer_errors\[1\] must be finite"),
        (([0.5, -0.1], 64), r"layer_errors\[1\] .* got -0.1"),
        (([0.5, float("inf")], 64), r"layer_errors\[1\] must be finite"),
        (([1.0], 0), "mean_budget must be 1 token or more, got 0"),
        (([1.0], -3), "mean_budget must be 1 token or more, got -3"),
        (([1.0], 64.0), "mean_budget must be an int"),
        (([1.0], True), "mean_budget must be an int"),
    ],
)
def test_bad_allocations(arguments, message):
    with pytest.raises(BudgetError, match=message):
        allocate(*arguments)


def test_cap_below_the_floor():
    with pytest.raises(BudgetError, match="cap is 20 tokens but the floor is 32"):
        allocate([1.0], 64, cap=20)


@pytest.mark.parametrize(
    ("kv_budget", "n_tokens", "expected"),
    [
        (256, 1000, 256),
        (np.int64(256), 1000, 256),
        (5000, 1000, 5000),
        (9, 1000, 9),
        (0.25, 1000, 250),
        (np.float32(0.25), 1000, 250),
        (0.07, 100, 7 + 2),
        (1.0, 1000, 1000),
        (0.001, 1000, 9),
        (1.0, 3, 9),
        (0.5, 0, 9),
    ],
)
def test_resolve_mean_budget(kv_budget, n_tokens, expected):
    assert resolve_mean_budget(kv_budget, n_tokens) == expected


def test_resolve_with_another_window():
    assert resolve_mean_budget(0.01, 100, window=32) == 33
    with pytest.raises(BudgetError, match="32 tokens but the observation window takes 32: use 33 or more"):
        resolve_mean_budget(32, 100, window=32)


@pytest.mark.parametrize(
    ("kv_budget", "message"),
    [
        (8, "kv_budget is 8 tokens .* use 9 or more"),
        (1, "for the whole prompt write 1.0"),
        (0, "kv_budget is 0 tokens"),
        (-5, "kv_budget is -5 tokens"),
        (0.0, r"\(0, 1\], got 0.0"),
        (-0.5, "got -0.5"),
        (256.0, "for tokens write 256"),
        (1.5, r"got 1\.5$"),
        (float("nan"), "got nan"),
        (float("inf"), "got inf$"),
        (True, "got True"),
        ("256", "got '256'"),
        (None, "got None"),
    ],
)
def test_bad_budgets(kv_budget, message):
    with pytest.raises(BudgetError, match=message):
        resolve_mean_budget(kv_budget, 1000)
