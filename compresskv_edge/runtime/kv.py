"""What a user sees of the KV cache and what can be done with it: the part of `Llama` that the apps use."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import EngineError
from ..method.budget import resolve_mean_budget
from . import binding
from .binding import llama_cpp
from .compression import Compression
from .prefill import Reader
from .protection import named_positions
from .settings import FULL, Budget, KVSettings
from .tokens import CheckedTokenizer, checked
from .turn import CacheTurn

if TYPE_CHECKING:
    _Base = Any
else:
    _Base = object


@dataclass(frozen=True)
class KVStats:
    """What the KV cache holds. Sizes in bytes, times in milliseconds.

    `n_tokens_kept` has one entry a layer (n_layer,); sliding-window layers count what their window holds.
    `kv_bytes_stock` is what llama.cpp allocates for the same n_ctx, which it rounds up to a multiple of 256.
    `window_bytes` comes on top of `kv_bytes`: the queries of the observation window. Tokens before `n_frozen` are
    compressed and cannot be taken back one by one.
    """

    n_tokens_seen: int
    n_tokens_kept: Tuple[int, ...]
    kv_bytes: int
    kv_bytes_peak: int
    kv_bytes_stock: int
    n_evictions: int
    eviction_ms: float
    window_bytes: int = 0
    n_frozen: int = 0


class KVControl(_Base):
    """Part of `Llama`, above llama_cpp.Llama."""

    _turn: CacheTurn
    _reader: Optional[Reader] = None  # None: the stock cache
    _shown: Mapping[int, bytes] = {}  # control tokens that texts show, for the answer at hand

    #
    # what there is
    #

    @property
    def kv_settings(self) -> Optional[KVSettings]:
        """How the cache is compressed; None for the stock cache, without `kv_profile`."""
        return None if self._reader is None else self._reader.compression.settings

    @property
    def kv_layers(self) -> Tuple[int, ...]:
        """Layers that can evict; () for the stock cache."""
        return () if self._reader is None else tuple(self._reader.compression.run.evictable)

    def kv_stats(self) -> KVStats:
        """Tokens and bytes of the cache, now."""
        stats = native.stats(self.ctx)
        n_layer = llama_cpp.llama_model_n_layer(self.model)
        kept = tuple(len(self.kv_kept(layer)) for layer in range(n_layer))
        shared = {field: value for field, value in vars(stats).items() if field in KVStats.__dataclass_fields__}
        return KVStats(n_tokens_kept=kept, **shared)

    def kv_bytes(self) -> int:
        """Size of the cache, now; quicker than kv_stats."""
        return native.stats(self.ctx).kv_bytes

    def kv_bytes_full(self, n_tokens: int, stats: Optional[KVStats] = None) -> int:
        """What the stock cache holds of so many tokens. stats: if they are known."""
        stock = (stats or native.stats(self.ctx)).kv_bytes_stock
        return stock * n_tokens // binding.n_positions(self)

    def kv_kept(self, layer: int) -> npt.NDArray[np.int64]:
        """Positions of the tokens that a layer holds, ascending."""
        if self._reader is None:
            return np.arange(self.n_tokens, dtype=np.int64)
        return native.positions(self.ctx, layer)

    def kv_counts(self) -> npt.NDArray[np.int32]:
        """How many of `kv_layers` hold each token of the text: (n_tokens,). All 1 where no layer evicts."""
        counts = np.zeros(self.n_tokens, dtype=np.int32)
        for layer in self.kv_layers:
            kept = self.kv_kept(layer)
            counts[kept[kept < len(counts)]] += 1
        return counts if self.kv_layers else counts + 1

    def kv_share(self) -> npt.NDArray[np.float64]:
        """`kv_counts` as a share of these layers, 0 to 1: (n_tokens,)."""
        return self.kv_counts() / max(len(self.kv_layers), 1)

    def kv_budgets(self, n_tokens: int) -> Tuple[int, ...]:
        """Tokens that each layer keeps of a prompt of n_tokens: (n_layer,), 0 where a layer cannot evict."""
        return tuple(self._require("kv_budgets").budgets(n_tokens))

    def kv_prefill_of(self, n_tokens: int) -> str:
        """How a prompt of n_tokens would run: "full", "chunked" or "guided", see the constructor."""
        if self._reader is None:
            return FULL
        return self._reader.compression.choose_prefill(n_tokens, binding.n_positions(self), native.stats(self.ctx))

    #
    # what can be done
    #

    def set_kv_budget(self, kv_budget: Budget) -> int:
        """Change the budget; it holds from the next compression on.

        Returns by how many tokens a layer more it lets the present text keep, on average; negative: fewer. Raises
        BudgetError, EngineError for the stock cache.
        """
        compression = self._require("a budget")
        resolve_mean_budget(kv_budget, 0, window=compression.window)
        before = compression.mean_budget(self.n_tokens)
        compression.settings = replace(compression.settings, budget=kv_budget)
        return compression.mean_budget(self.n_tokens) - before

    def compress(self, kv_budget: Optional[Budget] = None) -> None:
        """Compress now, for callers of `eval`; `generate` and all completions do it by themselves.

        kv_budget: as in the constructor; None: the same. Every token but the observation window becomes frozen, even
        if all are kept. Raises BudgetError, EngineError.
        """
        reader = self._require_reader("compress")
        reader.check(0)  # what is behind n_tokens goes
        compression = reader.compression
        budget = compression.settings.budget if kv_budget is None else kv_budget
        mean = compression.mean_of(budget, self.n_tokens, evicts=compression.run.policy.evicts)
        with self._turn.look():
            native.protect(self.ctx, compression.protected)
            compression.run.at_prompt_end(self, mean, force=True)

    def protect(self, positions: Iterable[Union[int, range]]) -> None:
        """Never evict the tokens at these positions and ranges; they count in the budget.

        Replaces an earlier set; [] ends it. Sinks and system prompt are protected beside it (kv_protect). Raises
        ContextError for what is no position; a budget that they do not fit is a BudgetError of the next prompt.
        """
        compression = self._require("protect")
        compression.protection.named = named_positions(positions, self.n_ctx())
        native.protect(self.ctx, compression.protected)

    def kv_begin(self, n_tokens: int) -> None:
        """Forget the text, and announce a prompt of n_tokens that comes by several `eval`: its rows are allocated."""
        with self._turn.call():
            self.reset()
            binding.remove_from(self, 0)
            if self._reader is not None:
                native.prompt_begin(self.ctx, n_tokens)

    def kv_clear(self) -> None:
        """Forget the text and give the memory of a compressed cache back, of a prompt that was stopped midway as well.

        Raises what `eval` and `compress` raise; the cache is empty all the same.
        """
        with self._turn.call():
            self._clear()

    def _clear(self) -> None:
        self._forget()
        if self._reader is None:
            return
        window = self._reader.compression.window
        try:  # rows go with a compression, and a compression needs a window of tokens
            self.eval([max(self.token_bos(), 0)] * (window + 1))
            self.compress()
        finally:
            self._forget()

    def _forget(self) -> None:
        binding.clear_cache(self)
        self.reset()

    def _require(self, what: str) -> Compression:
        return self._require_reader(what).compression

    def _require_reader(self, what: str) -> Reader:
        if self._reader is None:
            raise EngineError(f"{what} needs a compressed cache: load the model with kv_profile")
        return self._reader

    #
    # tokens
    #

    @property
    def adds_bos(self) -> bool:
        """The model wants a start token before a text."""
        return binding.adds_bos(self)

    def is_end(self, token: int) -> bool:
        """Whether a token ends an answer. Raises TokenError, as all that takes token ids."""
        return binding.is_end(self, *checked([token], self.n_vocab()))

    @property
    def keeps_all_logits(self) -> bool:
        """The model was loaded with logits_all, which log-probabilities need."""
        return binding.keeps_all_logits(self)

    def takes_grammar(self, grammar: Any) -> bool:
        """Whether llama.cpp can parse a LlamaGrammar; the binding would end the process over one that it cannot."""
        return binding.grammar_parses(self, grammar)

    def tokenizer(self) -> CheckedTokenizer:
        """As llama_cpp.Llama.tokenizer."""
        return CheckedTokenizer(self)

    def pieces(self, tokens: Sequence[int]) -> List[bytes]:
        """What each token reads, special ones included."""
        return binding.pieces(self, checked(tokens, self.n_vocab()))

    def detokenize(self, tokens: List[int], prev_tokens: Optional[List[int]] = None, special: bool = False) -> bytes:
        """As llama_cpp.Llama.detokenize."""
        before = None if prev_tokens is None else checked(prev_tokens, self.n_vocab())
        tokens = checked(tokens, self.n_vocab())
        if special or not any(token in self._shown for token in tokens):
            return bytes(super().detokenize(tokens, before, special))
        text, done = b"", list(before or [])
        for is_mark, some in itertools.groupby(tokens, self._shown.__contains__):
            part = list(some)
            marks = b"".join(self._shown[token] for token in part) if is_mark else b""
            text += marks or bytes(super().detokenize(part, done or before))
            done += part
        return text
