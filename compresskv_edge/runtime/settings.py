"""What a user asks of the KV cache: the arguments kv_* of `Llama`, frozen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Union

from ..errors import BudgetError, ContextError
from ..model.profile import Profile

FULL, CHUNKED, GUIDED = PREFILL_MODES = ("full", "chunked", "guided")

TAIL_TOKENS = 512
GUIDE_TOKENS = 256  # of the prompt's end at most run ahead of each eviction (arXiv:2408.00167: the whole question)

_UNITS = {"KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}

_LARGEST = 2**31 - 1  # int32_t
_MAX_THREADS = 512  # GGML_MAX_N_THREADS
_SIZES = {
    "n_ctx": (0, _LARGEST),
    "n_batch": (1, _LARGEST),
    "n_ubatch": (0, _LARGEST),
    "n_threads": (-1, _MAX_THREADS),
    "n_threads_batch": (-1, _MAX_THREADS),
}

Budget = Union[int, float]


def check_sizes(options: Mapping[str, Any]) -> None:
    """Arguments of llama_cpp.Llama with which it would crash. Raises ContextError."""
    for name, (least, most) in _SIZES.items():
        value = options.get(name)
        if isinstance(value, int) and not least <= value <= most:
            raise ContextError(f"{name} is {value}: use {least} to {most}")


@dataclass(frozen=True)
class KVSettings:
    """The arguments kv_* of `Llama`, without the prefix; `budget` and `profile` as they were resolved."""

    profile: Profile
    budget: Budget
    tail: int = TAIL_TOKENS
    prefill: Optional[str] = None
    memory: Union[int, str, None] = None
    policy: str = "compresskv"
    rebase: bool = False
    protect: bool = True
    guide: int = GUIDE_TOKENS

    def __post_init__(self) -> None:
        """Say at once what is wrong. Raises BudgetError."""
        parse_bytes(self.memory)
        if self.prefill not in (None, *PREFILL_MODES):
            raise BudgetError(f"kv_prefill is {self.prefill!r}: use {', '.join(PREFILL_MODES)} or None, which chooses")
        if isinstance(self.guide, bool) or not isinstance(self.guide, int) or self.guide < 1:
            raise BudgetError(f"kv_guide is {self.guide!r}: use 1 token or more")

    def check_tail(self, window: int) -> None:
        """Raise BudgetError unless two observation windows of so many tokens fit the tail, and int32_t holds it."""
        if isinstance(self.tail, int) and self.tail > _LARGEST:
            raise BudgetError(f"kv_tail is {self.tail}: use {_LARGEST} tokens at most")
        if isinstance(self.tail, bool) or not isinstance(self.tail, int) or self.tail < 2 * window:
            raise BudgetError(f"kv_tail is {self.tail!r}: use at least {2 * window} tokens, two observation windows")

    @property
    def always_bounded(self) -> bool:
        """The cache never holds a whole prompt."""
        return self.prefill in (CHUNKED, GUIDED)

    def arguments(self) -> Dict[str, Any]:
        """As `Llama` takes them."""
        return {f"kv_{name}": value for name, value in vars(self).items()}


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
