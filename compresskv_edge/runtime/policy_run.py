"""A policy at work on a model: the thin edge between the engine and the pure pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

import numpy as np

from ..engine import native
from ..errors import EngineError, PolicyError
from ..model.profile import Profile
from ..policies.layer import Indices, Layer
from ..policies.needs import CURVES, HEADS, NOTHING, Needs
from ..policies.registry import get
from . import ahead, binding, window
from .ahead import NOT_ASKED, Asked
from .attached import as_measured, known, scores_alike
from .inputs import read_layer
from .protection import with_floor
from .recorder import Recorder
from .row_merging import Fixed, merged_rows, write_merged

DEFAULT = "compresskv"
UNBOUNDED = 1 << 30  # tokens: the budget of a policy that never evicts

_log = logging.getLogger(__name__)


class PolicyCache(Protocol):
    """What a run has to know of the cache that it works on."""

    profile: Profile
    attached: Profile  # what the library was given

    @property
    def layers(self) -> Sequence[native.LayerShape]:
        """Of the model; empty until it is loaded."""

    @property
    def window(self) -> int:
        """Last tokens that the library keeps, and whose queries it holds."""

    @property
    def protected(self) -> Tuple[int, ...]:
        """Positions that are never evicted."""


class PolicyRun:
    """One policy on one cache, with what it has recorded of the text."""

    def __init__(self, spec: str, cache: PolicyCache, recorder: Optional[Recorder] = None) -> None:
        """recorder: one that has seen the text in the cache. Raises PolicyError."""
        self.spec = spec
        self.cache = cache
        self.policy = as_measured(get(spec), cache.profile)
        self.mean = 0  # budget of the text at hand, tokens a layer on average
        self.n_question = 0  # tokens of the prompt's question and what follows it; 0: not known
        self._recorder = recorder
        if CURVES in self.policy.needs and cache.profile.error_curves is None:
            raise PolicyError(
                f"policy {spec!r} spreads its budget by error curves, which the profile lacks: measure one with "
                "'compresskv calibrate MODEL.gguf -o profile.json --curves' and give it as kv_profile"
            )

    @property
    def recorder(self) -> Recorder:
        """Made when the model's shape is known."""
        if self._recorder is None:
            self._recorder = Recorder(self.cache.layers, self.cache.window, self._needs)
        return self._recorder

    def take(self, recorder: Recorder) -> None:
        """Go on from a copy of what was recorded of the text in the cache."""
        self._recorder = recorder.copy(self._needs)

    @property
    def _needs(self) -> Needs:
        return NOTHING if self.native else self.policy.needs

    @property
    def native(self) -> bool:
        """The library scores and selects: it was given this policy's heads, window and pooling."""
        return scores_alike(self.policy, self.cache.profile, self.cache.attached, self.mean)

    @property
    def evictable(self) -> List[int]:
        """Layers that can evict."""
        return [il for il, layer in enumerate(self.cache.layers) if layer.evictable]

    #
    # decoding
    #

    def decode(self, llm: Any, tokens: Sequence[int], decode: Callable[[List[int]], None]) -> None:
        """Decode tokens; what the policy needs of them is recorded."""
        self.recorder.feed(llm, tokens, decode)

    def whole_text(self, llm: Any, tokens: List[int]) -> List[int]:
        """The tokens to decode: of a text that the policy has not seen, as many again as it looks at, or all of it."""
        taken_up = self.taken_up(llm, tokens)
        if taken_up is not None:
            return taken_up
        text = [*binding.text_of(llm).tolist(), *tokens]
        if llm.n_tokens:
            what = "kv_policy=%r has not seen the %d tokens in the cache: all %d are run again"
            _log.info(what, self.spec, llm.n_tokens, len(text))
        llm.reset()
        binding.remove_from(llm, 0)
        return text

    def taken_up(self, llm: Any, tokens: List[int]) -> Optional[List[int]]:
        """The tokens to decode behind a text that the policy has not seen; None: it has to see all of it."""
        if self.recorder.idle or self.recorder.n_seen == llm.n_tokens:
            return tokens
        again = None if self.policy.merge else self.recorder.taken_up(llm, len(tokens))
        return None if again is None else [*again, *tokens]

    def must_not_record(self, what: str) -> None:
        """Raise PolicyError if the policy decides by queries that are not in the cache."""
        if not self.recorder.idle:
            raise PolicyError(
                f"{what}: kv_policy={self.spec!r} writes queries down, which are not in the cache: use 'compresskv' or "
                "another policy of docs/policies.md that writes none"
            )

    def must_not_merge(self, what: str) -> None:
        """Raise PolicyError if the policy mixes what it evicts into what it keeps."""
        if self.policy.merge:
            raise PolicyError(f"{what} evicts without merging: leave out '+merge' of kv_policy={self.spec!r}")

    #
    # budgets
    #

    def budgets(self, mean: int, n_tokens: int) -> List[int]:
        """Budgets of a text of n_tokens, as far as they are known before it is read: (n_layer,), 0: not evictable."""
        if not self.policy.evicts:
            return self._per_layer([UNBOUNDED] * len(self.evictable))
        if self.policy.spread.measure is not None:
            return self._per_layer([mean] * len(self.evictable))
        # a text within its budget is kept whole: its budgets are those of what is generated after it
        n_held = n_tokens if n_tokens > mean else UNBOUNDED
        return self._spread(mean, [n_held] * len(self.evictable), ())

    def _spread(self, mean: int, held: Sequence[int], layers: Iterable[Layer]) -> List[int]:
        cache, native_too = self.cache, self.native
        budgets = self.policy.budgets(
            layers,
            held,
            mean,
            window=cache.window,
            known=known(cache.profile, self.evictable),
            n_protected=0 if native_too else len(cache.protected),
        )
        if native_too:
            budgets = with_floor(budgets, len(cache.protected) + cache.window)
        return self._per_layer(budgets)

    def _per_layer(self, budgets: Sequence[int]) -> List[int]:
        by_layer = dict(zip(self.evictable, budgets))
        return [by_layer.get(il, 0) for il in range(len(self.cache.layers))]

    def _mean_of(self, budgets: Sequence[int]) -> int:
        """The mean budget, of a text that is still being read as well."""
        return self.mean or sum(budgets[il] for il in self.evictable) // max(len(self.evictable), 1)

    #
    # evicting
    #

    def at_prompt_end(
        self, llm: Any, mean: int, layers: Optional[Sequence[Layer]] = None, *, force: bool = False
    ) -> List[int]:
        """Compress if a layer is over its budget, or anyway; returns the budgets (n_layer,) to keep to from now on.

        mean: tokens a layer on average. layers: if they were read before, see `applied.read`.
        """
        self.mean = mean
        budgets = self.budgets(mean, llm.n_tokens)
        if self.native:
            if force or self._is_over(llm, budgets):
                self.compress(llm, budgets)
            return budgets
        held = [len(native.positions(llm.ctx, il)) for il in self.evictable]
        if not self.policy.evicts or (max(held, default=0) <= mean and not force):
            return budgets
        self._know_window(llm)
        source = self._source(llm, layers, answer_follows=True)
        if self.policy.spread.measure is not None:
            budgets = self._spread(mean, held, source())
        if force or any(n > budgets[il] for il, n in zip(self.evictable, held)):
            self._keep(llm, source(), budgets)
        return budgets

    def compress(self, llm: Any, budgets: Sequence[int], n_guide: int = 0, *, answer_follows: bool = False) -> None:
        """Compress what the cache holds to budgets (n_layer,).

        answer_follows: it ends with a question of `n_question` tokens.
        n_guide: tokens at its end are a question that was decoded ahead (after `llm.n_tokens`): they score the others
        and are removed; for policies that the library scores.
        """
        self._know_window(llm, n_guide)
        if self.native and self.policy.merge and self._is_over(llm, budgets, n_guide):
            self._evict(llm, dict(enumerate(native.choose(llm.ctx, budgets, n_guide))), budgets, n_guide)
        elif self.native and n_guide:
            native.compress_guided(llm.ctx, budgets, n_guide)
        elif self.native:
            native.compress(llm.ctx, budgets)
        elif self.policy.evicts:
            self._keep(llm, self._source(llm, answer_follows=answer_follows)(), budgets)

    def _know_window(self, llm: Any, n_guide: int = 0) -> None:
        """The library's queries; a recorder that writes its own down says itself what it has not seen."""
        if self.recorder.idle:
            window.know(llm, self.cache.window, n_guide, lambda tokens: binding.stock_eval(llm, tokens))

    def _is_over(self, llm: Any, budgets: Sequence[int], n_guide: int = 0) -> bool:
        """A layer holds more than its budget."""
        return any(len(native.positions(llm.ctx, il)) - n_guide > budgets[il] for il in self.evictable)

    def _keep(self, llm: Any, layers: Iterable[Layer], budgets: Sequence[int]) -> None:
        wanted, mean = [budgets[il] for il in self.evictable], self._mean_of(budgets)
        kept = self.policy.keep_all(layers, wanted, mean, window=self.cache.window)
        self._evict(llm, dict(zip(self.evictable, kept)), budgets)

    def _evict(self, llm: Any, kept: Mapping[int, Indices], budgets: Sequence[int], n_guide: int = 0) -> None:
        """Keep these tokens of each layer, and with a policy that merges the others in them."""
        merged = self._merged(llm, kept, self._mean_of(budgets), n_guide)
        if n_guide and not binding.remove_from(llm, llm.n_tokens):
            raise EngineError(f"the question of {n_guide} tokens that ran ahead cannot be taken out of the cache again")
        empty = np.empty(0, dtype=np.int64)
        native.keep(llm.ctx, [kept.get(il, empty) for il in range(len(self.cache.layers))])
        self.recorder.keep({il: kept[il] for il in self.evictable})
        for il, rows in merged.items():
            write_merged(llm, il, self.cache.layers[il], rows, self.recorder.counts)

    def _merged(self, llm: Any, kept: Mapping[int, Indices], mean: int, n_guide: int) -> Dict[int, Any]:
        """What kept rows become, by layer; the question that ran ahead is not among what joins them."""
        options = self.policy.merge
        if options is None:
            return {}
        protected = np.asarray(self.cache.protected, dtype=np.int64)
        fixed = Fixed(protected, self.policy.sinks, self.policy.window_of(mean, self.cache.window))
        held = {il: len(native.positions(llm.ctx, il)) - n_guide for il in self.evictable}
        shapes, counts = self.cache.layers, self.recorder.counts
        return {il: merged_rows(llm, il, shapes[il], kept[il], n, options, fixed, counts) for il, n in held.items()}

    #
    # reading
    #

    def _source(
        self, llm: Any, layers: Optional[Sequence[Layer]] = None, *, answer_follows: bool = False
    ) -> Callable[[], Iterator[Layer]]:
        """Layers one after the other, so that the keys of one layer are in memory at a time."""
        if layers is not None:
            return lambda: (self._dress(layer) for layer in layers)
        self.recorder.finish(llm)
        needs = self.policy.needs
        asked = self._asked(llm) if answer_follows else NOT_ASKED
        return lambda: (self._dress(read_layer(llm, il, self.recorder, needs, asked)) for il in self.evictable)

    def _asked(self, llm: Any) -> Asked:
        n = ahead.n_wanted(self.policy.needs)
        return Asked(self.n_question, ahead.draft(llm, n, self.cache.layers, self.cache.window) if n else {})

    def _dress(self, layer: Layer) -> Layer:
        """What belongs to the profile and the user, not to the text."""
        protected = np.isin(layer.positions, np.asarray(self.cache.protected, dtype=np.int64))
        inputs = dict(layer.inputs)
        if HEADS in self.policy.needs:
            inputs[HEADS.kind] = self.cache.profile.heads_used()[layer.index]
        return replace(layer, inputs=inputs, protected=protected)
