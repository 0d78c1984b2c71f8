"""Figures are PNG files that hold what the summary says."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluate_summary import SUMMARY

from compresskv_edge.errors import CompressKVError, EvaluationError
from compresskv_edge.evaluate import figures

pytest.importorskip("matplotlib")


def test_one_heat_map_a_policy_and_two_curves(tmp_path: Path) -> None:
    paths = figures.draw(SUMMARY, tmp_path, "run")
    assert {path.name for path in paths} == {
        *("run-budget.png", "run-bytes.png"),
        *(f"run-heat-{policy}.png" for policy in ("full", "compresskv", "snapkv")),
    }
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_curves_are_the_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, _: drawn.append(figure) or path)
    figures.draw({**SUMMARY, "heat": {"cells": []}}, tmp_path, "run")
    for figure, xs in zip(drawn, ([3.0, 12.0], [122 / 1024, 491 / 1024])):
        (axis,) = figure.axes
        lines = {container.get_label(): container.lines[0] for container in axis.containers}
        assert lines["snapkv"].get_xdata() == pytest.approx(xs, rel=0.02)  # a little aside
        assert list(lines["snapkv"].get_ydata()) == [0.375, 0.75]
        (full,) = (line for line in axis.lines if line.get_label() == "full cache")
        assert full.get_ydata()[0] == 0.875


def test_a_heat_map_has_depths_down_and_contexts_across(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, _: drawn.append(figure) or path)
    figures.draw(SUMMARY, tmp_path, "run")
    maps = drawn[-1].axes[:2]  # of snapkv: a colour bar comes last
    assert [axis.get_title() for axis in maps] == ["3 %", "12 %"]
    assert np.array_equal(maps[0].images[0].get_array(), [[1, 0], [1, 0], [1, 0], [0, 0]])


def test_the_same_summary_gives_the_same_file_and_says_its_source(tmp_path: Path) -> None:
    first, again = ([path.read_bytes() for path in figures.draw(SUMMARY, tmp_path, "run")] for _ in range(2))
    assert first == again
    assert figures.source(tmp_path / "run-budget.png") == figures.digest([SUMMARY])
    rows = [{**row, "score": 0.5} for row in SUMMARY["rows"]]
    assert figures.digest([{**SUMMARY, "rows": rows}]) != figures.digest([SUMMARY])


def test_an_overview_has_a_panel_for_each_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    few = {**SUMMARY, "suite": "qa", "rows": [row for row in SUMMARY["rows"] if row["policy"] != "snapkv"]}
    paths = figures.overview([SUMMARY, few], tmp_path, "m")
    assert [path.name for path in paths] == ["m-budget.png", "m-bytes.png", "m-heat.png"]
    assert all(path.stat().st_size < 60_000 for path in paths)
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path, _: drawn.append(figure) or path)
    figures.overview([SUMMARY, few], tmp_path, "m")
    titles = [axis.get_title() for axis in drawn[0].axes]
    assert titles == ["niah, 8 prompts", "qa, 8 prompts", ""]
    assert [axis.axison for axis in drawn[0].axes] == [True, True, False]
    assert [container.get_label() for container in drawn[0].axes[0].containers] == ["compresskv"]  # all runs have it
    rows = {axis.get_ylabel() for axis in drawn[2].axes}
    assert {"compresskv: depth", "snapkv: depth"} <= rows


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot write"):
        figures.draw(SUMMARY, tmp_path / "nowhere", "run")


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(CompressKVError, match=r"compresskv-edge\[plot\]"):
        figures.draw(SUMMARY, tmp_path, "run")
