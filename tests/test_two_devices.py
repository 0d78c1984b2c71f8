"""A GPU or another machine against the CPU: the same kept tokens, the same answers, and no graph cut into more pieces.

Without a GPU the other device is an RPC server on loopback, whose kernels are the CPU's: what is left to see there is
where each graph runs and what happens when layers are split.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import devices
import numpy as np
import pytest
from logits import TYPES, last_logits
from numpy_llama import write_f32_copy
from rpc_servers import server

from compresskv_edge import Llama, Profile
from compresskv_edge.engine import native, select
from compresskv_edge.evaluate import needle
from compresskv_edge.method import scoring

pytestmark = pytest.mark.rpc

PROFILE = {"kv_profile": "demo", "kv_budget": 0.12}
N_LAYER = Profile.load("demo").model.n_layer

Options = dict[str, Any]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "elsewhere" in metafunc.fixturenames:
        names = [device.name for device in devices.available()[1:]]
        metafunc.parametrize("elsewhere", names or ["RPC"], indirect=True, scope="module")


@pytest.fixture(scope="session")  # a stock model that is loaded later asks the server how much memory it has
def rpc_server() -> Iterator[str]:
    with server() as (_, port):
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def elsewhere(request: pytest.FixtureRequest) -> Options:
    """Options of Llama that put all layers on another device."""
    if request.param == "RPC":
        return {"rpc_servers": request.getfixturevalue("rpc_server"), "n_gpu_layers": -1}
    return next(device.options for device in devices.available() if device.name == request.param)


@pytest.fixture(scope="module")
def demo_f32(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that no backend rounds on the way: what differs then comes from sums and from the KV cache."""
    return write_f32_copy(demo_model, tmp_path_factory.mktemp("f32") / "demo-f32.gguf")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    count = needle.token_counter(needle.open_model(None, None, 1.0))
    return [prompt.text for prompt in needle.make_prompts(2, count, seed=5, contexts=(512, 1024))]


def opened(model: Path, where: Options, type_kv: str = "f16", **options: Any) -> Llama:
    kv = {"type_k": TYPES[type_kv], "type_v": TYPES[type_kv], **PROFILE, **options}
    return Llama(str(model), n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False, **kv, **where)


def on_cpu() -> Options:
    return devices.available()[0].options


def seen_by(llm: Llama, layer: int) -> tuple[Any, Any, Any]:
    """Queries of the window, keys, and the heads that score: what a selection is made from."""
    shape, profile = llm._compression.layers[layer], llm._compression.profile
    q = native.read_queries(llm.ctx, layer, shape, profile.settings.window)
    k, _ = native.read_kv(llm.ctx, layer, shape)
    return q, k, profile.heads_used()[layer]


def give_keys_and_values(of: Llama, to: Llama) -> None:
    """Each device rounds rows to the cache's type by itself, and a q4_0 key off by a step moves scores by percents."""
    for layer, shape in enumerate(of._compression.layers):
        rows = native.read_kv(of.ctx, layer, shape)
        native.write_kv(to.ctx, layer, shape, np.arange(rows[0].shape[1]), *rows)
        for ours, theirs in zip(native.read_kv(to.ctx, layer, shape), rows):
            np.testing.assert_array_equal(ours, theirs)


def answer(llm: Llama, prompt: str) -> str:
    return str(llm(prompt, max_tokens=8, temperature=0.0)["choices"][0]["text"])


@pytest.mark.parametrize("type_kv", ["f16", "q8_0", "q4_0"])
def test_kept_tokens_are_the_cpus(type_kv: str, elsewhere: Options, demo_f32: Path, prompts: list[str]) -> None:
    """Of the same keys: but for ties where queries are the same too, else within the error of a forward pass."""
    here = opened(demo_f32, on_cpu(), type_kv, kv_protect=False)
    there = opened(demo_f32, elsewhere, type_kv, kv_protect=False)
    window = here._compression.profile.settings.window
    for prompt in prompts:
        tokens = here.tokenize(prompt.encode())
        here.reset()
        there.reset()
        for part in (tokens[:-window], tokens[-window:]):
            here.eval(part)
            there.eval(part)
            give_keys_and_values(here, there)

        seen = [(seen_by(here, layer), seen_by(there, layer)) for layer in range(N_LAYER)]
        here.compress()
        there.compress()
        for layer, (of_cpu, of_device) in enumerate(seen):
            kept = there.kv_kept(layer)
            want = select.select_tokens(*of_device, len(kept))
            devices.assert_kept(kept, want, scoring.token_scores(*of_device), tie=devices.TIE)
            devices.assert_kept(kept, here.kv_kept(layer), scoring.token_scores(*of_cpu), tie=devices.ERROR)

        here.eval([65])
        there.eval([65])
        error = devices.relative_errors(last_logits(there), last_logits(here))
        assert error < devices.ERROR, error


@pytest.mark.parametrize("n_layers", [N_LAYER + 1, 2], ids=["all", "split"])
def test_answers_are_the_cpus(n_layers: int, elsewhere: Options, demo_model: Path, prompts: list[str]) -> None:
    """Also with the first layers here and the last ones there: each is compressed where it lives."""
    here = opened(demo_model, on_cpu())
    there = opened(demo_model, {**elsewhere, "n_gpu_layers": n_layers})
    for prompt in prompts:
        assert answer(there, prompt) == answer(here, prompt)
        ours, theirs = there.kv_stats(), here.kv_stats()
        assert (ours.n_tokens_kept, ours.kv_bytes) == (theirs.n_tokens_kept, theirs.kv_bytes)
        assert ours.n_evictions > 0


#
# where graphs run
#


def graphs(model: Path, options: Options) -> dict[str, Any]:
    script = str(Path(__file__).with_name("graph_splits.py"))
    command = [sys.executable, script, str(model), json.dumps({**options, "flash_attn": True})]
    done = subprocess.run(command, env={**os.environ, "GGML_SCHED_DEBUG": "1"}, stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def divisions(graphs_of_phase: list[Any]) -> set[tuple[str, ...]]:
    """The devices of each graph's splits, in order."""
    return {tuple(device for device, _ in graph) for graph in graphs_of_phase}


def inputs(graphs_of_phase: list[Any], apart: set[str] | None) -> set[tuple[int, ...]]:
    """How many tensors are copied to each split of each graph, without those named apart."""
    return {tuple(len(set(names) - (apart or set())) for _, names in graph) for graph in graphs_of_phase}


@pytest.mark.parametrize("type_kv", ["f16", "q8_0"])
@pytest.mark.parametrize("n_layers", [N_LAYER + 1, 2], ids=["all", "split"])
def test_graphs_are_divided_as_stocks(n_layers: int, type_kv: str, elsewhere: Options, demo_model: Path) -> None:
    where = {**elsewhere, "n_gpu_layers": n_layers, "type_k": TYPES[type_kv], "type_v": TYPES[type_kv]}
    stock, ours = graphs(demo_model, where), graphs(demo_model, {**where, **PROFILE})
    # a device that multiplies long batches for the CPU's layers has their queries, whose ring is on the CPU; with
    # their keys and values it gets the columns of the mask that the layer sees
    queries = {f"Qcur-{il}" for il in range(N_LAYER + 1 - n_layers)}
    apart = {"prompt": queries, "batch": {*queries, "attn_inp_kq_mask"} if queries else set()}
    for phase in ("prompt", "token", "batch", "sequences"):
        assert divisions(ours[phase]) == divisions(stock[phase]), phase
        assert inputs(ours[phase], apart.get(phase)) == inputs(stock[phase], apart.get(phase)), phase
    whole = divisions(stock["prompt"]) | divisions(stock["token"])
    assert all(len(division) > 1 for division in whole), "nothing ran on another device"

    # of the eviction: graphs that score and move rows, in one piece, then the model's own, reserved anew
    own = [division for division in divisions(ours["eviction"]) if division not in whole]
    assert all(len(division) == 1 for division in own)
    devices_used = {device for division in own for device in division}
    assert devices_used == {device for division in whole for device in division} - ({"CPU"} if n_layers > 2 else set())
    assert sum(len(graph) == 1 for graph in ours["eviction"]) == 2 * N_LAYER
