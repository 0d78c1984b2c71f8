"""Trains the demo model: `python tools/models/train.py DIR`; stopped, the same command goes on from DIR/last.pt.

Loss = next-token loss (answers weigh more) + attention losses, which fade from phase to phase: gather heads read the
words that a sentence is about, semantic heads the whole sentence that answers, copying heads the answer's next token,
and all others are kept off that sentence. Every step draws its rows from (seed, step): a resumed run sees the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import time
from pathlib import Path

import data
import numpy as np
import torch
import torch.nn.functional as F
from model import Config, Model, structured_start
from torch import Tensor

Attention = list[tuple[Tensor, Tensor, Tensor]]  # queries, keys, values of each layer


@dataclasses.dataclass(frozen=True)
class Phase:
    """`lr` and `attention_loss` run from the first to the second value; the rest are shares of rows or of heads."""

    name: str
    n_step: int
    n_row: int
    mix: data.Mix
    lr: tuple[float, float]
    attention_loss: tuple[float, float]
    jump: float = 0.5  # rows with jumps of position
    evict: float = 0.0  # rows whose answers see only sinks, evidence and window
    drop_head: float = 0.0  # heads without a role that are silenced, each by this chance


_WIDE = {"wild": 0.5, "story": 0.2, "noise": 0.25}
PHASES = (
    Phase("start", 300, 16, data.Mix(224, (2, 5), (2, 4), clause=0.1), (1.0, 1.0), (1.0, 1.0)),
    Phase("bind", 1000, 12, data.Mix(320, (3, 9), (2, 5), wild=0.5), (1.0, 0.5), (1.0, 0.5), 0.6, 0.2, 0.03),
    Phase("far", 175, 8, data.Mix(640, (4, 18), (3, 8), wild=0.5), (0.5, 0.45), (0.5, 0.45), 0.7, 0.3, 0.08),
    Phase("wide", 450, 8, data.Mix(768, (1, 14), (2, 8), **_WIDE), (0.5, 0.26), (0.5, 0.4), 0.7, 0.25, 0.08),
    Phase("cover", 250, 8, data.Mix(768, (1, 14), (2, 8), **_WIDE), (0.26, 0.12), (0.5, 0.3), 0.7, 0.25, 0.08),
    Phase("more", 250, 8, data.Mix(768, (1, 24), (2, 9), **_WIDE), (0.2, 0.1), (0.3, 0.3), 0.7, 0.25, 0.08),
    Phase("long", 110, 4, data.Mix(1536, (2, 40), (4, 12), **_WIDE), (0.1, 0.06), (0.3, 0.2), 0.6, 0.0, 0.08),
    Phase("longest", 45, 2, data.Mix(4096, (4, 60), (6, 16), **_WIDE), (0.06, 0.01), (0.2, 0.1), 0.3, 0.0, 0.08),
)


# ---- batches --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Batch:
    """ids (batch, token + 1), weights of the tokens 1.., positions (batch, token); items are padded with query -1.

    gather, semantic: (batch, item, 5) = query, two spans; copied: (batch, item, 2) = query, source;
    before: (batch, item, 3) = query, span."""

    ids: Tensor
    weights: Tensor
    positions: Tensor
    gather: Tensor
    semantic: Tensor
    copied: Tensor
    before: Tensor
    mask: Tensor | None
    answers: list[list[tuple[int, int, int, data.Span]]]


def make_batch(seed: str, encoder: data.Encoder, prose: data.Prose, phase: Phase, context: int) -> Batch:
    r = random.Random(seed)
    n_token = phase.mix.n_token
    rows = [data.make_row(r, encoder, prose, phase.mix) for _ in range(phase.n_row)]
    positions = np.stack([data.positions(r, row, n_token, context, phase.jump) for row in rows])
    ids = torch.tensor([_fit(row.ids, n_token + 1, data.PAD) for row in rows])
    weights = torch.tensor([_fit(row.weights, n_token + 1, 0.0)[1:] for row in rows])
    gather = [[(q, *a, *b) for q, a, b in row.gather] for row in rows]
    semantic = [[(q, *a, *b) for q, a, b in row.semantic] for row in rows]
    mask = eviction_mask(r, rows, n_token) if r.random() < phase.evict else None
    return Batch(
        ids, weights, torch.from_numpy(positions), _items(r, gather, n_token, 5), _items(r, semantic, n_token, 5),
        _items(r, [row.copied for row in rows], n_token, 2),
        _items(r, [[(q, *a) for q, a in row.before] for row in rows], n_token, 3), mask, [row.answers for row in rows],
    )  # fmt: skip


def _fit(items: list, size: int, filler: float) -> list:
    return items[:size] + [filler] * (size - len(items))


def _items(r: random.Random, rows: list, n_token: int, width: int, limit: int = 64) -> Tensor:
    kept = []
    for row in rows:
        row = [x for x in row if x[0] < n_token]
        kept.append(r.sample(row, limit) if len(row) > limit else row)
    size = max(1, *map(len, kept))
    return torch.tensor([row + [(-1,) * width] * (size - len(row)) for row in kept])


def eviction_mask(r: random.Random, rows: list[data.Row], n_token: int) -> Tensor:
    """(batch, token, token) to add to scores: answers see sinks or not, their evidence, the window and themselves."""
    mask = torch.full((n_token, n_token), -1e4).triu(1).repeat(len(rows), 1, 1)
    for i, row in enumerate(rows):
        for window, start, end, (a, b) in row.answers:
            n_sink, margin = r.choice((0, 1, 4)), r.randint(0, 4)
            mask[i, start:end, n_sink : max(0, a - margin)] = -1e4
            mask[i, start:end, min(b + margin, window) : window] = -1e4
    return mask.bfloat16()


# ---- losses ---------------------------------------------------------------------------------------------------------


def head_attention(qkv: tuple[Tensor, ...], head: int, queries: Tensor) -> Tensor:
    """log attention (batch, item, token) of one head for the given query positions (batch, item)."""
    q, k = qkv[:2]
    index = queries.clamp_min(0)[..., None].expand(-1, -1, q.shape[-1])
    chosen = q[:, head].gather(1, index)
    scores = (chosen @ k[:, head * k.shape[1] // q.shape[1]].transpose(1, 2)).float() * q.shape[-1] ** -0.5
    later = torch.arange(k.shape[2]) > queries[..., None]
    return scores.masked_fill(later, -1e9).log_softmax(-1)


def inside(spans: Tensor, n_token: int) -> Tensor:
    """(batch, item, token), 1 inside any of the spans (batch, item, 2 * n_span)."""
    at = torch.arange(n_token)
    first, last = spans[..., 0::2, None], spans[..., 1::2, None]
    return ((at >= first) & (at < last)).any(-2).float()


def cover_loss(log_attention: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross entropy of attention to the uniform distribution over the target tokens, less its minimum."""
    size = target.sum(-1).clamp_min(1)
    loss = -(log_attention * target).sum(-1) / size - size.log()
    return (loss * valid).sum() / valid.sum().clamp_min(1)


def attention_losses(config: Config, attention: Attention, batch: Batch) -> dict[str, Tensor]:
    n_token = batch.positions.shape[1]
    losses = {name: torch.zeros(()) for name in ("gather", "semantic", "copy", "before", "others", "mass")}
    valid = (batch.gather[..., 0] >= 0).float()
    words = inside(batch.gather[..., 1:], n_token)
    for layer, head in config.gather:
        log_attention = head_attention(attention[layer], head, batch.gather[..., 0])
        losses["gather"] = losses["gather"] + cover_loss(log_attention, words, valid) / len(config.gather)
    valid = (batch.semantic[..., 0] >= 0).float()
    evidence, sentence = inside(batch.semantic[..., 1:3], n_token), inside(batch.semantic[..., 3:5], n_token)
    for n, (layer, head) in enumerate(config.semantic):
        log_attention = head_attention(attention[layer], head, batch.semantic[..., 0])
        target = sentence if n == len(config.semantic) - 1 else evidence
        losses["semantic"] = losses["semantic"] + cover_loss(log_attention, target, valid) / len(config.semantic)
        mass = ((log_attention.exp() * sentence).sum(-1) * valid).sum() / valid.sum().clamp_min(1)
        losses["mass"] = losses["mass"] + mass.detach() / len(config.semantic)
    losses["copy"] = copy_loss(config, attention, batch)
    losses["before"] = before_loss(config, attention, batch)
    losses["others"] = others_loss(config, attention, batch, sentence)
    return losses


def copy_loss(config: Config, attention: Attention, batch: Batch) -> Tensor:
    loss = torch.zeros(())
    valid = (batch.copied[..., 0] >= 0).float()
    for layer, head in config.copy:
        log_attention = head_attention(attention[layer], head, batch.copied[..., 0])
        right = log_attention.gather(-1, batch.copied[..., 1:].clamp_min(0))[..., 0]
        loss = loss - (right * valid).sum() / valid.sum().clamp_min(1) / len(config.copy)
    return loss


def before_loss(config: Config, attention: Attention, batch: Batch) -> Tensor:
    """Copying heads read the whole sentence while the question ends, else eviction keeps its first token only."""
    queries, target = batch.before[..., 0], inside(batch.before[..., 1:], batch.positions.shape[1])
    valid = (queries >= 0).float()
    losses = [cover_loss(head_attention(attention[layer], head, queries), target, valid) for layer, head in config.copy]
    return torch.stack(losses).mean()


def others_loss(config: Config, attention: Attention, batch: Batch, sentence: Tensor) -> Tensor:
    """Mean of -log(1 - attention on the evidence) over heads without a role, for an eighth of the queries."""
    chosen = torch.arange(0, batch.semantic.shape[1], 8)
    queries, sentence = batch.semantic[:, chosen, 0], sentence[:, None, chosen]
    valid = (queries >= 0).float()[:, None]
    free = torch.ones(config.n_layer, config.n_head)
    for layer, head in (*config.semantic, *config.copy):
        free[layer, head] = 0.0
    loss = torch.zeros(())
    for layer, qkv in enumerate(attention):
        mass = (all_heads_attention(qkv, queries) * sentence).sum(-1)  # (batch, head, item)
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


def word_loss(logits: Tensor, batch: Batch) -> Tensor:
    loss = F.cross_entropy(logits.flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none")
    return (loss * batch.weights.flatten()).sum() / batch.weights.sum()


# ---- optimiser ------------------------------------------------------------------------------------------------------


def orthogonalise(g: Tensor, n_step: int = 5) -> Tensor:
    """Newton-Schulz iteration of Muon (Jordan et al. 2024), batched."""
    x = g.bfloat16()
    if tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / (x.float().norm(dim=(1, 2), keepdim=True).to(x.dtype) + 1e-7)
    for _ in range(n_step):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if tall else x).float()


class Muon:
    """Momentum, then orthogonalised updates, for the matrices of the layers."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.03) -> None:
        self.lr, self.momentum, self.decay = lr, momentum, decay
        self.groups: dict[tuple[int, ...], list[Tensor]] = {}
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {k: torch.zeros(len(v), *k) for k, v in self.groups.items()}

    @torch.no_grad()
    def step(self, factor: float) -> None:
        lr = self.lr * factor
        for shape, group in self.groups.items():
            g = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            buffer = self.buffers[shape].lerp_(g, 1 - self.momentum)
            updates = orthogonalise(g.lerp(buffer, self.momentum)) * max(1, shape[0] / shape[1]) ** 0.5
            for p, update in zip(group, updates):
                p.mul_(1 - lr * self.decay).add_(update, alpha=-lr)


# ---- the run --------------------------------------------------------------------------------------------------------


_PROGRESS = ("phase", "step", "n_token", "seconds")


class Run:
    """Model, optimisers and progress: all that a checkpoint holds."""

    def __init__(self, directory: Path, seed: int, lr: float, embedding_lr: float) -> None:
        self.directory, self.seed, self.embedding_lr = directory, seed, embedding_lr
        self.config = Config()
        self.model = Model(self.config)
        structured_start(self.model, seed)
        named = list(self.model.named_parameters())
        self.small = [p for n, p in named if p.ndim == 1 or n.startswith("embedding")]
        self.muon = Muon([p for n, p in named if p.ndim == 2 and not n.startswith("embedding")], lr)
        self.adam = torch.optim.AdamW(self.small, lr=embedding_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.phase, self.step, self.n_token, self.seconds = 0, 0, 0, 0.0
        self.encoder = data.Encoder(directory / "tokenizer.json")
        self.prose = data.Prose(self.encoder, directory / "train.txt")

    def save(self, name: str) -> None:
        state = {
            "config": dataclasses.asdict(self.config),
            "model": self.model.state_dict(),
            "muon": self.muon.buffers,
            "adam": self.adam.state_dict(),
            **{name: getattr(self, name) for name in _PROGRESS},
        }
        torch.save(state, self.directory / "new.pt")
        os.replace(self.directory / "new.pt", self.directory / name)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.muon.buffers = state["muon"]
        self.adam.load_state_dict(state["adam"])
        for name in _PROGRESS:
            setattr(self, name, state[name])

    def keep_heads(self, phase: Phase) -> Tensor | None:
        """(layer, batch, head) of 0 and 1: heads without a role drop out, so that none of them becomes vital."""
        if not phase.drop_head:
            return None
        generator = torch.Generator().manual_seed(self.seed + self.n_token)
        c = self.config
        keep = (torch.rand(c.n_layer, phase.n_row, c.n_head, generator=generator) >= phase.drop_head).float()
        for layer, head in (*c.semantic, *c.copy):
            keep[layer, :, head] = 1.0
        return keep

    def train_step(self, phase: Phase) -> dict[str, float]:
        progress = self.step / phase.n_step
        lr, aux = (a + (b - a) * progress for a, b in (phase.lr, phase.attention_loss))
        lr *= min(1.0, (self.n_token + 1) / 1.2e5)
        seed = f"{self.seed} {phase.name} {self.step}"
        batch = make_batch(seed, self.encoder, self.prose, phase, self.config.context)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, attention = self.model(batch.ids[:, :-1], batch.positions, batch.mask, self.keep_heads(phase))
        words = word_loss(logits, batch)
        losses = attention_losses(self.config, attention, batch)
        total = words + aux * (
            losses["gather"] + losses["semantic"] + losses["copy"] + losses["before"] + 2 * losses["others"]
        )
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.small, 1.0)
        self.muon.step(lr)
        for group in self.adam.param_groups:
            group["lr"] = self.embedding_lr * lr
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.n_token += batch.positions.numel()
        return dict(words=words.item(), **{k: v.item() for k, v in losses.items()}, **scores(logits, batch))

    def train(self) -> None:
        sums: dict[str, float] = {}
        clock = time.time()
        for index in range(self.phase, len(PHASES)):
            phase = PHASES[index]
            while self.step < phase.n_step:
                stats = self.train_step(phase)
                self.step += 1
                for k, v in {**stats, "n": 1.0}.items():
                    sums[k] = sums.get(k, 0.0) + v
                if self.step % 25 == 0 or self.step == phase.n_step:
                    self.seconds, clock = self.seconds + time.time() - clock, time.time()
                    self.report(phase, sums)
                    sums = {}
                    self.save("last.pt")
            self.phase, self.step = index + 1, 0
            self.save(f"{phase.name}.pt")
            self.save("last.pt")

    def report(self, phase: Phase, sums: dict[str, float]) -> None:
        n = sums.pop("n")
        exact = sums.pop("exact") / max(1.0, sums.pop("asked"))
        losses = " ".join(f"{k} {v / n:.3f}" for k, v in sums.items())
        print(
            f"{phase.name} {self.step}/{phase.n_step} exact {exact:.3f} {losses} {self.n_token / 1e6:.2f} M tokens "
            f"{self.seconds / 60:.1f} min",
            flush=True,
        )


@torch.no_grad()
def scores(logits: Tensor, batch: Batch) -> dict[str, float]:
    """Answers asked, and those whose every token is the most likely one."""
    right = logits.argmax(-1) == batch.ids[:, 1:]
    exact = [
        bool(right[i, start - 1 : end - 1].all())
        for i, row in enumerate(batch.answers)
        for _, start, end, _ in row
        if end <= right.shape[1]
    ]
    return {"exact": float(sum(exact)), "asked": float(len(exact))}


def start_or_go_on(directory: Path, seed: int = 3, lr: float = 0.02, embedding_lr: float = 4e-3) -> Run:
    """lr: Muon, matrices; embedding_lr: AdamW, embeddings and norms."""
    run = Run(directory, seed, lr, embedding_lr)
    if (directory / "last.pt").exists():
        run.load(directory / "last.pt")
    print(f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M parameters, {run.config}", flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="with train.txt and tokenizer.json of prepare.py")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    start_or_go_on(a.directory).train()


if __name__ == "__main__":
    main()
