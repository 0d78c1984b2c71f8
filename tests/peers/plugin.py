"""pytest plugin: llama-cpp-python's own tests, with models that there are, on the class that PEERS_CLASS names.

PEERS_CLASS=stock: llama_cpp.Llama, after compresskv_edge was imported. ours: compresskv_edge.Llama in its place, with
an uncalibrated profile and a small budget. PEERS_MODEL: the language model. PEERS_RESULTS: where outcomes are written.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import types
from pathlib import Path
from typing import Any, Dict

import huggingface_hub
import numpy as np
import pytest

import compresskv_edge
from compresskv_edge.model import random_gguf

BUDGET = 12  # of prompts of 4 to 15 tokens: some are evicted

import llama_cpp  # noqa: E402  # ours is offered by now


class Compressed(compresskv_edge.Llama):
    """As a user would load it who changes nothing else; a model that cannot be compressed, without a profile."""

    def __init__(self, model_path: str, **options: Any) -> None:
        if model_path == os.environ["PEERS_MODEL"]:
            profile = compresskv_edge.Profile.uniform(model_path)
            options = {"kv_profile": profile, "kv_budget": BUDGET, **options}
        super().__init__(model_path, **options)


if os.environ["PEERS_CLASS"] == "ours":
    llama_cpp.Llama = Compressed  # type: ignore[misc]

_made = Path(tempfile.mkdtemp())


def _model(repo_id: str, filename: str) -> str:
    """In the place of a model on Hugging Face: the catalogue's, or a random one of the kind that is asked for."""
    for part, arch in (("mamba", "mamba"), ("Falcon-H1", "jamba"), ("bge", "bert")):
        if part in filename:
            return str(random_gguf.write_random_gguf(_made / f"{arch}.gguf", random_gguf.TINY_SHAPES[arch]))
    return os.environ["PEERS_MODEL"]


huggingface_hub.hf_hub_download = _model


def _log_softmax(x: Any, axis: int = -1) -> Any:
    shifted = x - np.max(x, axis=axis, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


# the one function of SciPy that the tests import
sys.modules.setdefault("scipy", types.ModuleType("scipy"))
special = sys.modules.setdefault("scipy.special", types.ModuleType("scipy.special"))
special.log_softmax = _log_softmax  # type: ignore[attr-defined]

_outcomes: Dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name = report.nodeid.rpartition("/")[2]
    if report.outcome != "passed" or report.when == "call":
        _outcomes[name] = report.outcome


def pytest_unconfigure() -> None:
    Path(os.environ["PEERS_RESULTS"]).write_text(json.dumps(_outcomes), encoding="utf-8")
