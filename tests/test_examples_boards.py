"""The tables of examples/raspberry_pi and examples/jetson: what they name fits the memory that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compresskv_edge.apps import plan
from compresskv_edge.model.shapes import USUAL
from compresskv_edge.model.sizes import ModelSizes
from compresskv_edge.runtime.settings import parse_bytes

EXAMPLES = Path(__file__).parent.parent / "examples"
ROW = re.compile(r"\| (\d+) GB \| ([\d.]+ GB) \| (.*?) \| `(.*?)` \|")


def rows() -> list[tuple[str, str, str, str]]:
    found = []
    for board in ("raspberry_pi", "jetson"):
        for _, memory, models, flags in ROW.findall((EXAMPLES / board / "README.md").read_text(encoding="utf-8")):
            found += [(board, memory, model, flags) for model in re.findall(r"`(.*?)`", models)]
    return found


@pytest.mark.parametrize(("board", "memory", "model", "flags"), rows())
def test_a_row_fits(board: str, memory: str, model: str, flags: str) -> None:
    options = dict(re.findall(r"--(\S+) (\S+)", flags))
    sizes = ModelSizes.from_shape(USUAL[model], "Q4_K_M")
    kind = options.get("kv", "f16")
    cache = plan.PlannedCache(int(options["budget"]), kind, kind)
    n_ctx = min(sizes.n_ctx_train, 32768)
    total, allowed = plan.total_bytes(sizes, cache, n_ctx), parse_bytes(memory.replace(" ", ""))
    assert allowed is not None
    assert total <= allowed, f"{board}: {model} takes {total >> 20} of {allowed >> 20} MiB"
    kept = sizes.kv_bytes(int(options["budget"]) + plan.TAIL, kind, kind)
    assert kept <= (parse_bytes(options["memory"]) or 0), f"{board}: the cache of {model} may need {kept >> 20} MiB"


def test_there_are_rows_for_small_and_large_boards() -> None:
    assert {board for board, *_ in rows()} == {"raspberry_pi", "jetson"}
    assert len(rows()) >= 6
