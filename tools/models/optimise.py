"""Muon (Jordan et al. 2024): momentum, then orthogonalised updates."""

from __future__ import annotations

import torch
from torch import Tensor


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
