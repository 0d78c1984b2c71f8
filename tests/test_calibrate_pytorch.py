"""Calibration against METHOD.md's two measurements written down once more, in PyTorch and without any of our code: the
demo model's weights dequantised to float32, its own forward pass, its own greedy answers.

    pip install torch && python -m pytest tests/test_calibrate_pytorch.py
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from compresskv_edge.calibration import Corpus, Plan, runner  # noqa: E402

PLAN = Plan(n_documents=8, n_error_documents=4, n_questions=3, max_tokens=1024)
N_LAYER, N_HEAD, N_KV, DIM, WINDOW, KERNEL, BUDGET, TOP = 5, 8, 2, 64, 8, 5, 32, 4
THETA, EPS = 1e5, 1e-5


@pytest.fixture(scope="module")
def weights(demo_model: Path) -> dict[str, Any]:
    tensors = gguf.GGUFReader(demo_model).tensors
    return {t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).astype(np.float32)) for t in tensors}


class Measured:
    """What our code makes of a file, with the documents that it used."""

    def __init__(self, path: Path) -> None:
        with runner.open_engine(path, PLAN, n_threads=1) as engine:
            run = runner.Runner(engine, Corpus.load(model_name="demo"), PLAN)
            run.run()
            self.result = run.result()
            self.prompts = [
                (document.haystack, needle, engine.tokens(document.ask(needle, engine.render)))
                for document in run.documents
                for needle in document.needles
            ]
            pieces = [engine.llm.detokenize([token]) for token in range(engine.llm.n_vocab())]
            texts = [" " + needle.sentence for _, needle, _ in self.prompts]
            self.spans = [engine.llm.tokenize(text.encode(), add_bos=False) for text in texts]
        self.spell = lambda tokens: b"".join(pieces[token] for token in tokens).decode()
        self.newline = pieces.index(b"\n")


@pytest.fixture(scope="module")
def shipped(demo_model: Path) -> Measured:
    """The file that ships: Q8_0 weights, and activations that its kernels quantise as well."""
    return Measured(demo_model)


@pytest.fixture(scope="module")
def exact(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """The same weights as F32, so that nothing but the arithmetic differs."""
    import llama_cpp

    path = tmp_path_factory.mktemp("f32") / "demo.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = llama_cpp.LLAMA_FTYPE_ALL_F32, True
    assert llama_cpp.llama_model_quantize(str(demo_model).encode(), str(path).encode(), params) == 0
    return Measured(path)


@pytest.fixture(scope="module")
def traces(shipped: Measured, weights: dict[str, Any]) -> list[dict[str, Any]]:
    out = []
    for (haystack, needle, tokens), span in zip(shipped.prompts, shipped.spans):
        trace = run_model(weights, tokens, stop=shipped.newline)
        words = [set(re.findall(r"\w+", text.lower())) for text in (needle.answer, shipped.spell(trace["generated"]))]
        trace["counts"] = len(words[0] & words[1]) / len(words[0]) > 0.5
        out.append({**trace, "haystack": haystack, "tokens": tokens, "span": find(tokens, span)})
    return out


def find(tokens: list[int], wanted: list[int]) -> tuple[int, int]:
    starts = [i for i in range(len(tokens)) if tokens[i : i + len(wanted)] == wanted]
    if not starts:  # at the very start of the text there is no space before the needle
        starts = [i + 1 for i in range(len(tokens)) if tokens[i + 1 : i + len(wanted)] == wanted[1:]]
        return starts[0] - 1, starts[0] + len(wanted) - 1
    assert len(starts) == 1
    return starts[0], starts[0] + len(wanted)


#
# the model: llama architecture
#


def norm(x: Any, weight: Any) -> Any:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * weight


def rope(x: Any, positions: Any) -> Any:
    """x (heads, n, DIM), neighbouring elements form the pairs."""
    angles = positions[:, None].double() * THETA ** (-torch.arange(0, DIM, 2, dtype=torch.float64) / DIM)
    cos, sin = angles.cos().float(), angles.sin().float()
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def forward(w: dict[str, Any], tokens: list[int], cache: list[Any], queries: list[Any]) -> Any:
    """Logits of the last token. cache: (k, v) of each layer so far, extended; queries: replaced by these tokens'."""
    start = cache[0][0].shape[1] if cache else 0
    positions = torch.arange(start, start + len(tokens))
    x, queries[:] = w["token_embd.weight"][tokens], []
    for layer in range(N_LAYER):
        t = {name.split(".", 2)[2]: value for name, value in w.items() if name.startswith(f"blk.{layer}.")}
        h = norm(x, t["attn_norm.weight"])
        q = rope((h @ t["attn_q.weight"].T).view(-1, N_HEAD, DIM).transpose(0, 1), positions)
        k = rope((h @ t["attn_k.weight"].T).view(-1, N_KV, DIM).transpose(0, 1), positions)
        v = (h @ t["attn_v.weight"].T).view(-1, N_KV, DIM).transpose(0, 1)
        if layer < len(cache):
            k, v = (torch.cat([old, new], 1) for old, new in zip(cache[layer], (k, v)))
            cache[layer] = (k, v)
        else:
            cache.append((k, v))
        queries.append(q)
        x = x + heads_out(attend(q, k, positions), v) @ t["attn_output.weight"].T
        h = norm(x, t["ffn_norm.weight"])
        gate = torch.nn.functional.silu(h @ t["ffn_gate.weight"].T)
        x = x + (gate * (h @ t["ffn_up.weight"].T)) @ t["ffn_down.weight"].T
    return norm(x[-1], w["output_norm.weight"]) @ w.get("output.weight", w["token_embd.weight"]).T


def attend(q: Any, k: Any, positions: Any) -> Any:
    """(heads, queries, keys), causal."""
    logits = q @ k.repeat_interleave(N_HEAD // N_KV, 0).transpose(1, 2) / DIM**0.5
    logits[:, torch.arange(k.shape[1]) > positions[:, None]] = -torch.inf
    return logits.softmax(-1)


def heads_out(attention: Any, v: Any) -> Any:
    return (attention @ v.repeat_interleave(N_HEAD // N_KV, 0)).transpose(0, 1).flatten(1)


@torch.no_grad()
def run_model(w: dict[str, Any], tokens: list[int], stop: int) -> dict[str, Any]:
    cache: list[Any] = []
    queries: list[Any] = []
    logits = forward(w, tokens, cache, queries)
    window, steps, generated = [q[:, -WINDOW:] for q in queries], [[q[:, -1:] for q in queries]], [int(logits.argmax())]
    while len(generated) < PLAN.answer_tokens and generated[-1] not in (stop, 2):
        logits = forward(w, generated[-1:], cache, queries)
        steps.append(list(queries))
        generated.append(int(logits.argmax()))
    return {"generated": generated, "cache": cache, "window": window, "steps": steps}


#
# METHOD.md, section 3 and 4
#


@torch.no_grad()
def reference_scores(traces: list[dict[str, Any]]) -> Any:
    """Section 3: (N_LAYER, N_HEAD)."""
    per_prompt = []
    for trace in traces:
        if not trace["counts"]:
            continue
        (a, b), n, score = trace["span"], len(trace["tokens"]), torch.zeros(N_LAYER, N_HEAD)
        for i, token in enumerate(trace["generated"]):
            repeats = trace["tokens"][a:b].count(token)
            for layer in range(N_LAYER) if repeats else ():
                keys = trace["cache"][layer][0][:, : n + i]
                attention = attend(trace["steps"][i][layer], keys, torch.tensor([n + i]))
                score[layer] += repeats * attention[:, 0, a:b].sum(-1)
        per_prompt.append(score)
    return torch.stack(per_prompt).mean(0)


@torch.no_grad()
def reference_errors(traces: list[dict[str, Any]], heads: Any, w: dict[str, Any]) -> Any:
    """Section 4: (N_LAYER,)."""
    by_haystack: dict[str, Any] = {}
    for trace in traces:
        n, errors = len(trace["tokens"]), torch.zeros(N_LAYER)
        for layer in range(N_LAYER):
            k, v = trace["cache"][layer]
            w_o = w[f"blk.{layer}.attn_output.weight"]
            kept = select(trace["window"][layer], k[:, :n], heads[layer])
            for i in range(1, len(trace["generated"])):
                q, rows = trace["steps"][i][layer], torch.tensor([*kept, *range(n, n + i)])
                every = torch.tensor([n + i])
                full = heads_out(attend(q, k[:, : n + i], every), v[:, : n + i]) @ w_o.T
                less = heads_out(attend(q, k[:, rows], every), v[:, rows]) @ w_o.T
                errors[layer] += torch.linalg.norm(less - full) / torch.linalg.norm(full)
        by_haystack[trace["haystack"]] = by_haystack.get(trace["haystack"], 0) + errors
    mean = torch.stack([errors / errors.sum() for errors in by_haystack.values()]).mean(0)
    return mean / mean.sum()


def select(window: Any, k: Any, heads: list[int]) -> list[int]:
    n = k.shape[1]
    rows = attend(window, k, torch.arange(n - WINDOW, n))[heads, :, : n - WINDOW].sum(1)
    pooled = torch.nn.functional.avg_pool1d(rows, KERNEL, 1, KERNEL // 2, count_include_pad=True).mean(0)
    best = pooled.topk(BUDGET - WINDOW).indices.sort().values.tolist()
    return [*best, *range(n - WINDOW, n)]


@pytest.mark.parametrize("file", ["shipped", "exact"])
def test_calibration_equals_the_reference(
    file: str, traces: list[dict[str, Any]], weights: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    ours = request.getfixturevalue(file).result
    assert [trace["counts"] for trace in traces] == ours.counted.tolist()
    assert ours.counted.mean() > 0.8

    scores = reference_scores(traces).numpy()
    mean = ours.state.semantic[ours.counted].mean(axis=0)
    correlation = np.corrcoef(*(x.ravel().argsort().argsort() for x in (mean, scores)))[0, 1]
    best = [row.argsort(kind="stable")[: -TOP - 1 : -1].tolist() for row in scores]
    assert correlation >= 0.99
    assert [set(ranking) for ranking in ours.heads_used()] == [set(row) for row in best]
    assert [ranking[0] for ranking in ours.heads_used()] == [row[0] for row in best]

    n = sum(len(document.needles) for document in ours.documents[: PLAN.n_error_documents])
    errors = reference_errors(traces[:n], best, weights).numpy()
    difference = abs(ours.layer_errors() / errors - 1).max()
    print(f"{file}: rank correlation {correlation:.5f}, scores {abs(mean - scores).max() / scores.max():.2e} of the")
    print(f"largest apart, layer errors {difference:.2e} relative")
    assert difference <= 0.01
