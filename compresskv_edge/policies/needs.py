"""What a policy may ask for: one entry for each kind of input. runtime/inputs.py says where each comes from.

Shapes: G KV heads, H query heads (head h reads KV head h // (H / G)), n tokens that the layer holds, r queries. Keys
and queries are those after RoPE, as attention sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Dict, FrozenSet


@dataclass(frozen=True)
class Need:
    """A kind of input: its key in `Layer.inputs`, and of how many last tokens it is wanted where that can be said."""

    kind: str
    n: int = 0


Needs = FrozenSet[Need]
NOTHING: Needs = frozenset()

# of a layer
KEYS = Need("keys")  # (G, n, head_dim)
VALUES = Need("values")  # (G, n, head_dim_v)
QUERIES = Need("queries")  # (H, r, head_dim) of the last tokens, oldest first; `last` says how many
MASS = Need("mass")  # (n,) attention that each token got from all queries so far, mean over the heads
SAMPLE = Need("sample")  # (H, s, head_dim) queries spread over the whole text; s = 0 while the text is short
ENDS = Need("ends")  # (n,) bool: a sentence ends with this token
QUESTION = Need("question")  # () last tokens that are the question and what follows it; 0: not known
AHEAD = Need(
    "ahead"
)  # (H, a, head_dim) queries of the answer's first tokens, a draft; a = 0: there is none; see `drafted`
HEADS = Need("heads")  # query heads that retrieve, best first: the profile's

# of all layers, for budgets: `allocation.Known`
CURVES = Need("curves")  # the profile's error curves


def last(n: int) -> Need:
    """Queries of the last n tokens."""
    return Need(QUERIES.kind, n)


def drafted(n: int) -> Need:
    """Queries of the answer's first n tokens, fewer of a shorter answer."""
    return Need(AHEAD.kind, n)


def union(parts: Iterable[Needs]) -> Needs:
    """All that any of them asks for; of each kind the most tokens."""
    most: Dict[str, int] = {}
    for need in (need for part in parts for need in part):
        most[need.kind] = max(need.n, most.get(need.kind, 0))
    return frozenset(Need(kind, n) for kind, n in most.items())


def covers(there: Needs, wanted: Needs) -> bool:
    """What was made for the needs `there` serves those `wanted` as well."""
    most = {need.kind: need.n for need in there}
    return all(most.get(need.kind, -1) >= need.n for need in wanted)
