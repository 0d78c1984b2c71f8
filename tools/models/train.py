"""Trains a model: `python tools/models/train.py NAME DIR`; stopped, the same command goes on from DIR/last.pt.

Loss = next-token loss (answers weigh more) + attention losses, which fade out: `losses.py`. Every step draws its rows
from (seed, phase, step): a resumed run sees the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from pathlib import Path

import torch
from batches import Batch, make_batch
from losses import attention_losses, word_loss
from model import Model
from optimise import Muon
from specs import SPECS, Phase, Spec
from start import structured_start
from text import FileEncoder, Prose
from torch import Tensor

_PROGRESS = ("phase", "step", "n_token", "seconds")


class Run:
    """Model, optimisers and progress: all that a checkpoint holds."""

    def __init__(self, spec: Spec, directory: Path) -> None:
        self.spec, self.directory, self.config = spec, directory, spec.config
        self.model = Model(self.config)
        structured_start(self.model, spec.seed)
        named = list(self.model.named_parameters())
        self.small = [p for n, p in named if p.ndim == 1 or n.startswith("embedding")]
        self.muon = Muon([p for n, p in named if p.ndim == 2 and not n.startswith("embedding")], spec.lr)
        self.adam = torch.optim.AdamW(self.small, lr=spec.embedding_lr, betas=(0.9, 0.95), weight_decay=0.0)
        self.phase, self.step, self.n_token, self.seconds = 0, 0, 0, 0.0
        self.encoder = FileEncoder(directory / "tokenizer.json")
        self.prose = Prose(self.encoder, {directory / "prose" / f"{k}.txt": v for k, v in spec.prose.items()})

    def save(self, name: str) -> None:
        state = {
            "spec": self.spec.name,
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
        generator = torch.Generator().manual_seed(self.spec.seed + self.n_token)
        c = self.config
        keep = (torch.rand(c.n_layer, phase.n_row, c.n_head, generator=generator) >= phase.drop_head).float()
        for layer, head in c.busy:
            keep[layer, :, head] = 1.0
        return keep

    def train_step(self, phase: Phase) -> dict[str, float]:
        progress = self.step / phase.n_step
        lr, aux = (a + (b - a) * progress for a, b in (phase.lr, phase.attention_loss))
        lr *= min(1.0, (self.n_token + 1) / 1.2e5)
        seed = f"{self.spec.seed} {phase.name} {self.step}"
        batch = make_batch(seed, self.encoder, self.prose, phase, self.config.context)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, attention = self.model(batch.ids[:, :-1], batch.positions, batch.mask, self.keep_heads(phase))
        words = word_loss(logits, batch)
        losses = attention_losses(self.config, attention, batch, phase.margin)
        weighted = losses["gather"] + losses["semantic"] + losses["copy"] + losses["before"] + 2 * losses["others"]
        total = words + aux * weighted
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.small, 1.0)
        self.muon.step(lr)
        for group in self.adam.param_groups:
            group["lr"] = self.spec.embedding_lr * lr
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.n_token += batch.positions.numel()
        return dict(words=words.item(), **{k: v.item() for k, v in losses.items()}, **scores(logits, batch))

    def train(self) -> None:
        sums: dict[str, float] = {}
        clock = time.time()
        for index in range(self.phase, len(self.spec.phases)):
            phase = self.spec.phases[index]
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
            f"{self.spec.name}: {phase.name} {self.step}/{phase.n_step} exact {exact:.3f} {losses} "
            f"{self.n_token / 1e6:.2f} M tokens {self.seconds / 60:.1f} min",
            flush=True,
        )


@torch.no_grad()
def scores(logits: Tensor, batch: Batch) -> dict[str, float]:
    """Answers asked, and those whose every token is the most likely one."""
    exact = [
        torch.equal(logits[i, start - 1 : end - 1].argmax(-1), batch.ids[i, start:end])
        for i, row in enumerate(batch.answers)
        for _, start, end, _ in row
        if end <= logits.shape[1]
    ]
    return {"exact": float(sum(exact)), "asked": float(len(exact))}


def start_or_go_on(spec: Spec, directory: Path) -> Run:
    run = Run(spec, directory)
    if (directory / "last.pt").exists():
        run.load(directory / "last.pt")
    print(f"{sum(p.numel() for p in run.model.parameters()) / 1e6:.2f} M parameters, {run.config}", flush=True)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SPECS)
    parser.add_argument("directory", type=Path, help="with the prose and the tokenizer of prepare.py")
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    start_or_go_on(SPECS[a.name], a.directory).train()


if __name__ == "__main__":
    main()
