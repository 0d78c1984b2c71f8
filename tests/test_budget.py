import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


ERRORS = st.lists(st.sampled_from([0.0, 0.25, 1.0, 1e-300, 1e300]) | st.floats(0.0, 1e308), min_size=1, max_size=12)


@st.composite
def allocations(draw: st.DrawFn) -> tuple[list[float], int, int, int]:
    """(layer_errors, mean_budget, floor, cap) that are allowed, also where a cap below the mean binds."""
    mean, floor = draw(st.integers(1, 3000)), draw(st.integers(1, 200))
    return draw(ERRORS), mean, floor, draw(st.integers(min(floor, mean), 4 * mean))


def stated(errors: list[float], mean: int, floor: int, cap: int) -> list[int]:
    """What the docstring says, token by token and with exact fractions; of the floats only the errors' own rounding
    is left.
    """
    total, low = mean * len(errors), min(floor, mean)
    shares = shares_of(errors)
    budgets = [min(max(low + round(share * ((mean - low) * len(errors))), low), cap) for share in shares]
    while sum(budgets) != total:
        under = sum(budgets) < total
        order = sorted(range(len(errors)), key=lambda layer: -shares[layer] if under else shares[layer])
        order = [layer for layer in order if (budgets[layer] < cap if under else budgets[layer] > low)]
        if not order:
            break
        for layer in order:  # a turn: one token a layer
            if sum(budgets) == total:
                break
            budgets[layer] += 1 if under else -1
    return budgets


def shares_of(errors: list[float]) -> list[float]:
    if max(errors) == 0.0:
        return [1.0 / len(errors)] * len(errors)
    if abs(sum(errors) - 1.0) <= 1e-9:
        return errors
    scaled = [error / max(errors) for error in errors]
    return [value / sum(scaled) for value in scaled]


@settings(max_examples=300, deadline=None)
@given(allocations())
def test_what_is_stated_of_an_allocation(case):
    errors, mean, floor, cap = case
    budgets = allocate(errors, mean, floor=floor, cap=cap)
    low = min(floor, mean)
    assert len(budgets) == len(errors)
    assert all(type(tokens) is int and low <= tokens <= cap for tokens in budgets)
    assert sum(budgets) == min(mean, cap) * len(errors)  # a cap below the mean is reached by every layer
    for a, b in zip(range(len(errors)), range(1, len(errors))):
        for larger, smaller in ((a, b), (b, a)):
            if errors[larger] >= errors[smaller]:
                assert budgets[larger] >= budgets[smaller] - 1  # but for a token that is left over
    assert budgets == allocate(errors, mean, floor=floor, cap=cap)
    assert budgets == stated(errors, mean, floor, cap)


@settings(max_examples=200, deadline=None)
@given(ERRORS, st.integers(1, 3000))
def test_a_cap_that_is_left_out_is_three_times_the_mean(errors, mean):
    assert allocate(errors, mean) == allocate(errors, mean, floor=32, cap=3 * mean)
    assert sum(allocate(errors, mean)) == mean * len(errors)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(2.0**-10, 2.0**10), min_size=1, max_size=12), st.integers(1, 3000), st.integers(-300, 300))
def test_the_unit_of_the_errors_does_not_matter(errors, mean, power):
    """Powers of two change no digit; of 1 there is none to normalise."""
    if abs(sum(errors) - 1.0) > 1e-9:
        scaled = [error * 2.0**power for error in errors]
        if abs(sum(scaled) - 1.0) > 1e-9:
            assert allocate(scaled, mean) == allocate(errors, mean)


@settings(max_examples=100, deadline=None)
@given(st.data(), allocations())
def test_what_is_no_error_or_no_number_of_tokens(data, case):
    errors, mean, floor, cap = case
    wrong = data.draw(st.sampled_from([float("nan"), float("inf"), -1e-300, -1.0]))
    at = data.draw(st.integers(0, len(errors) - 1))
    with pytest.raises(BudgetError, match=rf"layer_errors\[{at}\]"):
        allocate([*errors[:at], wrong, *errors[at + 1 :]], mean, floor=floor, cap=cap)
    number = data.draw(st.sampled_from([0, -1, True, 1.5, float("nan"), None, "8"]))
    for arguments in (
        (number, floor, cap or 1),
        (mean, number, cap),
        (mean, floor, number if number is not None else 0),
    ):
        with pytest.raises(BudgetError):
            allocate(errors, arguments[0], floor=arguments[1], cap=arguments[2])


@settings(max_examples=300, deadline=None)
@given(st.floats(0.0, 1.0, exclude_min=True), st.integers(0, 1 << 20), st.integers(1, 64))
def test_what_is_stated_of_the_dial(fraction, n_tokens, window):
    tokens = resolve_mean_budget(fraction, n_tokens, window=window)
    assert tokens == max(round(fraction * n_tokens), window + 1)
    assert type(tokens) is int
    assert resolve_mean_budget(tokens, n_tokens, window=window) == tokens
    assert resolve_mean_budget(np.float32(0.5), n_tokens, window=window) == max(round(0.5 * n_tokens), window + 1)


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
