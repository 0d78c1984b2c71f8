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
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    figures.draw({**SUMMARY, "heat": {"cells": []}}, tmp_path, "run")
    for figure, xs in zip(drawn, ([3.0, 12.0], [122 / 1024, 491 / 1024])):
        (axis,) = figure.axes
        lines = {container.get_label(): container.lines[0] for container in axis.containers}
        assert lines["snapkv"].get_xdata() == pytest.approx(xs)
        assert list(lines["snapkv"].get_ydata()) == [0.375, 0.75]
        assert axis.lines[-1].get_ydata()[0] == 0.875  # the full cache


def test_a_heat_map_has_depths_down_and_contexts_across(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or path)
    figures.draw(SUMMARY, tmp_path, "run")
    maps = drawn[-1].axes[:2]  # of snapkv: a colour bar comes last
    assert [axis.get_title() for axis in maps] == ["3 %", "12 %"]
    assert np.array_equal(maps[0].images[0].get_array(), [[1, 0], [1, 0], [1, 0], [0, 0]])


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
