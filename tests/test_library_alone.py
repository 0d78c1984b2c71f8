"""The library without what only its commands need: a program that embeds it may leave these packages out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
for name in ("rich", "typer", "click", "prompt_toolkit", "pypdf", "threadpoolctl", "matplotlib"):
    sys.modules[name] = None  # importing it raises ImportError

from compresskv_edge import Batch, Llama, Profile, Sequences, calibrate, replace_llama
from compresskv_edge.budget import allocate
from compresskv_edge.demo import model_path
from compresskv_edge.native import select_tokens
from compresskv_edge.scoring import token_scores

llm = Llama(model_path(), kv_profile="demo", kv_budget=64, n_ctx=1024, n_threads=1, verbose=False)
out = llm.create_completion("The harbour was quiet that day. " * 40, max_tokens=2, temperature=0.0)
print(out["usage"]["completion_tokens"], llm.kv_stats().n_evictions)
"""


def test_a_model_runs_without_the_packages_of_the_commands(tmp_path: Path) -> None:
    script = tmp_path / "embedded.py"
    script.write_text(SCRIPT, encoding="utf-8")
    root = str(Path(__file__).parents[1])
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=root, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.split() == ["2", "1"]
