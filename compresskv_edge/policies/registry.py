"""All policies by name. A new one is a file of its own and a line here; docs/policies.md shows how."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable, TypeVar

from ..errors import PolicyError
from .merging import Merge
from .policy import Policy

_T = TypeVar("_T")

# each the name of a file beside this one
_NAMES = (
    "full",
    "compresskv",
    "streaming_llm",
    "h2o",
    "scissorhands",
    "tova",
    "sage_kv",
    "snapkv",
    "pyramidkv",
    "cake",
    "prefixkv",
    "chunkkv",
    "sentencekv",
    "treekv",
    "q_filters",
    "keydiff",
    "knorm",
    "lagkv",
    "uncomp",
    "kvcrush",
    "random",
    "edge",
    "ahead",
)

# options that are words
_CHOICES = {"pooling": ("avg", "max"), "budgets": ("curves", "errors", "equal")}

_MOST = 1 << 16  # tokens, groups or ranks: as a profile's window and kernel
_SMALLEST, _LARGEST = 0.05, 1e6  # factors and exponents: beyond that floats overflow

POLICIES: Mapping[str, Callable[..., Policy]] = {
    name: importlib.import_module(f".{name}", __package__).policy for name in _NAMES
}


def names() -> tuple[str, ...]:
    """Names of all policies."""
    return tuple(POLICIES)


def get(spec: str) -> Policy:
    """The policy of a name, with options and a modifier if it has any: "snapkv", "snapkv:window=8:pooling=avg",
    "snapkv+merge", "snapkv+merge:threshold=0.8" (options of `Merge`).

    Raises PolicyError that names the close policies, or the options that there are.
    """
    head, *modifiers = str(spec).split("+")
    name, *options = head.split(":")
    kinds = [modifier.partition(":")[0] for modifier in modifiers]
    if name not in POLICIES:
        close = difflib.get_close_matches(name.lower(), POLICIES, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise PolicyError(f"no policy is named {name!r}: {hint}There are {', '.join(POLICIES)}")
    if kinds not in ([], ["merge"]):
        raise PolicyError(f"policy {spec!r} has a modifier that is not 'merge', the only one, or has it twice")
    policy = _made(name, POLICIES[name], options)
    return replace(policy, merge=_made(f"{name}+merge", Merge, modifiers[0].split(":")[1:])) if modifiers else policy


def _made(name: str, factory: Callable[..., _T], options: Sequence[str]) -> _T:
    return factory(**dict(_option(name, factory, option) for option in options))


def _option(name: str, factory: Callable[..., Any], option: str) -> tuple[str, Any]:
    key, _, text = option.partition("=")
    defaults = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
    if key not in defaults:
        raise PolicyError(f"policy {name!r} has no option {key!r}: it has {', '.join(defaults) or 'none'}")
    try:
        value = type(defaults[key])(text)
    except ValueError:
        value = None
    if value is None or not _sensible(key, value):
        raise PolicyError(f"option {key} of policy {name!r} is {text!r}: give a value like {defaults[key]!r}")
    return key, value


def _sensible(key: str, value: Any) -> bool:
    """Words are of a few, kernels are odd, no number is endless, or negative or zero but sinks, seeds and what is for
    later."""
    if key in _CHOICES:
        return value in _CHOICES[key]
    if key == "kernel":
        return bool(0 < value <= _MOST and value % 2 == 1)
    if key == "later_share":
        return bool(0.0 <= value <= 1.0)
    if key.endswith("share") or key in ("threshold", "strength"):
        return bool(0.0 < value <= 1.0)
    if key == "seed":
        return bool(0 <= value < 1 << 63)
    if isinstance(value, int):
        return bool((key not in ("sinks", "first")) <= value <= _MOST)
    return bool(_SMALLEST <= value <= _LARGEST or (key == "gamma" and value == 0))
