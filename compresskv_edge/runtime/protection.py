"""Tokens that are never evicted: attention sinks, a chat's system prompt, and what the caller names."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, List, Tuple

from ..errors import BudgetError, ContextError
from .prompt import common_prefix

N_SINKS = 4  # the first tokens, on which attention rests (StreamingLLM, arXiv:2309.17453)
_SINK_SHARE = 16  # and no more than one of so many tokens of the budget: in 15 tokens they cost answers


@dataclass
class Protection:
    """What is protected now. `system` are the tokens of the system prompt, `n_system` says how many of them the prompt
    at hand begins with; `named` are the caller's positions, ascending; `n_sinks` go with the budget.
    """

    automatic: bool = True
    named: Tuple[int, ...] = ()
    system: Tuple[int, ...] = ()
    n_system: int = 0
    n_sinks: int = N_SINKS

    def begin(self, tokens: Sequence[int]) -> None:
        """A prompt begins: how much of the system prompt is in it?"""
        self.n_system = common_prefix(self.system, tokens)

    @property
    def n_first(self) -> int:
        """Tokens from the first on that are protected without being named."""
        return max(self.n_sinks, self.n_system) if self.automatic else 0

    def positions(self) -> List[int]:
        """All protected positions, ascending."""
        return sorted({*range(self.n_first), *self.named})

    def mean_budget(self, mean: int, window: int, *, is_fraction: bool) -> int:
        """A mean budget that holds what must stay: a fraction of a short prompt is raised to it.

        Raises BudgetError for a budget in tokens that does not.
        """
        self.n_sinks = min(N_SINKS, mean // _SINK_SHARE)
        least = len(self.positions()) + window
        if mean < least and not is_fraction:
            raise BudgetError(
                f"kv_budget is {mean} tokens, but {len(self.positions())} protected tokens ({self._what()}) and the "
                f"observation window of {window} must stay: use {least + 1} or more, or protect fewer"
            )
        return max(mean, least)

    def _what(self) -> str:
        parts = (
            [f"the first {self.n_first}: sinks and system prompt, off with kv_protect=False"] if self.n_first else []
        )
        return "; ".join([*parts, f"{len(self.named)} named by protect()"])


def named_positions(positions: Any, n_ctx: int) -> Tuple[int, ...]:
    """Positions and ranges, mixed, as ascending positions. Raises ContextError."""
    flat = set(_flatten([positions] if isinstance(positions, range) else positions))
    for position in flat:
        if not 0 <= position < n_ctx:
            raise ContextError(f"cannot protect position {position}: positions are 0 to n_ctx - 1 = {n_ctx - 1}")
    return tuple(sorted(flat))


def _flatten(positions: Iterable[Any]) -> Iterable[int]:
    for item in positions:
        if isinstance(item, range):
            yield from item
        elif isinstance(item, numbers.Integral) and not isinstance(item, bool):
            yield int(item)
        else:
            raise ContextError(f"cannot protect {item!r}: give positions and ranges, such as [range(0, 50), 777]")


def with_floor(budgets: Sequence[int], floor: int) -> List[int]:
    """Budgets of layers raised to `floor` where they are below, at the cost of those above: the sum stays if it can.

    Layers with a budget of 0 are not evictable and stay at 0.
    """
    spare = [max(budget - floor, 0) for budget in budgets]
    missing = min(sum(floor - budget for budget in budgets if 0 < budget < floor), sum(spare))
    cut = [missing * part // (sum(spare) or 1) for part in spare]
    for layer in sorted(range(len(spare)), key=lambda i: cut[i] - spare[i])[: missing - sum(cut)]:
        cut[layer] += 1
    return [max(budget - less, floor) if budget else 0 for budget, less in zip(budgets, cut)]
