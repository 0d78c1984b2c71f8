"""A small llama (RMSNorm, RoPE, grouped-query attention, SwiGLU, tied embeddings), or with normed heads a qwen3.

Shapes are (batch, head, token, channel). RoPE turns the pairs (i, i + head_size / 2), as Hugging Face does;
`export.py` reorders the rows where llama.cpp has it otherwise.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from specs import Config
from torch import Tensor, nn


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
        if c.qk_norm:
            self.q_norm = nn.Parameter(torch.ones(c.head_size))
            self.k_norm = nn.Parameter(torch.ones(c.head_size))
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
        if c.qk_norm:
            q, k = rms_norm(q, self.q_norm, c.eps), rms_norm(k, self.k_norm, c.eps)
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
