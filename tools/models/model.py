"""A small llama (RMSNorm, RoPE, grouped-query attention, SwiGLU, tied embeddings) with a structured start.

Shapes are (batch, head, token, channel). RoPE turns the pairs (i, i + head_size / 2), as Hugging Face does;
`export.py` reorders the rows for llama.cpp.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture and the roles that the structured start and the attention losses give to some heads."""

    vocab: int = 3072
    width: int = 256
    n_layer: int = 6
    n_head: int = 8
    n_head_kv: int = 2
    head_size: int = 64
    ffn: int = 384
    theta: float = 1e7
    eps: float = 1e-5
    context: int = 8192
    gather: tuple[tuple[int, int], ...] = ((1, 0), (1, 5))  # (layer, head): read the words that a sentence is about
    semantic: tuple[tuple[int, int], ...] = ((2, 5), (3, 1), (3, 6))  # read the whole sentence that answers
    copy: tuple[tuple[int, int], ...] = ((4, 2), (4, 7))  # read the next token of the answer

    @property
    def group(self) -> int:
        """Query heads a KV head."""
        return self.n_head // self.n_head_kv


# The residual stream at the start: token identity, identity of the token before, words gathered around, a constant.
TOKEN, BEFORE, BAG, CONSTANT = slice(0, 128), slice(128, 192), slice(192, 255), 255


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight.to(x.dtype), eps)


def rope_tables(config: Config, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin, (batch, 1, token, head_size / 2), for positions (batch, token)."""
    angle = positions[..., None].float() * frequencies(config)
    return angle.cos().to(dtype)[:, None], angle.sin().to(dtype)[:, None]


def frequencies(config: Config) -> Tensor:
    return config.theta ** (-torch.arange(0, config.head_size, 2).float() / config.head_size)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, block: int = 128) -> Tensor:
    """Causal grouped-query attention in blocks of queries: four times faster than torch's own on small CPUs.

    `mask` (batch, token, token), added to the scores, hides more (simulated eviction)."""
    batch, n_head, n_token, size = q.shape
    n_kv = k.shape[1]
    q = (q * size**-0.5).view(batch, n_kv, n_head // n_kv, n_token, size)
    block = min(block, n_token)
    causal = torch.full((block, block), -1e4, dtype=q.dtype).triu(1)
    outputs = []
    for start in range(0, n_token, block):
        end = min(start + block, n_token)
        rows = q[:, :, :, start:end].reshape(batch * n_kv, -1, size)
        scores = torch.bmm(rows, k[:, :, :end].reshape(batch * n_kv, end, size).transpose(1, 2))
        scores = scores.view(batch, n_kv, -1, end - start, end)
        if mask is None:
            scores[..., start:end] += causal[: end - start, : end - start]
        else:
            scores = scores + mask[:, None, None, start:end, :end]
        weights = scores.softmax(-1).view(batch * n_kv, -1, end)
        out = torch.bmm(weights, v[:, :, :end].reshape(batch * n_kv, end, size))
        outputs.append(out.view(batch, n_kv, -1, end - start, size))
    return torch.cat(outputs, 3).reshape(batch, n_head, n_token, size)


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        c = self.config = config
        self.attention_norm = nn.Parameter(torch.ones(c.width))
        self.ffn_norm = nn.Parameter(torch.ones(c.width))
        self.q = nn.Linear(c.width, c.n_head * c.head_size, bias=False)
        self.k = nn.Linear(c.width, c.n_head_kv * c.head_size, bias=False)
        self.v = nn.Linear(c.width, c.n_head_kv * c.head_size, bias=False)
        self.o = nn.Linear(c.n_head * c.head_size, c.width, bias=False)
        self.gate = nn.Linear(c.width, c.ffn, bias=False)
        self.up = nn.Linear(c.width, c.ffn, bias=False)
        self.down = nn.Linear(c.ffn, c.width, bias=False)

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = rms_norm(x, self.attention_norm, self.config.eps)

        def heads(linear: nn.Linear, n_head: int) -> Tensor:
            return linear(x).view(*x.shape[:2], n_head, -1).transpose(1, 2)

        c = self.config
        q, k, v = heads(self.q, c.n_head), heads(self.k, c.n_head_kv), heads(self.v, c.n_head_kv)
        return rotate(q, cos, sin), rotate(k, cos, sin), v

    def mlp(self, x: Tensor) -> Tensor:
        x = rms_norm(x, self.ffn_norm, self.config.eps)
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Model(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.norm = nn.Parameter(torch.ones(config.width))

    def forward(
        self, ids: Tensor, positions: Tensor, mask: Tensor | None = None, keep_heads: Tensor | None = None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
        """Logits (batch, token, vocab) and each layer's rotated queries, rotated keys and values.

        `keep_heads` (layer, batch, head): 0 silences a head of a row."""
        x = self.embedding(ids)
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
        cos, sin = rope_tables(self.config, positions, dtype)
        attention = []
        for index, layer in enumerate(self.layers):
            q, k, v = layer.qkv(x, cos, sin)
            attention.append((q, k, v))
            out = attend(q, k, v, mask)
            if keep_heads is not None:
                out = out * keep_heads[index, :, :, None, None].to(out.dtype)
            x = x + layer.o(out.transpose(1, 2).flatten(2))
            x = x + layer.mlp(x)
        return F.linear(rms_norm(x, self.norm, self.config.eps), self.embedding.weight), attention


# ---- the structured start -------------------------------------------------------------------------------------------


@torch.no_grad()
def structured_start(model: Model, seed: int) -> None:
    """Gives heads first jobs; everything stays trainable. A random start learned no retrieval in the tokens we can pay.

    Layer 0 reads the tokens just before (RoPE phases, driven by the constant), layer 1 gathers the sentence's words,
    the semantic heads compare gathered words (W_q = W_k), the copying ones the token before as well, and both write
    token identity back (W_o = W_v^T). Every head gets its own random projection, so that no two are alike."""
    torch.manual_seed(seed)
    c = model.config
    _random_start(model)
    to_before, to_bag = _orthogonal(64, 128), _orthogonal(63, 128)
    _local_layer(model.layers[0], c, to_before, to_bag)
    for index, head in c.gather:
        _gather_head(model.layers[index], c, head, to_bag)
    for index, head in c.semantic:
        _match_head(model.layers[index], c, head, None)
    for index, head in c.copy:
        _match_head(model.layers[index], c, head, to_before)


def _random_start(model: Model) -> None:
    nn.init.normal_(model.embedding.weight, std=0.02)
    model.embedding.weight[:, TOKEN] = torch.randn(model.config.vocab, 128) * 128**-0.5
    model.embedding.weight[:, CONSTANT] = 0.3
    for layer in model.layers:
        for name, p in layer.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.01 if name.startswith(("o.", "down.")) else 0.03)


def _orthogonal(rows: int, columns: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))
    return q if rows >= columns else q.T


def _rows(head: int, config: Config) -> slice:
    return slice(head * config.head_size, (head + 1) * config.head_size)


def _recency(layer: Layer, config: Config, head: int, distance: float, bands: range, strength: float) -> None:
    """Scores strength * sum over bands of cos(frequency * (offset - distance)): prefers tokens `distance` back."""
    half = config.head_size // 2
    index = torch.tensor(list(bands))
    phase = frequencies(config)[index] * distance
    query = torch.zeros(config.head_size)
    query[index], query[index + half] = phase.cos(), -phase.sin()
    key = torch.zeros(config.head_size)
    key[:16] = 1.0
    gain = (strength / 2.6) ** 0.5  # 2.6 = constant of the normed input squared / sqrt(head size)
    layer.q.weight[_rows(head, config), CONSTANT] = gain * query
    layer.k.weight[_rows(head // config.group, config), CONSTANT] = gain * key


def _local_layer(layer: Layer, config: Config, to_before: Tensor, to_bag: Tensor) -> None:
    """Layer 0: heads 0 and 4 read the token before, the others the last 2, 3, 4, 8, 16 and 32 tokens or so."""
    for kv, project in ((0, to_before), (1, to_bag)):
        layer.v.weight[_rows(kv, config)] = 0.0
        layer.v.weight[_rows(kv, config)][: len(project), TOKEN] = 0.25 * project
    for head in (0, 4):
        _recency(layer, config, head, 1.0, range(0, 8), 5.0)
    for head, distance, bands in ((1, 2, range(0, 8)), (2, 3, range(0, 8)), (3, 4, range(1, 9))):
        _recency(layer, config, head, float(distance), bands, 5.0)
    for head, bands in ((5, range(2, 10)), (6, range(3, 11)), (7, range(4, 12))):
        _recency(layer, config, head, 0.0, bands, 5.0)
    layer.o.weight[BEFORE, _rows(0, config)] += 0.25 * torch.eye(64)
    for head in range(1, config.n_head):
        layer.o.weight[BAG, _rows(head, config)] += 0.05 * _orthogonal(63, 64)


def _gather_head(layer: Layer, config: Config, head: int, to_bag: Tensor) -> None:
    """Reads the last thirty tokens or so; their identities, projected, become the bag."""
    kv = head // config.group
    _recency(layer, config, head, 4.0, range(4, 12), 2.0)
    layer.v.weight[_rows(kv, config)][:63, TOKEN] = 0.25 * to_bag
    layer.o.weight[BAG, _rows(head, config)][:, :63] = 0.3 * torch.eye(63)


def _match_head(layer: Layer, config: Config, head: int, to_before: Tensor | None) -> None:
    """W_q = W_k on the bag, in the slow RoPE pairs only (their turn over 4096 tokens is small); W_o = W_v^T."""
    kv, half = head // config.group, config.head_size // 2
    slow = torch.arange(17, half)
    rows = torch.cat([slow, slow + half])
    query, key = torch.zeros(64, config.width), torch.zeros(64, config.width)
    bag_rows = rows if to_before is None else slow + half
    project = _orthogonal(len(bag_rows), 63)
    query[bag_rows, BAG] = 1.2 * project
    key[bag_rows, BAG] = 1.2 * project
    if to_before is not None:
        project = _orthogonal(len(slow), 64)
        query[slow, TOKEN] = 1.2 * project @ to_before * 0.7
        key[slow, BEFORE] = 1.2 * project
    layer.q.weight[_rows(head, config)] += query
    layer.k.weight[_rows(kv, config)] = 0.01 * torch.randn(64, config.width) + key
    identity = _orthogonal(64, 128)
    layer.v.weight[_rows(kv, config), TOKEN] = 0.2 * identity
    layer.o.weight[TOKEN, _rows(head, config)] = 0.2 * identity.T
