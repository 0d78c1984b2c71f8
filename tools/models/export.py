"""Checkpoint to GGUF: `python tools/models/export.py DIR/last.pt OUT NAME` writes OUT/NAME-{f32,f16,q8_0}.gguf."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import data
import gguf
import numpy as np
import torch
from model import Config, Model

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


def load(path: Path) -> Model:
    state = torch.load(path, weights_only=False)
    model = Model(Config(**state["config"]))
    model.load_state_dict(state["model"])
    return model.eval()


def interleave(weight: torch.Tensor, n_head: int) -> torch.Tensor:
    """Rows of Hugging Face's RoPE pairs (i, i + 32) to llama.cpp's (2 i, 2 i + 1)."""
    return weight.reshape(n_head, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tensors(model: Model) -> Iterator[tuple[str, np.ndarray]]:
    c = model.config
    yield "token_embd.weight", model.embedding.weight.detach().numpy()
    yield "output_norm.weight", model.norm.detach().numpy()
    for i, layer in enumerate(model.layers):
        weights = {
            "attn_norm": layer.attention_norm, "ffn_norm": layer.ffn_norm,
            "attn_q": interleave(layer.q.weight, c.n_head), "attn_k": interleave(layer.k.weight, c.n_head_kv),
            "attn_v": layer.v.weight, "attn_output": layer.o.weight,
            "ffn_gate": layer.gate.weight, "ffn_up": layer.up.weight, "ffn_down": layer.down.weight,
        }  # fmt: skip
        for name, weight in weights.items():
            yield f"blk.{i}.{name}.weight", weight.detach().numpy()


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


def write_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    model = json.loads(path.read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    control = len(data.SPECIAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    types = [gguf.TokenType.CONTROL] * control + [gguf.TokenType.NORMAL] * (len(tokens) - control)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_bos_token_id(data.BOS)
    writer.add_eos_token_id(data.EOS)
    writer.add_eot_token_id(data.END)
    writer.add_pad_token_id(data.PAD)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write(model: Model, tokenizer: Path, path: Path, name: str, kind: str) -> None:
    quant, file_type = QUANTS[kind]
    writer = gguf.GGUFWriter(str(path), "llama")
    write_metadata(writer, model.config, name)
    writer.add_file_type(file_type)
    write_tokenizer(writer, tokenizer)
    for key, array in tensors(model):
        stored = array.astype(np.float32)
        if array.ndim == 2 and kind != "f32":
            stored = gguf.quants.quantize(stored, quant)
        writer.add_tensor(key, stored, raw_dtype=quant if array.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(checkpoint: Path, out: Path, name: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model = load(checkpoint)
    for kind in QUANTS:
        path = out / f"{name}-{kind}.gguf"
        write(model, checkpoint.parent / "tokenizer.json", path, name, kind)
        print(path.name, path.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
