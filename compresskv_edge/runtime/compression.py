"""What a user asked of the KV cache, and what that means for a loaded model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Callable, List, Optional, Tuple, Union

from ..engine import memory, native
from ..errors import BudgetError, PolicyError, UnsupportedModelError
from ..method.budget import resolve_mean_budget
from ..model.facts import ModelFacts
from ..model.profile import Profile
from .attached import attached_profile
from .policy_run import DEFAULT, PolicyRun
from .prompt import Prompt
from .protection import Protection

PREFILL_MODES = ("full", "chunked", "guided")

GUIDE_TOKENS = 256  # of the prompt's end at most run ahead of each eviction (arXiv:2408.00167: the whole question)
_MARGIN_BYTES = 256 << 20  # of free memory left to everything else
_UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


class Compression:
    """A profile on its way to one model, and the budgets of the prompt at hand.

    `prefill` None chooses for each prompt: "full" if its full cache fits `memory_bytes`, else "guided".
    """

    def __init__(
        self,
        profile: Profile,
        kv_budget: Union[int, float, None],
        kv_tail: int,
        kv_prefill: Optional[str] = None,
        kv_memory: Union[int, str, None] = None,
        kv_policy: str = DEFAULT,
        kv_protect: bool = True,
        kv_guide: int = GUIDE_TOKENS,
    ) -> None:
        self.profile = profile
        self.budget = profile.default_budget if kv_budget is None else kv_budget
        self.attached = attached_profile(kv_policy, profile, self.budget)  # what the library scores with
        self.tail = kv_tail
        self.prefill = kv_prefill
        self.memory = kv_memory
        self.layers: List[native.LayerShape] = []
        self.free_bytes: Callable[[], int] = memory.free_bytes  # where the cache will lie
        self.prompt_pending = False
        self.generating = False
        self.current: List[int] = []  # budgets of the last prompt: (n_layer,)
        self.policy = kv_policy
        self.run = PolicyRun(kv_policy, self)
        self.protection = Protection(kv_protect)
        self.guide_tokens = kv_guide
        self.n_question = 0  # tokens from the last question on, 0: not known
        self._check()

    def _check(self) -> None:
        """Say at once what is wrong with the arguments."""
        self.mean_budget(0)
        parse_bytes(self.memory)
        if isinstance(self.tail, bool) or not isinstance(self.tail, int) or self.tail < 2 * self.window:
            raise BudgetError(
                f"kv_tail is {self.tail!r}: use at least {2 * self.window} tokens, two observation windows"
            )
        if self.prefill not in (None, *PREFILL_MODES):
            raise BudgetError(f"kv_prefill is {self.prefill!r}: use {', '.join(PREFILL_MODES)} or None, which chooses")
        if self.always_bounded and not self.run.policy.evicts:
            raise PolicyError(f"kv_policy={self.policy!r} evicts nothing, kv_prefill={self.prefill!r} must: use 'full'")
        if self.prefill == "guided" and not self.run.native:
            raise PolicyError(
                f"kv_policy={self.policy!r} is not scored by the library, which 'guided' needs: use 'chunked' or 'full'"
            )
        if isinstance(self.guide_tokens, bool) or not isinstance(self.guide_tokens, int) or self.guide_tokens < 1:
            raise BudgetError(f"kv_guide is {self.guide_tokens!r}: use 1 token or more")

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
    def always_bounded(self) -> bool:
        """The cache never holds a whole prompt."""
        return self.prefill in ("chunked", "guided")

    @property
    def has_sliding_windows(self) -> bool:
        """Some layers are not evictable because a sliding window bounds them already."""
        return not all(layer.evictable for layer in self.layers)

    def attach(self, model: Any) -> None:
        """Check the profile against a loaded model (llama_cpp's LlamaModel) and hang it there."""
        import llama_cpp

        native.check_model(model.model)
        self.layers = native.model_layers(model.model, llama_cpp.llama_model_n_layer(model.model))
        self.profile.check(_facts(model, self.layers))
        if self.prefill == "guided" and self.has_sliding_windows:
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
            n_tail=self.tail,
        )

    def mean_budget(self, n_tokens: int) -> int:
        """Tokens a layer keeps on average of a prompt of n_tokens, what is protected included. Raises BudgetError."""
        return self.mean_of(self.budget, n_tokens, evicts=self.run.policy.evicts)

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
        self.prompt_pending = True
        self.protection.system = prompt.tokens[: prompt.n_system] or self.protection.system
        self.protection.begin(prompt.tokens)
        self.n_question = prompt.n_question

    def choose_prefill(self, n_tokens: int, n_ctx: int, stats: native.Stats) -> str:
        """How to run a prompt of n_tokens: "full", "chunked" or "guided"."""
        if self.prefill is not None:
            return self.prefill
        if not self.run.policy.evicts:
            return "full"
        needed = stats.kv_bytes_stock * n_tokens // n_ctx
        allowed = parse_bytes(self.memory)
        if allowed is None:
            allowed = stats.kv_bytes + max(self.free_bytes() - _MARGIN_BYTES, 0)
        if needed <= allowed:
            return "full"
        return self.bounded_prefill

    @property
    def bounded_prefill(self) -> str:
        """How a prompt is run that must not be in memory as a whole."""
        return "guided" if self.run.native and not self.has_sliding_windows else "chunked"

    def guide(self, tokens: Sequence[int]) -> List[int]:
        """The end of the prompt: the last user message of a chat, as much as fits beside a chunk of its own size."""
        n_most = min(self.guide_tokens, (self.tail - self.window) // 2)
        return list(tokens[-min(n_most, self.n_question or n_most) :])

    def tail_holds(self, before: native.Stats, after: native.Stats) -> bool:
        """A later prompt was decoded into the tail behind compressed tokens: no need to evict until that is full."""
        no_eviction = after.n_evictions == before.n_evictions
        return before.n_frozen > 0 and no_eviction and after.n_tail_used <= self.tail

    def room(self, stats: native.Stats) -> int:
        """Tokens that can be decoded before a compression is due.

        A layer holds its budget and the tail at most. Before the first compression of a prompt that was within its
        budgets the tail may hold that much as well.
        """
        if stats.n_frozen or self.always_bounded:
            limit = stats.n_tail
        else:
            limit = min(budget for budget in self.current if budget) + self.tail
        return max(limit - stats.n_tail_used, 0)


def parse_bytes(memory: Union[int, str, None]) -> Optional[int]:
    """1048576, "1MB", "2 GB" or "1.5GB" (powers of 1024) as bytes; None stays None. Raises BudgetError."""
    if memory is None or (isinstance(memory, int) and not isinstance(memory, bool) and memory > 0):
        return memory
    text = str(memory).strip().upper()
    try:
        return int(float(text[:-2]) * _UNITS[text[-2:]])
    except (KeyError, ValueError, OverflowError):
        raise BudgetError(
            f"kv_memory is {memory!r}: give bytes as an int, or a size such as '512MB' or '2GB'"
        ) from None


def _facts(model: Any, layers: Sequence[native.LayerShape]) -> ModelFacts:
    metadata = model.metadata()
    return ModelFacts(
        architecture=metadata.get("general.architecture", ""),
        n_layer=len(layers),
        n_head=tuple(layer.n_head for layer in layers),
        n_head_kv=tuple(layer.n_head_kv for layer in layers),
        head_dim=tuple(layer.head_dim_k for layer in layers),
        name=metadata.get("general.name", ""),
    )
