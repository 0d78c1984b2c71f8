"""llama-cpp-python's own tests, of the pinned release, on our class and on its own after our import.

They are fetched with the sources, never committed. What cannot pass is listed with the reason; a test that starts to
pass has to leave the list.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict

import pytest
import upstream

_TOKENS = "asks for the tokens of Qwen3.5's vocabulary, which this model has not"
_ONE_ANSWER = "asks for an answer of Qwen3.5, which this model does not give"

NOT_PASSED: Dict[str, Dict[str, str]] = {
    "smollm2-135m-instruct": {
        "test_llama.py::test_real_model": _TOKENS,
        "test_llama.py::test_real_llama": _ONE_ANSWER,
        "test_llama.py::test_real_llama_repeated_prompt_cache": _ONE_ANSWER,
    },
    "qwen2.5-coder-0.5b-instruct": {"test_llama.py::test_real_model": _TOKENS},
}
LEAST = 22  # tests that there are


def outcomes(class_: str, model: Path, folder: Path) -> Dict[str, str]:
    """passed, failed, skipped of each test."""
    here = Path(__file__).parent
    results = folder / "results.json"
    env = {**os.environ, "PEERS_CLASS": class_, "PEERS_MODEL": str(model), "PEERS_RESULTS": str(results)}
    env["PYTHONPATH"] = os.pathsep.join([str(here / "peers"), *filter(None, [os.environ.get("PYTHONPATH")])])
    env["OMP_WAIT_POLICY"] = "PASSIVE"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "plugin", "-p", "no:cacheprovider", "--rootdir", "tests"]
    done = subprocess.run(
        [*command, "-c", os.devnull, "tests"],
        cwd=upstream.root(), env=env, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert results.exists(), done.stdout + done.stderr
    found: Dict[str, str] = json.loads(results.read_text(encoding="utf-8"))
    assert len(found) >= LEAST, done.stdout
    return found


def check(name: str, class_: str, model: Path, folder: Path) -> None:
    found = outcomes(class_, model, folder)
    assert {test for test, outcome in found.items() if outcome != "passed"} == set(NOT_PASSED[name])


@pytest.mark.parametrize("class_", ["ours", "stock"])
def test_with_smollm2(class_: str, smollm2: Path, tmp_path: Path) -> None:
    check("smollm2-135m-instruct", class_, smollm2, tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("class_", ["ours", "stock"])
def test_with_qwen(class_: str, qwen_coder: Path, tmp_path: Path) -> None:
    check("qwen2.5-coder-0.5b-instruct", class_, qwen_coder, tmp_path)
