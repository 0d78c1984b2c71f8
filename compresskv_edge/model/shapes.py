"""Shapes of usual models, to plan memory without a file at hand.

Numbers: the models' config.json on Hugging Face; a test compares the parameters that they make with
the published counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from .random_gguf import SHAPES, Shape

USUAL: Mapping[str, Shape] = {
    **SHAPES,
    **{
        s.name: s
        for s in (
            Shape("smollm2-1.7b", "llama", 24, 2048, 32, 32, 64, 8192, 49_152, 8192),
            Shape("llama-3.2-3b", "llama", 28, 3072, 24, 8, 128, 8192, 128_256, 131_072, rope_factors=True),
            Shape("llama-3.1-8b", "llama", 32, 4096, 32, 8, 128, 14_336, 128_256, 131_072, tied_embeddings=False),
            Shape("mistral-7b-v0.3", "llama", 32, 4096, 32, 8, 128, 14_336, 32_768, 32_768, tied_embeddings=False),
            Shape("phi-3.5-mini", "phi3", 32, 3072, 32, 32, 96, 8192, 32_064, 131_072, tied_embeddings=False),
            Shape("qwen2.5-3b", "qwen2", 36, 2048, 16, 2, 128, 11_008, 151_936, 32_768),
            Shape("qwen2.5-7b", "qwen2", 28, 3584, 28, 4, 128, 18_944, 152_064, 32_768, tied_embeddings=False),
            Shape("qwen2.5-14b", "qwen2", 48, 5120, 40, 8, 128, 13_824, 152_064, 32_768, tied_embeddings=False),
            Shape("qwen3-1.7b", "qwen3", 28, 2048, 16, 8, 128, 6144, 151_936, 40_960),
            Shape("qwen3-4b", "qwen3", 36, 2560, 32, 8, 128, 9728, 151_936, 40_960),
            Shape("qwen3-8b", "qwen3", 36, 4096, 32, 8, 128, 12_288, 151_936, 40_960, tied_embeddings=False),
            Shape("gemma-2-2b", "gemma2", 26, 2304, 8, 4, 256, 9216, 256_000, 8192, sliding_window=4096, swa_pattern=2),
            Shape(
                "gemma-3-4b",
                "gemma3",
                34,
                2560,
                8,
                4,
                256,
                10_240,
                262_144,
                131_072,
                sliding_window=1024,
                swa_pattern=6,
            ),
        )
    },
}

# Bits a weight of Llama-3.1-8B's files, all tensors together: llama.cpp, tools/quantize/README.md. Other models
# differ by some per cent, small ones by more, because their embeddings weigh more.
BITS_PER_WEIGHT: Mapping[str, float] = {
    "IQ4_XS": 4.4597,
    "Q2_K": 3.1593,
    "Q4_K_S": 4.6672,
    "Q4_K_M": 4.8944,
    "Q5_K_M": 5.7036,
    "Q6_K": 6.5633,
    "Q8_0": 8.5008,
    "F16": 16.0005,
}
