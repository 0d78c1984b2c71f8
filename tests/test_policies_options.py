"""Options of every policy at values that nobody means: refused by name, or a model runs with them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

from compresskv_edge import Llama, policies
from compresskv_edge.errors import PolicyError
from compresskv_edge.policies.merging import Merge
from compresskv_edge.policies.registry import POLICIES

ABSURD = ["65537", "100000", "2147483648", "1" + "0" * 30, "9" * 5000, "-1", "1e300", "1e-300", "nan", "inf", "", "x"]
# by the budget, or by the library: an error of its own
LIMITED = (
    *(("uncomp", "window"), ("ahead", "question")),
    *(("edge", "window"), ("edge", "least"), ("edge", "first")),
)
PROMPT = [1 + i * 7 % 90 for i in range(300)]


def options() -> Iterator[Tuple[str, str, Any]]:
    """(policy, option, default) of all numbers."""
    factories: Dict[str, Any] = {**POLICIES, "snapkv+merge": Merge}
    for name, factory in factories.items():
        for key, parameter in inspect.signature(factory).parameters.items():
            if not isinstance(parameter.default, str):
                yield name, key, parameter.default


def accepted(name: str, key: str, values: List[str]) -> List[str]:
    """Those that the option takes."""
    taken: List[str] = []
    for value in values:
        said = refusal(f"{name}:{key}={value}")
        assert not said or (f"option {key} of policy '{name}'" in said and "give a value like" in said)
        taken += [] if said else [value]
    return taken


def refusal(spec: str) -> str:
    """What the error says; "" if there is none."""
    try:
        policies.get(spec)
    except PolicyError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("name", "key", "default"), list(options()))
def test_a_number_without_sense_is_refused(name: str, key: str, default: Any) -> None:
    taken = {*accepted(name, key, ABSURD)}
    share = key.endswith("share") or key in ("threshold", "strength")
    expected = {"65537", "100000"} if isinstance(default, float) and not share else set()
    expected |= {"1e-300"} if share else set()
    expected |= {"65537", "100000", "2147483648"} if key == "seed" else set()
    assert taken == expected


def extremes() -> List[str]:
    """Per policy, all options at their largest and all at their smallest."""
    of: Dict[str, List[str]] = {}
    for name, key, _ in options():
        if (name, key) not in LIMITED:
            of.setdefault(name, []).append(key)
    specs = []
    for name, keys in of.items():
        more = (
            [":budgets=equal"] if name == "edge" else [""]
        )  # the others need curves, which a random model has none of
        for values in (["1000000", "65536", "65535", "1"], ["0", "0.05", "1"]):
            specs.append(name + more[0] + "".join(f":{key}={accepted(name, key, values)[0]}" for key in keys))
    return specs


@pytest.mark.parametrize("spec", extremes())
def test_a_model_runs_at_the_ends_of_every_option(spec: str, tiny_gguf: Callable[..., Path]) -> None:
    llm = Llama(
        str(tiny_gguf("llama")), kv_policy=spec, kv_budget=64, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False
    )
    assert len([token for token, _ in zip(llm.generate(PROMPT, temp=0), range(2))]) == 2
    assert max(llm.kv_stats().n_tokens_kept) <= len(PROMPT) + 2
