"""Losses: the next token's, and what the heads with a role should read."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from batches import N_SPAN, Batch
from specs import TARGETS, Config
from torch import Tensor

Attention = list[tuple[Tensor, Tensor, Tensor]]  # queries, keys, values of each layer


def word_loss(logits: Tensor, batch: Batch) -> Tensor:
    log = logits.flatten(0, 1).log_softmax(-1, dtype=torch.float32)
    loss = F.nll_loss(log, batch.ids[:, 1:].flatten(), reduction="none")
    return (loss * batch.weights.flatten()).sum() / batch.weights.sum()


def attention_losses(config: Config, attention: Attention, batch: Batch, margin: float) -> dict[str, Tensor]:
    """gather, semantic and copy: cross entropies of the heads with a role; before: of all of them in the window before
    an answer; others: what all other heads should not read. `mass`, a figure only: attention on the evidence."""
    n_token = batch.positions.shape[1]
    losses = {name: torch.zeros(()) for name in ("gather", "semantic", "copy", "before", "others", "mass")}
    queries = [q.unbind(1) for q, _, _ in attention]  # unbound once: each index would make a whole gradient
    keys = [k.unbind(1) for _, k, _ in attention]

    def log_attention(layer: int, head: int, at: Tensor, bias: Tensor) -> Tensor:
        return head_attention(queries[layer][head], keys[layer][head // config.group], at, bias)

    words = inside(batch.gather[..., 1:], n_token)
    bias = attention_bias(batch.gather[..., 0], words, margin)
    for layer, head in config.gather:
        loss = cover_loss(log_attention(layer, head, batch.gather[..., 0], bias), words)
        losses["gather"] = losses["gather"] + loss / len(config.gather)
    items, is_read = _packed(batch)
    at = items[..., 0]
    targets = {name: inside(items[..., spans], n_token) for name, spans in _columns().items()}
    biases = {name: attention_bias(at, target, margin) for name, target in targets.items()}
    for layer, head, name in config.roles:
        kind = "copy" if name in ("next", "rest") else "semantic"
        share = 1 / sum((t in ("next", "rest")) == (kind == "copy") for *_, t in config.roles)
        log = log_attention(layer, head, at, biases[name])
        losses[kind] = losses[kind] + share * cover_loss(log, targets[name], is_read)
        losses["before"] = losses["before"] + cover_loss(log, targets[name], ~is_read) / len(config.roles)
        if kind == "semantic":
            losses["mass"] = losses["mass"] + share * _mass(log, targets["evidence"], is_read)
    losses["others"] = others_loss(config, attention, at, targets["evidence"])
    return losses


def _columns() -> dict[str, slice]:
    width = 2 * N_SPAN
    return {name: slice(1 + i * width, 1 + (i + 1) * width) for i, name in enumerate(TARGETS)}


def _packed(batch: Batch) -> tuple[Tensor, Tensor]:
    """reads, and before with its spans as every target, as one (batch, item, ...), missing items last and cut off where
    no row needs them; and which of them are reads (batch, item)."""
    before = torch.cat([batch.before[..., :1], batch.before[..., 1:].repeat(1, 1, len(TARGETS))], -1)
    items = torch.cat([batch.reads, before], 1)
    missing = items[..., 0] < 0
    order = missing.int().argsort(dim=1, stable=True)[:, : max(1, int((~missing).sum(1).max()))]
    return items.gather(1, order[..., None].expand(-1, -1, items.shape[-1])), order < batch.reads.shape[1]


@torch.no_grad()
def _mass(log_attention: Tensor, target: Tensor, chosen: Tensor) -> Tensor:
    valid = target.any(-1) & chosen
    return ((log_attention.exp() * target).sum(-1) * valid).sum() / valid.sum().clamp_min(1)


def attention_bias(queries: Tensor, target: Tensor, margin: float) -> Tensor:
    """(batch, item, token), added to scores: what is not target gains the margin, what comes later is hidden."""
    later = torch.arange(target.shape[-1]) > queries[..., None]
    return (margin * (1 - target)).masked_fill_(later, -1e9)


def head_attention(q: Tensor, k: Tensor, queries: Tensor, bias: Tensor) -> Tensor:
    """log attention (batch, item, token) of a head's q and k (batch, token, channel) for positions (batch, item)."""
    chosen = q.gather(1, queries.clamp_min(0)[..., None].expand(-1, -1, q.shape[-1])) * q.shape[-1] ** -0.5
    return (chosen @ k.transpose(1, 2) + bias).log_softmax(-1)


def inside(spans: Tensor, n_token: int) -> Tensor:
    """(batch, item, token), 1 inside any of the spans (batch, item, 2 * n_span)."""
    at = torch.arange(n_token)
    first, last = spans[..., 0::2, None], spans[..., 1::2, None]
    return ((at >= first) & (at < last)).any(-2).float()


def cover_loss(log_attention: Tensor, target: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Cross entropy of attention to the uniform distribution over the target tokens, less its minimum; mean over the
    items that have a target, of the chosen (batch, item)."""
    size = target.sum(-1)
    valid = (size > 0).float() if chosen is None else ((size > 0) & chosen).float()
    size = size.clamp_min(1)
    loss = -(log_attention * target).sum(-1) / size - size.log()
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def others_loss(config: Config, attention: Attention, queries: Tensor, evidence: Tensor) -> Tensor:
    """-log(1 - attention on the evidence), mean over the heads without a role. Missing queries are a row's last."""
    n_valid = (queries >= 0).sum(1).tolist()
    hidden = attention_bias(queries, evidence, 0.0)
    free = torch.ones(config.n_layer, config.n_head)
    for layer, head in config.busy:
        free[layer, head] = 0.0
    loss = torch.zeros(())
    index = queries.clamp_min(0)[:, None, :, None].expand(-1, config.n_head, -1, config.head_size)
    for layer, (q, k, _) in enumerate(attention):
        chosen = (q.gather(2, index) * config.head_size**-0.5).unbind()
        for row, (n, k_row) in enumerate(zip(n_valid, k.unbind())):
            mass = evidence_mass(chosen[row][:, :n], k_row, hidden[row, :n], evidence[row, :n])
            loss = loss - ((1 - mass).clamp_min(1e-3).log() * free[layer, :, None]).sum()
    return loss / max(1, sum(n_valid)) / free.sum()


def evidence_mass(q: Tensor, k: Tensor, hidden: Tensor, evidence: Tensor) -> Tensor:
    """Attention of one row's q (head, item, channel) on the evidence (item, token): (head, item). Row by row, the
    scores of all heads stay in the processor's cache."""
    scores = q.reshape(len(k), -1, q.shape[-1]) @ k.transpose(1, 2)
    return ((scores.view(len(q), *hidden.shape) + hidden).softmax(-1) * evidence).sum(-1)
