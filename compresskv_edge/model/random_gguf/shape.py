"""Sizes of models: real ones by name, tiny ones for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sizes of a model. Lengths are in tokens or elements; zero means that the model has none of it."""

    name: str
    arch: str  # llama.cpp's name: mistral, for one, is "llama"
    n_layer: int
    n_embd: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_ff: int
    n_vocab: int
    n_ctx_train: int
    rope_theta: float = 10_000.0
    tied_embeddings: bool = True
    rope_factors: bool = False  # Llama 3's frequency factors, Phi-3's long and short ones
    sliding_window: int = 0  # tokens
    swa_pattern: int = 0  # every n-th layer attends to everything, the others to the window
    rope_theta_swa: float = 10_000.0

    @property
    def untied_embeddings(self) -> bool:
        return not self.tied_embeddings

    def full_attention_layers(self) -> tuple[int, ...]:
        """Layers whose attention reaches every token; of an interleaved model, the last of each `swa_pattern`."""
        step = self.swa_pattern or 1
        return tuple(range(step - 1, self.n_layer, step))


SHAPES: Mapping[str, Shape] = {
    s.name: s
    for s in (
        Shape("qwen2.5-0.5b", "qwen2", 24, 896, 14, 2, 64, 4864, 151_936, 32_768, 1e6),
        Shape("qwen2.5-1.5b", "qwen2", 28, 1536, 12, 2, 128, 8960, 151_936, 32_768, 1e6),
        Shape("qwen3-0.6b", "qwen3", 28, 1024, 16, 8, 128, 3072, 151_936, 40_960, 1e6),
        Shape("llama-3.2-1b", "llama", 16, 2048, 32, 8, 64, 8192, 128_256, 131_072, 5e5, rope_factors=True),
        Shape(
            "gemma-3-1b", "gemma3", 26, 1152, 4, 1, 256, 6912, 262_144, 32_768, 1e6, sliding_window=512, swa_pattern=6
        ),
    )
}  # fmt: skip


def _tiny(name: str, *, arch: str = "", n_layer: int = 3, n_embd: int = 128, n_head: int = 4, n_head_kv: int = 2,
          head_dim: int = 32, n_ff: int = 192, **more: Any) -> Shape:  # fmt: skip
    return Shape(f"tiny-{name}", arch or name, n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, 320, 8192, **more)


TINY_SHAPES: Mapping[str, Shape] = {
    s.name.removeprefix("tiny-"): s
    for s in (
        _tiny("llama", rope_factors=True),
        _tiny("mistral", arch="llama", n_embd=192, n_head=6, n_head_kv=2, tied_embeddings=False, rope_theta=1e6),
        _tiny("qwen2", rope_theta=1e6),
        _tiny("qwen3", n_embd=96, n_head_kv=1, head_dim=64, rope_theta=1e6),
        _tiny("phi3", n_head_kv=4, tied_embeddings=False, rope_factors=True),
        _tiny("gpt2", n_head_kv=4),
        _tiny("gemma2", n_layer=4, sliding_window=64, swa_pattern=2),
        _tiny("gemma3", n_layer=12, n_embd=96, n_head_kv=1, rope_theta=1e6, sliding_window=64, swa_pattern=6),
        _tiny("bloom", n_head_kv=4),
        _tiny("mamba", n_head=0, n_head_kv=0, head_dim=0, n_ff=0),
        _tiny("jamba", n_layer=4),
        _tiny("deepseek2"),
        _tiny("bert", n_head_kv=4),
        _tiny("t5", n_head_kv=4),
    )
}
