from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compresskv_edge import Profile
from compresskv_edge.calibration.plot import _ranking, plot_profile
from compresskv_edge.errors import CompressKVError, ProfileError


@pytest.mark.parametrize("name", ["demo", "llama-3.1-8b-instruct"])
def test_a_picture_of_a_shipped_profile(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_profile(Profile.load(name), tmp_path / "p.png")
    data = (tmp_path / "p.png").read_bytes()
    assert data[1:4] == b"PNG"
    assert len(data) > 20_000
    with pytest.raises(ProfileError, match="cannot write"):
        plot_profile(Profile.load(name), tmp_path / "none" / "p.png")


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(CompressKVError, match=r"pip install 'compresskv-edge\[plot\]'"):
        plot_profile(Profile.load("demo"), tmp_path / "p.png")


def test_a_ranking_becomes_a_map() -> None:
    profile = Profile.load("demo")
    ranking = _ranking(profile)
    assert ranking.shape == (6, 8)
    assert [int(row.argmax()) for row in ranking] == [heads[0] for heads in profile.heads_ranked]
