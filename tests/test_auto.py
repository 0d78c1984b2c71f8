"""kv_profile="auto": shipped profiles, a calibration that is made once and stored, and how large it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rpc_servers import server

from compresskv_edge import Llama, Profile
from compresskv_edge.calibration import Plan, auto, engine
from compresskv_edge.calibration.state import State
from compresskv_edge.errors import CalibrationError
from compresskv_edge.model import known
from compresskv_edge.model.gguf_file import GGUF
from compresskv_edge.runtime.outputs import AllLogits

SMALL = Plan(n_documents=3, n_error_documents=2, n_questions=3, min_tokens=256, max_tokens=384, answer_tokens=12)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path)
    monkeypatch.setattr(auto, "_SIZES", (SMALL,))
    return tmp_path / "profiles"


def test_auto_finds_the_shipped_profile(demo_model: Path, cache: Path) -> None:
    options = {"n_ctx": 512, "verbose": False, "allow_calibration": False}
    llm = Llama(str(demo_model), kv_profile="auto", **options)
    assert llm._compression is not None
    assert llm._compression.profile == Profile.load("demo")
    assert not cache.exists()


def test_auto_calibrates_once(tiny_gguf: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_gguf("llama")
    with pytest.warns(UserWarning, match=r"0 of \d+ prompts"):
        first = auto.resolve(path, llama_options={"n_threads": 1, "n_ctx": 64})
    assert [file.name for file in cache.iterdir()] == [known.cache_path(GGUF.open(path).hash()).name]
    monkeypatch.setattr(auto, "_calibrate", None)
    assert auto.resolve(path) == first
    assert auto.resolve(path, allow_calibration=False) == first


def test_auto_may_be_told_not_to_calibrate(tiny_gguf: Callable[..., Path], cache: Path) -> None:
    with pytest.raises(CalibrationError, match=r"allow_calibration is False: run .compresskv calibrate"):
        Llama(str(tiny_gguf("qwen2")), kv_profile="auto", allow_calibration=False, verbose=False)


def test_auto_goes_on_after_ctrl_c(
    tiny_gguf: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = tiny_gguf("qwen2")
    save = State.save

    def interrupted(self: State, where: Path) -> None:
        save(self, where)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(State, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            auto.resolve(path, llama_options={"n_threads": 1, "n_ctx": 64})
    (state,) = cache.iterdir()
    assert State.load(state).read == [0]  # type: ignore[union-attr]
    monkeypatch.setattr(auto, "_sized", None)  # the size is that of the stopped run
    auto.resolve(path, llama_options={"n_threads": 1, "n_ctx": 64})
    assert [file.suffix for file in cache.iterdir()] == [".json"]


def test_a_damaged_cached_profile_is_measured_again(tiny_gguf: Callable[..., Path], cache: Path) -> None:
    path = tiny_gguf("llama")
    target = known.cache_path(GGUF.open(path).hash())
    target.parent.mkdir(parents=True)
    target.write_text("{")
    with pytest.warns(UserWarning, match="calibrating again|0 of ") as warned:
        profile = auto.resolve(path, llama_options={"n_threads": 1, "n_ctx": 64})
    assert "calibrating again" in str(warned[0].message)
    assert Profile.load(target) == profile


def test_the_plan_fits_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for speed, plan in ((1e-9, auto._SIZES[-1]), (1.0, auto._SIZES[0]), (0.008, auto._SIZES[4])):
        monkeypatch.setattr(auto, "_speed", lambda *_, s=speed: (s, 3 * s))
        chosen = auto.choose_plan(None, None)  # type: ignore[arg-type]
        assert chosen == plan
        assert speed == 1.0 or auto.estimate(chosen, speed, 3 * speed) <= auto.TARGET_SECONDS


def test_the_largest_plans_are_the_slowest() -> None:
    seconds = [auto.estimate(plan, 0.01, 0.03) for plan in auto._SIZES]
    assert seconds == sorted(seconds)


@pytest.mark.rpc
def test_auto_calibrates_where_the_model_will_run(
    tiny_gguf: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []

    class Recorded(AllLogits):
        def __init__(self, *args: Any, **options: Any) -> None:
            opened.append(options)
            super().__init__(*args, **options)
            opened[-1]["devices"] = len(self._devices) - 1  # NULL ends them

    monkeypatch.setattr(engine, "AllLogits", Recorded)
    with server() as (_, port):
        servers = f"127.0.0.1:{port}"
        options = {"rpc_servers": servers, "n_gpu_layers": -1, "tensor_split": [1.0], "n_threads": 1, "n_ctx": 512}
        with pytest.warns(UserWarning, match=r"0 of \d+ prompts"):
            Llama(str(tiny_gguf("llama", seed=7)), kv_profile="auto", verbose=False, **options).close()
    assert len(opened) == 2, "one to measure the speed, one to calibrate"
    for each in opened:
        assert (each["rpc_servers"], each["n_gpu_layers"], each["tensor_split"]) == (servers, -1, [1.0])
        assert each["devices"] >= 1
