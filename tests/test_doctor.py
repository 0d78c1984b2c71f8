"""What `compresskv doctor` says is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from compresskv_edge.apps import cli, doctor, plan
from compresskv_edge.engine import library, memory
from compresskv_edge.errors import LibraryError, UnsupportedModelError
from compresskv_edge.model.sizes import ModelSizes


def run(*args: object) -> Any:
    return CliRunner().invoke(cli.app, ["doctor", *map(str, args)], prog_name="compresskv")


def test_the_report_in_json() -> None:
    report = json.loads(run("--json").stdout)
    assert report["build"]["version"] == library.version()
    assert Path(report["build"]["folder"]) == library.folder()
    assert set(report["build"]["cpu_features"]) & {"AVX2", "NEON", "SSE3", "LLAMAFILE"}
    assert 0 < report["memory_free"] <= report["memory_total"]
    assert report["problems"] == []
    assert report["model"] is None


def test_contexts_of_a_model_are_those_of_the_plan(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 100 << 20
    monkeypatch.setattr(memory, "free_bytes", lambda: free)
    report = doctor.examine(demo_model, budget=128)
    sizes = ModelSizes.from_gguf(demo_model)
    assert report.model is not None
    assert report.model.context_stock == plan.largest_context(sizes, plan.PlannedCache(None), free) < sizes.n_ctx_train
    assert report.model.context_compressed == sizes.n_ctx_train
    assert report.model.profile == "shipped"


def test_a_model_without_a_profile(tiny_gguf: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("compresskv_edge.model.known.cache_path", lambda model_hash: tmp_path / "none.json")
    result = run(tiny_gguf("qwen2"), "--budget", 64)
    assert result.exit_code == 0
    assert "none yet" in result.stdout
    assert "64 tokens a layer: 8192 tokens" in result.stdout


def test_what_does_not_fit_is_a_problem(demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 20 << 20)
    said = run(demo_model).stdout
    assert "20 MB of memory are free" in said
    assert "demo does not fit the memory that is free" in said


def test_without_a_library_it_still_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise LibraryError("no libllama in lib: install the package")

    monkeypatch.setattr(library, "folder", missing)
    result = run()
    assert result.exit_code == 1
    assert "no libllama in lib: install the package" in result.stdout
    assert "memory" in result.stdout


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("no")
    with pytest.raises(UnsupportedModelError, match=r"x\.gguf"):
        doctor.examine(tmp_path / "x.gguf")
