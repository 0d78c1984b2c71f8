"""Rows to tensors."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import rows
import torch
from specs import TARGETS, Phase
from text import PAD, Encoder, Prose
from torch import Tensor

N_SPAN, N_ITEM = 3, 96  # spans a target at most; supervised queries of a row at most, the others are left out


@dataclasses.dataclass
class Batch:
    """ids (batch, token + 1), weights of the tokens 1.., positions (batch, token); missing items have query -1.

    gather, before: (batch, item, 1 + 2 * N_SPAN) = query, spans; reads: the same with the spans of each target in turn.
    mask: added to attention scores, or None. answers: as in `rows.Row`."""

    ids: Tensor
    weights: Tensor
    positions: Tensor
    gather: Tensor
    before: Tensor
    reads: Tensor
    mask: Tensor | None
    answers: list[list[tuple[int, int, int, rows.Spans]]]


def make_batch(seed: str, encoder: Encoder, prose: Prose, phase: Phase, context: int) -> Batch:
    r = random.Random(seed)
    n_token = phase.mix.n_token
    made = [rows.make_row(r, encoder, prose, phase.mix) for _ in range(phase.n_row)]
    positions = np.stack([rows.positions(r, row, n_token, context, phase.jump) for row in made])
    mask = eviction_mask(r, made, n_token) if r.random() < phase.evict else None
    reads = [[(q, [x for target in targets for x in flat(target)]) for q, targets in row.reads] for row in made]
    return Batch(
        torch.tensor([_fit(row.ids, n_token + 1, PAD) for row in made]),
        torch.tensor([_fit(row.weights, n_token + 1, 0.0)[1:] for row in made]),
        torch.from_numpy(positions),
        _items(r, [[(q, flat(spans)) for q, spans in row.gather] for row in made], n_token, 1),
        _items(r, [[(q, flat(spans)) for q, spans in row.before] for row in made], n_token, 1),
        _items(r, reads, n_token, len(TARGETS)),
        mask,
        [row.answers for row in made],
    )


def flat(spans: rows.Spans) -> list[int]:
    return [x for span in (*spans, *((0, 0),) * N_SPAN)[:N_SPAN] for x in span]


def _fit(items: list, size: int, filler: float) -> list:
    return items[:size] + [filler] * (size - len(items))


def _items(r: random.Random, made: list[list[tuple[int, list[int]]]], n_token: int, n_target: int) -> Tensor:
    kept = []
    for row in made:
        row = [x for x in row if x[0] < n_token]
        kept.append([[q, *spans] for q, spans in (r.sample(row, N_ITEM) if len(row) > N_ITEM else row)])
    size = max(1, *map(len, kept))
    nothing = [-1] + [0] * (2 * N_SPAN * n_target)
    return torch.tensor([row + [nothing] * (size - len(row)) for row in kept])


def eviction_mask(r: random.Random, made: list[rows.Row], n_token: int) -> Tensor:
    """(batch, token, token) to add to scores: answers see sinks or not, what answers them, the window, themselves."""
    mask = torch.full((n_token, n_token), -1e4).triu(1).repeat(len(made), 1, 1)
    for i, row in enumerate(made):
        for window, start, end, evidence in row.answers:
            n_sink, margin = r.choice((0, 1, 4)), r.randint(0, 4)
            seen = torch.zeros(n_token, dtype=torch.bool)
            seen[:n_sink] = True
            for a, b in evidence:
                seen[max(0, a - margin) : b + margin] = True
            mask[i, start:end, :window].masked_fill_(~seen[:window], -1e4)
    return mask.bfloat16()
