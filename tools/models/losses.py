"""Losses: the next token's, and what the heads with a role should read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from batches import N_SPAN, Batch
from specs import TARGETS, Config
from torch import Tensor

Attention = list[tuple[Tensor, Tensor, Tensor]]  # queries, keys, values of each layer


def word_loss(logits: Tensor, batch: Batch) -> Tensor:
    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none")
    return (loss * batch.weights.flatten()).sum() / batch.weights.sum()


def attention_losses(config: Config, attention: Attention, batch: Batch, margin: float) -> dict[str, Tensor]:
    """gather, semantic and copy: cross entropies of the heads with a role; before: of all of them in the window before
    an answer; others: what all other heads should not read. `mass`, a figure only: attention on the evidence."""
    n_token = batch.positions.shape[1]
    losses = {name: torch.zeros(()) for name in ("gather", "semantic", "copy", "before", "others", "mass")}
    words = inside(batch.gather[..., 1:], n_token)
    for layer, head in config.gather:
        log_attention = head_attention(attention[layer], head, batch.gather[..., 0], words, margin)
        losses["gather"] = losses["gather"] + cover_loss(log_attention, words) / len(config.gather)
    read = {name: inside(batch.reads[..., spans], n_token) for name, spans in _columns().items()}
    evidence = inside(batch.before[..., 1:], n_token)
    for layer, head, target in config.roles:
        name = "copy" if target in ("next", "rest") else "semantic"
        share = 1 / sum((t in ("next", "rest")) == (name == "copy") for *_, t in config.roles)
        log_attention = head_attention(attention[layer], head, batch.reads[..., 0], read[target], margin)
        losses[name] = losses[name] + share * cover_loss(log_attention, read[target])
        if name == "semantic":
            losses["mass"] = losses["mass"] + share * _mass(log_attention, read["evidence"])
        log_attention = head_attention(attention[layer], head, batch.before[..., 0], evidence, margin)
        losses["before"] = losses["before"] + cover_loss(log_attention, evidence) / len(config.roles)
    queries = torch.cat([batch.reads[..., 0], batch.before[..., 0]], 1)
    losses["others"] = others_loss(config, attention, queries, torch.cat([read["evidence"], evidence], 1))
    return losses


def _columns() -> dict[str, slice]:
    width = 2 * N_SPAN
    return {name: slice(1 + i * width, 1 + (i + 1) * width) for i, name in enumerate(TARGETS)}


def _mass(log_attention: Tensor, target: Tensor) -> Tensor:
    valid = target.any(-1)
    return ((log_attention.exp() * target).sum(-1) * valid).sum().detach() / valid.sum().clamp_min(1)


def head_attention(qkv: tuple[Tensor, ...], head: int, queries: Tensor, target: Tensor, margin: float) -> Tensor:
    """log attention (batch, item, token) of one head for query positions (batch, item); what is not target gains."""
    q, k = qkv[:2]
    index = queries.clamp_min(0)[..., None].expand(-1, -1, q.shape[-1])
    chosen = q[:, head].gather(1, index)
    scores = (chosen @ k[:, head * k.shape[1] // q.shape[1]].transpose(1, 2)).float() * q.shape[-1] ** -0.5
    later = torch.arange(k.shape[2]) > queries[..., None]
    return (scores + margin * (1 - target)).masked_fill(later, -1e9).log_softmax(-1)


def inside(spans: Tensor, n_token: int) -> Tensor:
    """(batch, item, token), 1 inside any of the spans (batch, item, 2 * n_span)."""
    at = torch.arange(n_token)
    first, last = spans[..., 0::2, None], spans[..., 1::2, None]
    return ((at >= first) & (at < last)).any(-2).float()


def cover_loss(log_attention: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of attention to the uniform distribution over the target tokens, less its minimum."""
    size = target.sum(-1)
    valid = (size > 0).float()
    size = size.clamp_min(1)
    loss = -(log_attention * target).sum(-1) / size - size.log()
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def others_loss(config: Config, attention: Attention, queries: Tensor, evidence: Tensor) -> Tensor:
    """-log(1 - attention on the evidence), mean over the heads without a role."""
    valid = (queries >= 0).float()[:, None]
    free = torch.ones(config.n_layer, config.n_head)
    for layer, head in config.busy:
        free[layer, head] = 0.0
    loss = torch.zeros(())
    for layer, qkv in enumerate(attention):
        mass = (all_heads_attention(qkv, queries) * evidence[:, None]).sum(-1)  # (batch, head, item)
        penalty = -(1 - mass).clamp_min(1e-3).log() * free[layer, :, None]
        loss = loss + (penalty * valid).sum() / valid.sum().clamp_min(1) / free.sum()
    return loss


def all_heads_attention(qkv: tuple[Tensor, ...], queries: Tensor) -> Tensor:
    """Attention (batch, head, item, token) for the given query positions (batch, item)."""
    q, k = qkv[:2]
    n_kv, size = k.shape[1], q.shape[-1]
    index = queries.clamp_min(0)[:, None, :, None].expand(-1, q.shape[1], -1, size)
    chosen = q.gather(2, index).unflatten(1, (n_kv, -1)).flatten(2, 3)
    scores = (chosen @ k.transpose(2, 3)).float().unflatten(2, (-1, queries.shape[1])).flatten(1, 2) * size**-0.5
    later = torch.arange(k.shape[2]) > queries[:, None, :, None]
    return scores.masked_fill(later, -1e9).softmax(-1)
