"""docs/policies.md against the code: its table, its example, and that one file and one line do add a policy."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Dict

import pytest
from layers import random_layers

from compresskv_edge import policies
from compresskv_edge.policies import registry
from compresskv_edge.policies.needs import MASS, SAMPLE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
FOLDER = Path(policies.__file__).parent


def test_the_table_names_every_policy_its_paper_and_when_it_acts() -> None:
    rows = {cells[1].strip(" `"): cells for cells in (line.split("|") for line in TEXT.splitlines()) if len(cells) == 9}
    for name in policies.names():
        policy, cells = policies.get(name), rows[name]
        source = "" if name == "full" else f", {policy.source}"
        assert cells[2].strip() == policy.title + source
        assert ("decode" in cells[6]) == policy.decodes
        assert ("library" in cells[7]) == policy.native
        assert ("every query" in cells[7]) == (MASS in policy.needs)
        assert ("a sample of queries" in cells[7]) == (SAMPLE in policy.needs)
    assert set(rows) - {"name", "---"} == set(policies.names())


def test_the_example_is_the_file() -> None:
    assert (FOLDER / "knorm.py").read_text(encoding="utf-8") in TEXT
    (line,) = re.findall(r"```text\n( {4}\"knorm\",\n)```", TEXT)
    assert line in (FOLDER / "registry.py").read_text(encoding="utf-8")


def test_one_file_and_one_line_add_a_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that the package does not have, written as the document says: long keys stay."""
    source = '''
        """Long keys."""
        import numpy as np
        from compresskv_edge.policies import KEYS, Policy, Rule

        def policy(*, power: float = 1.0) -> Policy:
            rule = Rule(lambda layer, window: length(layer, window) ** power, needs=frozenset({KEYS}))
            return Policy(title="Long keys", source="none", score=rule)

        def length(layer, window):
            return np.linalg.norm(layer[KEYS][:, : layer.n - window], axis=-1)
    '''
    module: Dict[str, Any] = {}
    exec(textwrap.dedent(source), module)  # the file
    monkeypatch.setitem(registry.POLICIES, "long_keys", module["policy"])  # the line
    policy = policies.get("long_keys:power=2")
    layers = random_layers(100)
    kept = policy.keep_all(layers, policy.budgets(layers, [100] * 4, 20, window=8), 20, window=8)
    assert [len(rows) for rows in kept] == [20] * 4
    lengths = module["length"](layers[0], 8).mean(axis=0)
    assert lengths[kept[0][:-8]].mean() > lengths.mean()


def test_every_policy_has_a_file_that_cites_its_source() -> None:
    for name in policies.names():
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        first = text.splitlines()[0]
        source = policies.get(name).source
        assert source in first or source in ("none", "llama.cpp"), f"{name}.py begins {first!r}"
        assert sys.modules[f"{policies.__name__}.{name}"].policy.__doc__
