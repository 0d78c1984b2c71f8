"""The structured start: heads have first jobs, everything stays trainable."""

from __future__ import annotations

import torch
from model import Layer, Model, frequencies
from specs import Config
from torch import Tensor, nn

# The residual stream at the start: token identity, identity of the token before, words gathered around, a constant.
TOKEN, BEFORE, BAG, CONSTANT = slice(0, 128), slice(128, 192), slice(192, 255), 255
_NORMED = (2.6, 1.6, 1.4)  # gains of normed queries and keys, layers 0, 1 and the rest: as sharp as without norms


@torch.no_grad()
def structured_start(model: Model, seed: int) -> None:
    """Gives heads first jobs. A random start learned no retrieval in the tokens we can pay.

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
    for index, head, target in c.roles:
        _match_head(model.layers[index], c, head, to_before if target in ("next", "rest") else None)
    if c.qk_norm:
        for index, layer in enumerate(model.layers):
            layer.q_norm.fill_(_NORMED[min(index, 2)])
            layer.k_norm.fill_(_NORMED[min(index, 2)])


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
    """Layer 0: the first heads of both groups read the token before, the others one further back, or several."""
    for kv, project in ((0, to_before), (1, to_bag)):
        layer.v.weight[_rows(kv, config)] = 0.0
        layer.v.weight[_rows(kv, config)][: len(project), TOKEN] = 0.25 * project
    for head in range(config.n_head):
        n = head % config.group  # the first group looks at single distances, the second at ever wider surroundings
        if head == 0 or n == 0:
            _recency(layer, config, head, 1.0, range(0, 8), 5.0)
        elif head < config.group:
            _recency(layer, config, head, n + 1.0, range(0, 8), 5.0)
        else:
            _recency(layer, config, head, 0.0, range(n + 1, n + 9), 5.0)
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
