"""The field's ways to choose what a cache keeps, on one engine.

    Llama("model.gguf", kv_policy="snapkv")        # for users; default "compresskv"
    applied.read, applied.apply                    # for evaluations: many policies on one prompt: runtime/applied.py

A policy is scorer x pooling x layer allocation x moment, stated in NumPy (policy.py), in a file named as the method.
docs/policies.md lists them, says what each costs, and shows how to add one.
"""

from __future__ import annotations

from .layer import Layer
from .needs import KEYS
from .policy import Policy
from .probes import AllQueries, Last, Window
from .registry import get, names
from .scores import AttentionScore, Rule

__all__ = ["KEYS", "AllQueries", "AttentionScore", "Last", "Layer", "Policy", "Rule", "Window", "get", "names"]
