"""What a user asked of the KV cache, and what that means for a loaded model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable, List, Tuple, Union

from ..engine import memory, native
from ..errors import PolicyError, UnsupportedModelError
from ..method.budget import resolve_mean_budget
from ..model.facts import ModelFacts
from . import metadata
from .attached import attached_profile
from .binding import llama_cpp
from .policy_run import PolicyRun
from .prompt import Prompt
from .protection import Protection
from .settings import CHUNKED, FULL, GUIDED, KVSettings, parse_bytes

_MARGIN_BYTES = 256 << 20  # of free memory left to everything else


class Compression:
    """A profile on its way to one model, and what holds of the text in the cache: what is protected, the budgets.

    `settings.prefill` None chooses for each prompt: "full" if its full cache fits the memory, else "guided".
    """

    def __init__(self, settings: KVSettings) -> None:
        """Raises BudgetError, PolicyError."""
        self.settings = settings
        self.profile = settings.profile
        self.attached = attached_profile(
            settings.policy, settings.profile, settings.budget
        )  # the library scores with it
        self.layers: List[native.LayerShape] = []
        self.free_bytes: Callable[[], int] = memory.free_bytes  # where the cache will lie
        self.current: List[int] = []  # budgets of the text in the cache: (n_layer,)
        self.run = PolicyRun(settings.policy, self)
        self.protection = Protection(settings.protect)
        self._check()

    def _check(self) -> None:
        """Say at once what is wrong with the arguments."""
        asked = self.settings
        self.mean_budget(0)
        asked.check_tail(self.window)
        if asked.always_bounded and not self.run.policy.evicts:
            raise PolicyError(
                f"kv_policy={asked.policy!r} evicts nothing, kv_prefill={asked.prefill!r} must: use 'full'"
            )
        if asked.prefill == GUIDED and not self.run.native:
            raise PolicyError(
                f"kv_policy={asked.policy!r} is not scored by the library, which 'guided' needs: "
                "use 'chunked' or 'full'"
            )

    def copy(self) -> Compression:
        """For other texts than the model's own: what is protected and asked is found in them anew."""
        other = copy.copy(self)
        other.run = PolicyRun(self.run.spec, other)
        other.protection = replace(self.protection, system=(), n_system=0)
        return other

    @property
    def window(self) -> int:
        """Observation window in tokens."""
        return self.attached.settings.window

    @property
    def has_sliding_windows(self) -> bool:
        """Some layers are not evictable because a sliding window bounds them already."""
        return not all(layer.evictable for layer in self.layers)

    def attach(self, model: Any) -> None:
        """Check the profile against a loaded model (llama_cpp's LlamaModel) and hang it there."""
        native.check_model(model.model)
        self.layers = native.model_layers(model.model, llama_cpp.llama_model_n_layer(model.model))
        self.profile.check(_facts(model, self.layers))
        if self.settings.prefill == GUIDED and self.has_sliding_windows:
            raise UnsupportedModelError(
                "kv_prefill='guided' runs the question ahead and takes it back, which the sliding-window layers of "
                f"{self.profile.model.architecture!r} cannot: use 'chunked' or 'full'"
            )
        settings = self.attached.settings
        native.attach(
            model.model,
            self.attached.heads_used(),
            window=settings.window,
            kernel=settings.kernel,
            pooling=settings.pooling,
            n_tail=self.settings.tail,
        )

    def mean_budget(self, n_tokens: int) -> int:
        """Tokens a layer keeps on average of a prompt of n_tokens, what is protected included. Raises BudgetError."""
        return self.mean_of(self.settings.budget, n_tokens, evicts=self.run.policy.evicts)

    def mean_of(self, budget: Union[int, float], n_tokens: int, *, evicts: bool = True) -> int:
        """As mean_budget, for another budget and a policy that may evict nothing."""
        mean = resolve_mean_budget(budget, n_tokens, window=self.window)
        if not evicts:
            return mean
        return self.protection.mean_budget(mean, self.window, is_fraction=isinstance(budget, float))

    def budgets(self, n_tokens: int) -> List[int]:
        """Tokens a layer after a prompt of n_tokens: (n_layer,), 0 where a layer is not evictable."""
        return self.run.budgets(self.mean_budget(n_tokens), n_tokens)

    @property
    def protected(self) -> Tuple[int, ...]:
        """Positions that are never evicted, ascending."""
        return tuple(self.protection.positions())

    def begin(self, prompt: Prompt) -> None:
        """A prompt begins: protect its system prompt, which is looked for in later texts as well."""
        self.protection.system = prompt.tokens[: prompt.n_system] or self.protection.system
        self.protection.begin(prompt.tokens)
        self.run.n_question = prompt.n_asked

    def choose_prefill(self, n_tokens: int, n_positions: int, stats: native.Stats) -> str:
        """How to run a prompt of n_tokens: "full", "chunked" or "guided". n_positions: of the context."""
        if self.settings.prefill is not None:
            return self.settings.prefill
        if not self.run.policy.evicts:
            return FULL
        needed = stats.kv_bytes_stock * n_tokens // n_positions
        allowed = parse_bytes(self.settings.memory)
        if allowed is None:
            allowed = stats.kv_bytes + max(self.free_bytes() - _MARGIN_BYTES, 0)
        return FULL if needed <= allowed else self.bounded_prefill

    @property
    def bounded_prefill(self) -> str:
        """How a prompt is run that must not be in memory as a whole."""
        return GUIDED if self.run.native and not self.has_sliding_windows else CHUNKED

    def guide(self, tokens: Sequence[int], n_question: int) -> List[int]:
        """The end of the prompt: the last user message of a chat, as much as fits beside a chunk of its own size.

        n_question: tokens of that message and what follows it, 0: not known.
        """
        n_most = min(self.settings.guide, (self.settings.tail - self.window) // 2)
        return list(tokens[-min(n_most, n_question or n_most) :])

    def tail_holds(self, before: native.Stats, after: native.Stats) -> bool:
        """A later prompt was decoded into the tail behind compressed tokens: no need to evict until that is full."""
        no_eviction = after.n_evictions == before.n_evictions
        return before.n_frozen > 0 and no_eviction and after.n_tail_used <= self.settings.tail

    def room(self, budgets: Sequence[int], n_frozen: int, n_tail_used: int, n_tail: int) -> int:
        """Tokens that can be decoded before a compression is due, of a text with these budgets (n_layer,).

        A layer holds its budget and the tail at most. Before the first compression of a prompt that was within its
        budgets the tail may hold that much as well.
        """
        if n_frozen or self.settings.always_bounded:
            return max(n_tail - n_tail_used, 0)
        return max(min(budget for budget in budgets if budget) + self.settings.tail - n_tail_used, 0)


def _facts(model: Any, layers: Sequence[native.LayerShape]) -> ModelFacts:
    words = metadata.read(model.model)
    return ModelFacts(
        architecture=words.get("general.architecture", ""),
        n_layer=len(layers),
        n_head=tuple(layer.n_head for layer in layers),
        n_head_kv=tuple(layer.n_head_kv for layer in layers),
        head_dim=tuple(layer.head_dim_k for layer in layers),
        name=words.get("general.name", ""),
    )
