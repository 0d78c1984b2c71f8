"""A model that answers while its queries are written down, and whose keys and values can be read afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import CalibrationError
from ..model.facts import ModelFacts
from ..model.gguf_file import GGUF
from ..model.profile import Profile, Settings
from ..runtime.outputs import AllLogits
from ..runtime.prompt import common_prefix
from .prompts import Render, chat, find_span, plain

Float32 = npt.NDArray[np.float32]

CHUNK = 256  # tokens evaluated at once: after each, the queries of the last `window` tokens are sampled
MARGIN = 64  # positions beside prompt and answer, for what a chat template may add


@dataclass(frozen=True)
class Trace:
    """One question and its answer. queries: of the token before each generated one, by layer."""

    prompt: npt.NDArray[np.int64]  # (n_prompt,)
    generated: npt.NDArray[np.int64]  # (n_steps,)
    answer: str
    window: dict[int, Float32]  # (n_head, window, head_dim), at the end of the prompt
    queries: dict[int, Float32]  # (n_head, n_steps, head_dim); step i sees n_prompt + i rows


class Engine:
    """The GGUF on our library, full cache. Close it, or use it in a `with` block."""

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        n_ctx: int,
        n_threads: Optional[int] = None,
        use_chat: bool = True,
        llama_options: Optional[Mapping[str, Any]] = None,
    ) -> None:
        """Load the model.

        n_threads: None, one a core. use_chat: take the GGUF's chat template if it has one. llama_options: more for
        llama_cpp.Llama, say n_gpu_layers. Raises UnsupportedModelError, CalibrationError.
        """
        self.path = Path(model_path)
        self.file = GGUF.open(self.path)
        self.profile = Profile.uniform(self.path)
        threads = n_threads or os.cpu_count() or 1
        sizes = {"n_ctx": n_ctx, "n_batch": CHUNK, "n_ubatch": CHUNK, "n_threads": threads, "n_threads_batch": threads}
        options: dict[str, Any] = {"verbose": False, **(llama_options or {}), **sizes, "swa_full": True}
        self.llm = AllLogits(str(self.path), kv_profile=self.profile, kv_budget=1.0, kv_protect=False, **options)
        self.llm.scores = self.llm.scores[:0]  # of logits_all, unused here, which every saved state would copy
        whole = self.llm._require("calibration")
        whole.current = whole.budgets(n_ctx)  # what eval_all evicts to, which is nothing
        self.layers = native.model_layers(self.llm.model, self.facts.n_layer)
        self.softcap = float(self.file.metadata.get(f"{self.facts.architecture}.attn_logit_softcapping", 0.0))
        self.render = self._form(use_chat)
        self.query_sum: dict[int, npt.NDArray[np.float64]] = {}  # (n_head, head_dim), by layer
        self.n_queries = 0

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self.llm.close()

    @property
    def facts(self) -> ModelFacts:
        return self.profile.model

    @property
    def settings(self) -> Settings:
        return self.profile.settings

    def measured_layers(self) -> Iterator[int]:
        """Layers with full attention: the others are bounded by their window and need no heads."""
        return (i for i, layer in enumerate(self.layers) if layer.evictable)

    #
    # text
    #

    def count(self, text: str) -> int:
        """Tokens of a text, without a start token."""
        return len(self.llm.tokenize(text.encode(), add_bos=False, special=False))

    def overhead(self) -> int:
        """Tokens that the form of a prompt adds to a text."""
        return len(self.tokens(self.render("x")))

    def tokens(self, prompt: str) -> list[int]:
        """Tokens of a prompt. A chat template writes the special tokens; text alone has none but the first."""
        is_plain = self.render is plain
        return list(self.llm.tokenize(prompt.encode(), add_bos=is_plain, special=not is_plain))

    def span(self, tokens: Sequence[int], text: str) -> tuple[int, int]:
        """The tokens that hold a text: (first, last + 1). Raises CalibrationError if the tokenizer changed it."""
        span = find_span(self.llm.pieces(tokens), text)
        if span is None:
            raise CalibrationError(
                f"the needle {text!r:.60} is not found among the tokens: write it in plain characters"
            )
        return span

    def _form(self, use_chat: bool) -> Render:
        template = self.llm.metadata.get("tokenizer.chat_template")
        if not template or not use_chat:
            return plain
        names = [self._piece(token()) for token in (self.llm.token_bos, self.llm.token_eos)]
        return chat(str(template), *names)

    def _piece(self, token: int) -> str:
        return self.llm.detokenize([token], special=True).decode(errors="replace") if token >= 0 else ""

    #
    # running
    #

    def reserve(self, n_tokens: int) -> None:
        """Allocate the cache of the longest prompt: then every run is the same, whatever ran before it."""
        self.llm.kv_begin(n_tokens)

    def restart(self) -> None:
        """Forget the text that was read."""
        self.llm.reset()

    def read(self, tokens: Sequence[int]) -> None:
        """Evaluate a prompt; what it has in common with the last one is kept."""
        window = self.settings.window
        known = self.llm.input_ids[: self.llm.n_tokens]
        same = min(common_prefix(known, tokens), len(tokens) - window)  # the window's queries must all be new
        self.llm.n_tokens = max(same, 0)
        for at in range(self.llm.n_tokens, len(tokens), CHUNK):
            chunk = tokens[at : at + CHUNK]
            self.llm.eval(chunk)
            if len(chunk) >= window:
                self._sample_queries()

    def answer(self, n_tokens: int) -> Trace:
        """Decode greedily after a prompt that was read, up to the end of the answer or n_tokens."""
        prompt = np.array(self.llm.input_ids[: self.llm.n_tokens], dtype=np.int64)
        window = {layer: self.window(layer) for layer in self.measured_layers()}
        queries = {layer: [rows[:, -1]] for layer, rows in window.items()}
        generated = [self.next_token()]
        while len(generated) < n_tokens and not self._ends(generated[-1]):
            self.llm.eval(generated[-1:])
            for layer, rows in queries.items():
                rows.append(self.window(layer)[:, -1])
            generated.append(self.next_token())
        text = self.llm.detokenize(generated).decode(errors="replace")
        stacked = {layer: np.stack(rows, axis=1) for layer, rows in queries.items()}
        return Trace(prompt, np.array(generated, dtype=np.int64), text, window, stacked)

    def keys_and_values(self, layer: int) -> tuple[Float32, Float32]:
        """Rows of all tokens that were evaluated: (n_head_kv, n_rows, head_dim) each."""
        return native.read_kv(self.llm.ctx, layer, self.layers[layer])

    def output_projection(self, layer: int) -> tuple[Float32, Optional[Float32]]:
        """Weights (n_embd, n_head * head_dim) and bias (n_embd,) of a layer, dequantised."""
        weight = self.file.find(f"blk.{layer}.attn_output.weight")
        if weight is None:
            raise CalibrationError(
                f"{str(self.path)!r} has no tensor blk.{layer}.attn_output.weight: cannot measure errors"
            )
        return weight, self.file.find(f"blk.{layer}.attn_output.bias")

    def window(self, layer: int) -> Float32:
        """Queries of the last tokens, oldest first: (n_head, window, head_dim)."""
        return native.read_queries(self.llm.ctx, layer, self.layers[layer], self.settings.window)

    def _sample_queries(self) -> None:
        for layer in self.measured_layers():
            total = self.window(layer).sum(axis=1, dtype=np.float64)
            self.query_sum[layer] = self.query_sum.get(layer, 0.0) + total
        self.n_queries += self.settings.window

    def next_token(self) -> int:
        """The likeliest token after those that were evaluated."""
        return int(self.logits().argmax())

    def logits(self) -> Float32:
        """Of the last token, a copy: (n_vocab,)."""
        return self.llm.last_logits()

    def _ends(self, token: int) -> bool:
        if self.llm.is_end(token):
            return True
        # without a template nothing but the end of the line ends an answer
        return self.render is plain and b"\n" in self.llm.detokenize([token])
