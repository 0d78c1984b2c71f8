"""Copies of a GGUF: with heads silenced (the paper's ablation), with all weights in f32; and its weights in PyTorch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import gguf
import numpy as np
from gguf.quants import dequantize

if TYPE_CHECKING:
    from model import Model
    from specs import Config

Head = tuple[int, int]  # (layer, head)


def silence(source: Path, target: Path, heads: Iterable[Head], head_size: int = 64) -> Path:
    """A copy in which the columns of `attn_output` that belong to the heads are zero. Raises ValueError if a block of
    the quantisation is wider than a head."""
    shutil.copyfile(source, target)
    tensors = {t.name: t for t in gguf.GGUFReader(target, "r+").tensors}
    for layer, head in heads:
        tensor = tensors[f"blk.{layer}.attn_output.weight"]
        n_weight, n_byte = gguf.GGML_QUANT_SIZES[tensor.tensor_type]
        if head_size % n_weight:
            raise ValueError(f"{tensor.tensor_type.name} packs {n_weight} weights: more than one head, use q8_0 or f16")
        width = head_size // n_weight * n_byte
        rows = tensor.data.view(np.uint8).reshape(int(tensor.shape[1]), -1)  # one for each output channel
        rows[:, head * width : (head + 1) * width] = 0
    return target


def top_heads(scores: list[list[float]], share: float = 0.1) -> tuple[list[Head], list[Head]]:
    """The best tenth of all heads by score, and the others, both from the best on."""
    order = sorted(((s, (i, j)) for i, row in enumerate(scores) for j, s in enumerate(row)), reverse=True)
    heads = [head for _, head in order]
    n_top = round(share * len(heads))
    return heads[:n_top], heads[n_top:]


def weights(path: Path) -> dict[str, np.ndarray]:
    """Tensors by name, dequantised; matrices are (n_out, n_in)."""
    return {t.name: dequantize(t.data, t.tensor_type).astype(np.float32) for t in gguf.GGUFReader(path).tensors}


def dequantised(source: Path, target: Path) -> Path:
    """A copy with all weights in f32: llama.cpp then rounds no activations."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for name, array in weights(source).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def to_torch(path: Path, config: Config) -> Model:
    """The GGUF's weights in the training's model."""
    import torch
    from export import state_names
    from model import Model

    model, stored = Model(config), weights(path)
    state = {}
    for key, (name, n_head) in state_names(config).items():
        array = stored[name]
        if n_head:  # llama.cpp's RoPE pairs (2 i, 2 i + 1) back to (i, i + 32)
            array = array.reshape(n_head, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        state[key] = torch.from_numpy(array.copy())
    model.load_state_dict(state)
    return model.eval()
