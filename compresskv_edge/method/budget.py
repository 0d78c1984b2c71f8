"""How many tokens each layer keeps: layer errors and one mean budget in, token counts out. All functions are pure."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence

from ..errors import BudgetError

# sums this close to 1 are left alone: dividing by them could move a rounding at .5
_SUM_TOLERANCE = 1e-9


def allocate(layer_errors: Sequence[float], mean_budget: int, *, floor: int = 32, cap: int | None = None) -> list[int]:
    """Tokens that each layer keeps (window included), `mean_budget` on average: section 3.3 of arXiv:2508.02401.

    Every layer gets `floor` tokens, the rest is shared in proportion to `layer_errors` (n_layer,), no layer gets more
    than `cap` (None: three times the mean budget, as in the paper). The sum is exactly n_layer * mean_budget unless a
    cap below the mean makes that impossible.

    Errors that do not sum to 1 are normalised; if all are zero, layers are equal. A mean budget below the floor
    lowers the floor to it, so that every layer gets the mean. Equal errors take their turn in order of layers.

    Raises BudgetError.
    """
    mean = _tokens("mean_budget", mean_budget)
    low = min(_tokens("floor", floor), mean)
    high = 3 * mean if cap is None else _tokens("cap", cap)
    if high < low:
        raise BudgetError(f"cap is {high} tokens but the floor is {low}: raise the cap or lower the floor")
    shares = _shares(layer_errors)
    spread = (mean - low) * len(shares)
    budgets = [min(max(low + round(share * spread), low), high) for share in shares]
    _settle(budgets, shares, mean * len(shares), low, high)
    return budgets


def resolve_mean_budget(kv_budget: int | float, n_tokens: int, *, window: int = 8) -> int:
    """The user's dial as tokens per layer on average.

    An int is a number of tokens. A float in (0, 1] is a fraction of the prompt's `n_tokens`, rounded to the nearest
    token and never below `window` + 1, the least that lets a token outside the window survive. A budget above the
    prompt is fine: it keeps everything.

    Raises BudgetError for anything else: bool, NaN, zero, negative, a float above 1, tokens below `window` + 1.
    """
    if isinstance(kv_budget, bool) or not isinstance(kv_budget, numbers.Real):
        raise BudgetError(f"kv_budget must be an int (tokens) or a float (fraction of the prompt), got {kv_budget!r}")
    if isinstance(kv_budget, numbers.Integral):
        return _checked_tokens(int(kv_budget), window)
    return max(round(_checked_fraction(float(kv_budget)) * n_tokens), window + 1)


def _checked_tokens(tokens: int, window: int) -> int:
    if tokens <= window:
        hint = "; for the whole prompt write 1.0" if tokens == 1 else ""
        raise BudgetError(
            f"kv_budget is {tokens} tokens but the observation window takes {window}: use {window + 1} or more{hint}"
        )
    return tokens


def _checked_fraction(fraction: float) -> float:
    if not 0.0 < fraction <= 1.0:  # false for NaN as well
        hint = f"; for tokens write {int(fraction)}" if fraction > 1.0 and fraction.is_integer() else ""
        raise BudgetError(f"kv_budget as a float is a fraction of the prompt in (0, 1], got {fraction}{hint}")
    return fraction


def _tokens(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise BudgetError(f"{name} must be an int (tokens), got {value!r}")
    if value < 1:
        raise BudgetError(f"{name} must be 1 token or more, got {value}")
    return int(value)


def _shares(layer_errors: Sequence[float]) -> list[float]:
    errors = [float(error) for error in layer_errors]
    if not errors:
        raise BudgetError("layer_errors is empty: give one error for each layer")
    for layer, error in enumerate(errors):
        if not (math.isfinite(error) and error >= 0.0):
            raise BudgetError(f"layer_errors[{layer}] must be finite and not negative, got {error}")
    largest = max(errors)
    if largest == 0.0:
        return [1.0 / len(errors)] * len(errors)
    if abs(sum(errors) - 1.0) <= _SUM_TOLERANCE:
        return errors
    scaled = [error / largest for error in errors]  # a sum of huge errors would overflow
    return [value / sum(scaled) for value in scaled]


def _settle(budgets: list[int], shares: Sequence[float], total: int, low: int, high: int) -> None:
    """Spread what rounding and clipping left over, one token a layer and round, until the sum is `total`."""
    rising = sorted(range(len(budgets)), key=lambda layer: shares[layer])
    falling = sorted(range(len(budgets)), key=lambda layer: -shares[layer])
    while sum(budgets) != total:
        step, order, bound = (1, falling, high) if sum(budgets) < total else (-1, rising, low)
        movable = [layer for layer in order if budgets[layer] != bound]
        for layer in movable[: abs(total - sum(budgets))]:
            budgets[layer] += step
        if not movable:
            return
