"""Checkpoint to GGUF: `python tools/models/export.py DIR/last.pt OUT` writes OUT/NAME-{f32,f16,q8_0}.gguf."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import text
import torch
from model import Model
from specs import SPECS, Config, Spec

QUANTS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
# An answer's first token has its space, as in "Answer: Ashford": a generated turn begins with one.
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] | trim + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def load(path: Path) -> tuple[Spec, Model]:
    state = torch.load(path, weights_only=False)
    model = Model(Config(**state["config"]))
    model.load_state_dict(state["model"])
    return SPECS[state["spec"]], model.eval()


def interleave(weight: torch.Tensor, n_head: int) -> torch.Tensor:
    """Rows of Hugging Face's RoPE pairs (i, i + 32) to those that llama.cpp turns in a llama, (2 i, 2 i + 1)."""
    return weight.reshape(n_head, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def state_names(c: Config) -> dict[str, tuple[str, int]]:
    """PyTorch's names to llama.cpp's, and the number of heads whose rows are interleaved, or 0."""
    n_head, n_head_kv = (c.n_head, c.n_head_kv) if c.arch == "llama" else (0, 0)
    names = {
        "attention_norm": ("attn_norm", 0), "ffn_norm": ("ffn_norm", 0), "q.weight": ("attn_q", n_head),
        "k.weight": ("attn_k", n_head_kv), "v.weight": ("attn_v", 0), "o.weight": ("attn_output", 0),
        "gate.weight": ("ffn_gate", 0), "up.weight": ("ffn_up", 0), "down.weight": ("ffn_down", 0),
    }  # fmt: skip
    if c.qk_norm:
        names |= {"q_norm": ("attn_q_norm", 0), "k_norm": ("attn_k_norm", 0)}
    found = {"embedding.weight": ("token_embd.weight", 0), "norm": ("output_norm.weight", 0)}
    for i in range(c.n_layer):
        found |= {f"layers.{i}.{ours}": (f"blk.{i}.{theirs}.weight", n) for ours, (theirs, n) in names.items()}
    return found


def tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    state = model.state_dict()
    for key, (name, n_head) in state_names(model.config).items():
        yield name, (interleave(state[key], n_head) if n_head else state[key]).numpy()


def write_metadata(writer: gguf.GGUFWriter, c: Config, name: str) -> None:
    writer.add_name(name)
    writer.add_vocab_size(c.vocab)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.n_layer)
    writer.add_feed_forward_length(c.ffn)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_head_kv)
    writer.add_key_length(c.head_size)
    writer.add_value_length(c.head_size)
    writer.add_rope_dimension_count(c.head_size)
    writer.add_rope_freq_base(c.theta)
    writer.add_layer_norm_rms_eps(c.eps)


def write_tokenizer(writer: gguf.GGUFWriter, path: Path, pre: str) -> None:
    model = json.loads(path.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control = len(text.SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * (len(tokens) - control)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(text.BOS)
    writer.add_eos_token_id(text.EOS)
    writer.add_eot_token_id(text.END)
    writer.add_pad_token_id(text.PAD)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(spec: Spec, model: Model, tokenizer: Path, path: Path, kind: str) -> None:
    quant, file_type = QUANTS[kind]
    writer = gguf.GGUFWriter(str(path), model.config.arch)
    write_metadata(writer, model.config, spec.name)
    writer.add_file_type(file_type)
    write_tokenizer(writer, tokenizer, spec.pre)
    for key, array in tensors(model):
        stored = array.astype(np.float32)
        if array.ndim == 2 and kind != "f32":
            stored = gguf.quants.quantize(stored, quant)
        writer.add_tensor(key, stored, raw_dtype=quant if array.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(checkpoint: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    spec, model = load(checkpoint)
    for kind in QUANTS:
        path = out / f"{spec.name}-{kind}.gguf"
        write(spec, model, checkpoint.parent / "tokenizer.json", path, kind)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
