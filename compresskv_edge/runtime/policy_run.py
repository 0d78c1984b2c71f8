"""A policy at work on a model: the thin edge between the engine and the pure pieces."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable, List, Optional

import numpy as np

from ..engine import native
from ..errors import EngineError, PolicyError
from ..model.profile import Profile, Settings
from ..policies.allocation import Curves
from ..policies.layer import Bools, Indices, Layer
from ..policies.merging import Merge, Merged, merge
from ..policies.policy import Policy
from ..policies.registry import get
from .protection import with_floor
from .recorder import Needs, Recorder

if TYPE_CHECKING:
    from .compression import Compression

DEFAULT = "compresskv"
UNBOUNDED = 1 << 30  # tokens: the budget of a policy that never evicts

_log = logging.getLogger(__name__)

_SENTENCE_ENDS = (".", "!", "?", ";", "\u3002", "\uff01", "\uff1f", "\uff1b")  # the wide ones are Chinese and Japanese
_CLOSERS = " \"')]\u00bb\u201d\u2019"  # may follow an end


def attached_profile(spec: str, profile: Profile, budget: Any) -> Profile:
    """What the library is given for a policy: heads, window and pooling. A budget in tokens may shrink the window."""
    policy = get(spec)
    if policy.own_window:
        return profile.model_copy(
            update={"settings": profile.settings.model_copy(update={"window": policy.own_window})}
        )
    if not policy.native or policy.heads == "profile":
        return profile
    least = profile.settings.window
    window = policy.window_of(budget, least) if isinstance(budget, int) else max(policy.window, least)
    heads = _all_heads(profile)
    settings = Settings(
        window=window, kernel=policy.kernel, pooling=policy.pooling, n_heads=max(map(len, heads)), floor=window + 1
    )
    return profile.model_copy(update={"heads_ranked": tuple(map(tuple, heads)), "settings": settings})


def _all_heads(profile: Profile) -> List[List[int]]:
    return [list(range(profile.model.heads_in(layer))) for layer in range(profile.model.n_layer)]


class Run:
    """One policy on the cache that a `Compression` describes, with what it has recorded of the text."""

    def __init__(self, spec: str, compression: Compression, recorder: Optional[Recorder] = None) -> None:
        """recorder: one that has seen the text in the cache. Raises PolicyError."""
        self.spec = spec
        self.compression = compression
        self.policy = _with_settings(get(spec), compression.profile)
        self.mean = 0  # budget of the text at hand, tokens a layer on average
        self._recorder = recorder
        if self.policy.curves and compression.profile.error_curves is None:
            raise PolicyError(
                f"policy {spec!r} spreads its budget by error curves, which the profile lacks: measure one with "
                "'compresskv calibrate MODEL.gguf -o profile.json --curves' and give it as kv_profile"
            )

    @property
    def recorder(self) -> Recorder:
        """Made when the model's shape is known."""
        if self._recorder is None:
            self._recorder = Recorder(self.compression.layers, self.compression.window, self._needs())
        return self._recorder

    def take(self, recorder: Recorder) -> None:
        """Go on from a copy of what was recorded of the text in the cache."""
        self._recorder = recorder.copy(self._needs())

    def _needs(self) -> Needs:
        return Needs() if self.native else Needs.of([self.policy])

    @property
    def native(self) -> bool:
        """The library scores and selects: it was given this policy's heads, window and pooling."""
        policy, attached = self.policy, self.compression.attached
        source = self.compression.profile
        heads = source.heads_used() if policy.heads == "profile" else _all_heads(source)
        same = (policy.kernel, policy.pooling, heads) == (
            attached.settings.kernel,
            attached.settings.pooling,
            attached.heads_used(),
        )
        window = attached.settings.window
        return policy.native and same and (not self.mean or policy.window_of(self.mean, window) == window)

    @property
    def evictable(self) -> List[int]:
        """Layers that can evict."""
        return [il for il, layer in enumerate(self.compression.layers) if layer.evictable]

    #
    # decoding
    #

    def decode(self, llm: Any, tokens: Sequence[int], decode: Callable[[List[int]], None]) -> None:
        """Decode tokens; what the policy needs of them is recorded."""
        self.recorder.feed(llm, tokens, decode)

    def whole_text(self, llm: Any, tokens: List[int]) -> List[int]:
        """The tokens to decode: all of the text again if the policy has not seen what is in the cache."""
        if self.recorder.idle or self.recorder.n_seen == llm.n_tokens:
            return tokens
        text = [*llm._input_ids.tolist(), *tokens]
        if llm.n_tokens:
            what = "kv_policy=%r has not seen the %d tokens in the cache: all %d are run again"
            _log.warning(what, self.spec, llm.n_tokens, len(text))
        llm.reset()
        llm._ctx.kv_cache_seq_rm(-1, 0, -1)
        return text

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
    # evicting
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
        source = self._source(llm, layers)
        if self.policy.spread.measure is not None:
            budgets = self._spread(mean, held, source())
        if force or any(n > budgets[il] for il, n in zip(self.evictable, held)):
            self._keep(llm, source(), budgets)
        return budgets

    def compress(self, llm: Any, budgets: Sequence[int], n_guide: int = 0) -> None:
        """Compress what the cache holds to budgets (n_layer,).

        n_guide: tokens at its end are a question that was decoded ahead (after `llm.n_tokens`): they score the others
        and are removed; for policies that the library scores.
        """
        if self.native and self.policy.merge and self._is_over(llm, budgets, n_guide):
            self._evict(llm, native.choose(llm.ctx, budgets, n_guide), budgets, n_guide)
        elif self.native and n_guide:
            native.compress_guided(llm.ctx, budgets, n_guide)
        elif self.native:
            native.compress(llm.ctx, budgets)
        elif self.policy.evicts:
            self._keep(llm, self._source(llm)(), budgets)

    def _is_over(self, llm: Any, budgets: Sequence[int], n_guide: int = 0) -> bool:
        """A layer holds more than its budget."""
        return any(len(native.positions(llm.ctx, il)) - n_guide > budgets[il] for il in self.evictable)

    def _spread(self, mean: int, held: Sequence[int], layers: Iterable[Layer]) -> List[int]:
        compression = self.compression
        budgets = self.policy.budgets(
            layers,
            held,
            mean,
            window=compression.window,
            errors=[compression.profile.layer_errors[il] for il in self.evictable],
            settings=compression.profile.settings,
            curves=self._curves(),
            n_protected=0 if self.native else len(compression.protected),
        )
        if self.native:
            budgets = with_floor(budgets, len(compression.protected) + compression.window)
        return self._per_layer(budgets)

    def _curves(self) -> Optional[Curves]:
        found = self.compression.profile.error_curves
        if found is None:
            return None
        asked, later = found.arrays()
        return found.tokens, asked[self.evictable], later[self.evictable]

    def _per_layer(self, budgets: Sequence[int]) -> List[int]:
        by_layer = dict(zip(self.evictable, budgets))
        return [by_layer.get(il, 0) for il in range(len(self.compression.layers))]

    def _keep(self, llm: Any, layers: Iterable[Layer], budgets: Sequence[int]) -> None:
        wanted = [budgets[il] for il in self.evictable]
        mean = self._mean_of(budgets)
        by_layer = dict(zip(self.evictable, self.policy.keep_all(layers, wanted, mean, window=self.compression.window)))
        empty = np.empty(0, dtype=np.int64)
        self._evict(llm, [by_layer.get(il, empty) for il in range(len(self.compression.layers))], budgets)

    def _mean_of(self, budgets: Sequence[int]) -> int:
        """The mean budget, of a text that is still being read as well."""
        return self.mean or sum(budgets[il] for il in self.evictable) // max(len(self.evictable), 1)

    def _evict(self, llm: Any, kept: Sequence[Indices], budgets: Sequence[int], n_guide: int = 0) -> None:
        """Keep these tokens (n_layer,) (n_kept,), and with a policy that merges the others in them."""
        window = self.policy.window_of(self._mean_of(budgets), self.compression.window)
        merging = self.evictable if self.policy.merge else ()
        merged = {il: self._merge(llm, il, kept[il], window, n_guide) for il in merging}
        if n_guide and not llm._ctx.kv_cache_seq_rm(-1, llm.n_tokens, -1):
            raise EngineError(f"the question of {n_guide} tokens that ran ahead cannot be taken out of the cache again")
        native.keep(llm.ctx, kept)
        self.recorder.keep({il: kept[il] for il in self.evictable})
        for il, rows in merged.items():
            self._write(llm, il, rows)

    #
    # merging
    #

    def _merge(self, llm: Any, il: int, kept: Indices, window: int, n_guide: int) -> Merged:
        """What the kept rows of layer il become. The window, sinks and protected tokens stay as they are."""
        positions = native.positions(llm.ctx, il)
        n = len(positions) - n_guide
        keys, values = native.read_kv(llm.ctx, il, self.compression.layers[il])
        protected = np.asarray(self.compression.protected, dtype=np.int64)
        stays = np.isin(positions[kept], protected) | (positions[kept] < self.policy.sinks)
        stays[-window:] = True
        count = self.recorder.count(il, positions[:n])
        return merge(keys[:, :n], values[:, :n], kept, self.policy.merge or Merge(), fixed=stays, count=count)

    def _write(self, llm: Any, il: int, merged: Merged) -> None:
        rows = merged.changed
        shape = self.compression.layers[il]
        native.write_kv(llm.ctx, il, shape, rows, merged.k[:, rows], merged.v[:, rows])
        self.recorder.merged(il, native.positions(llm.ctx, il), merged.count)

    #
    # reading
    #

    def _source(self, llm: Any, layers: Optional[Sequence[Layer]] = None) -> Callable[[], Iterator[Layer]]:
        """Layers one after the other, so that the keys of one layer are in memory at a time."""
        if layers is not None:
            return lambda: (self._dress(layer) for layer in layers)
        self.recorder.finish(llm)
        return lambda: (self._dress(self.read_layer(llm, il)) for il in self.evictable)

    def _dress(self, layer: Layer) -> Layer:
        """What belongs to the policy and the user, not to the text."""
        profile, which = self.compression.profile, self.policy.heads
        heads: Sequence[int] = profile.heads_used()[layer.index] if which == "profile" else ()
        protected = np.isin(layer.positions, np.asarray(self.compression.protected, dtype=np.int64))
        return replace(layer, heads=heads, protected=protected)

    def read_layer(self, llm: Any, il: int) -> Layer:
        """What layer il holds, as arrays."""
        shape, record = self.compression.layers[il], self.recorder.records[il]
        positions = native.positions(llm.ctx, il)
        if self.policy.keys:
            keys, _ = native.read_kv(llm.ctx, il, shape)
        else:
            keys = np.empty((shape.n_head_kv, len(positions), 0), dtype=np.float32)
        return Layer(
            index=il,
            k=keys,
            queries=self._queries(llm, il),
            positions=positions,
            mass=record.mass if self.recorder.needs.mass else None,
            sample=record.sample if self.recorder.needs.sample else None,
            ends=sentence_ends(llm, positions) if self.policy.sentences else None,
        )

    def _queries(self, llm: Any, il: int) -> Any:
        if not self.policy.recent or llm.n_tokens < self.compression.window:
            return self.recorder.records[il].recent[:, :0]
        if not self.recorder.idle and self.recorder.needs.recent:
            return self.recorder.records[il].recent
        return native.read_queries(llm.ctx, il, self.compression.layers[il], self.compression.window)


def _with_settings(policy: Policy, profile: Profile) -> Policy:
    """CompressKV's window and pooling are the profile's; edge has a window of its own."""
    settings = profile.settings
    if policy.own_window:
        return replace(policy, kernel=settings.kernel, pooling=settings.pooling)
    if policy.heads != "profile":
        return policy
    return replace(
        policy, window=settings.window, recent=settings.window, kernel=settings.kernel, pooling=settings.pooling
    )


def sentence_ends(llm: Any, positions: Indices) -> Bools:
    """Tokens at these positions that end a sentence or a line: (n,)."""
    tokens = llm._input_ids[positions]
    ends = {int(token): _ends_sentence(llm.detokenize([int(token)], special=True)) for token in np.unique(tokens)}
    return np.asarray([ends[int(token)] for token in tokens], dtype=bool)


def _ends_sentence(piece: bytes) -> bool:
    text = piece.decode(errors="replace")
    return "\n" in text or text.rstrip(_CLOSERS).endswith(_SENTENCE_ENDS)
