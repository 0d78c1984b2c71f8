"""What the README says is what the repository holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

from typer.testing import CliRunner

from compresskv_edge.apps.cli import app
from compresskv_edge.evaluate import needle_report
from compresskv_edge.model.profile import Profile

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_is_the_quickstart() -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code
    assert (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8").endswith(code[1])


def test_the_needle_table_is_the_stored_result() -> None:
    assert needle_report.markdown(json.loads((ROOT / "docs" / "results" / "needle.json").read_text())) in README


def test_the_bench_table_is_the_stored_result() -> None:
    summary = json.loads((ROOT / "docs" / "results" / "bench.json").read_text())["summary"]
    for name, form in {"decode_ms_stock": ".1f", "decode_ms_compressed": ".1f", "decode_speedup": ".2f"}.items():
        assert format(summary[name], form) in README, name
    for name, form in {"decode_ratio_limit": ".2f", "prefill_ratio": ".3f", "kv_ratio": ".3f"}.items():
        assert format(summary[name], form) in README, name
    assert f"{summary['eviction_ms']:.0f} | {100 * summary['eviction_ratio']:.2f} %" in README


def test_commands_exist() -> None:
    commands = set(re.findall(r"(?<!/)\bcompresskv (\w+)", README))
    assert commands >= {"bench", "demo"}
    for command in commands:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert target in targets, target


def test_shipped_profiles_are_named() -> None:
    for name in Profile.names():
        assert f"`{name}`" in README


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
