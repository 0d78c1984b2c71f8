"""The layer budgets, method/budget.py, under their public name."""

from .method.budget import allocate, resolve_mean_budget

__all__ = ["allocate", "resolve_mean_budget"]
