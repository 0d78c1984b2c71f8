"""Any policy on one prompt that was decoded once: what an evaluation needs.

seen = applied.read(llm, tokens, ["h2o", "snapkv"])
state = llm.save_state()
for name in ("h2o", "snapkv"):
    llm.load_state(state)
    applied.apply(llm, name, 256, seen)
    ...  # llm.sample(), llm.eval([token]), as always
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, List, Optional, Tuple, Union

from ..engine import native
from ..errors import PolicyError
from ..policies.layer import Array, Layer
from ..policies.needs import KEYS, covers, union
from ..policies.registry import get, names
from . import ahead, binding
from .ahead import NOT_ASKED, Asked
from .inputs import of_text, read_layer
from .policy_run import PolicyRun
from .prefill import Generation
from .prompt import Prompt
from .recorder import Recorder


@dataclass(frozen=True)
class Seen:
    """A prompt's keys and what was recorded of its queries; never changed, and of no use for another prompt."""

    tokens: Tuple[int, ...]
    layers: Tuple[Layer, ...]  # that can evict
    recorder: Recorder


def read(
    llm: Any, tokens: Sequence[int], policies: Optional[Iterable[str]] = None, *, n_question: Optional[int] = 0
) -> Seen:
    """Decode a prompt from its start and record what some policies need of it (None: all of them).

    Nothing is evicted before the next `apply`.

    llm: a compresskv_edge.Llama with a profile, kv_prefill="full" or None. n_question: last tokens that are the
    question and what follows it, 0: not known, None: there is none yet. Raises PolicyError, ContextError.
    """
    compression = llm._require("applied.read")
    prefill = compression.settings.prefill
    if compression.settings.always_bounded:
        raise PolicyError(f"kv_prefill={prefill!r} never holds a whole prompt: open the model with 'full'")
    wanted = [get(name).needs for name in (names() if policies is None else policies)]
    needs = of_text(union([*wanted, frozenset({KEYS})]))
    llm.reset()
    return _read(llm, tokens, Recorder(compression.layers, compression.window, needs), n_question)


def read_on(llm: Any, tokens: Sequence[int], seen: Seen, *, n_question: int = 0) -> Seen:
    """Decode what follows the prompt of `seen`, whose state was restored: what `read` of both would have seen.

    For the questions about one document. Raises PolicyError if the cache holds another text.
    """
    _check_text(llm, seen)
    return _read(llm, tokens, seen.recorder.copy(seen.recorder.needs), n_question)


def _read(llm: Any, tokens: Sequence[int], recorder: Recorder, n_question: Optional[int]) -> Seen:
    compression = llm._require("applied.read")
    run = PolicyRun("full", compression, recorder)
    compression.run, llm._reader.generation = run, None
    llm.eval(list(tokens))
    recorder.finish(llm)
    kept = recorder.copy(recorder.needs)
    asked = NOT_ASKED if n_question is None else Asked(n_question, _drafted(llm, kept))
    layers = tuple(read_layer(llm, il, kept, kept.needs, asked) for il in run.evictable)
    return Seen(tuple(binding.text_of(llm).tolist()), layers, kept)


def _drafted(llm: Any, recorder: Recorder) -> Mapping[int, Array]:
    """For policies that want a draft of the answer. Afterwards the cache is what it was, to the bit."""
    n = ahead.n_wanted(recorder.needs)
    if not n:
        return {}
    compression = llm._require("applied.read")
    state, logits = llm.save_state(), llm.last_logits()
    drafted = ahead.draft(llm, n, compression.layers, compression.window)
    llm.load_state(state)
    llm._restored_logits = logits
    return drafted


def serves(seen: Seen, names: Iterable[str]) -> bool:
    """What was recorded is all that these policies need."""
    return covers(seen.recorder.needs, of_text(union([get(name).needs for name in names])))


def apply(llm: Any, policy: str, budget: Union[int, float], seen: Optional[Seen] = None) -> List[int]:
    """Evict what the policy does not keep of the prompt in the cache.

    From then on `llm.eval` evicts by this policy whenever the tail is full, and `llm.generate` uses it as well.

    policy: as `get`. budget: tokens a layer on average (int), or that as a fraction of the prompt. seen: of `read`;
    only policies that need no more than keys and the library's window work without it. Returns the number of tokens
    that each layer holds now: (n_layer,). Raises PolicyError, BudgetError, EngineError.
    """
    compression = llm._require("applied.apply")
    run = PolicyRun(policy, compression)
    run.mean = compression.mean_of(budget, llm.n_tokens, evicts=run.policy.evicts)
    layers = None
    if not run.native:
        layers = _layers_of(llm, run, policy, seen)
        if seen is not None:
            run.take(seen.recorder)
    compression.run, llm._reader.generation = run, Generation(Prompt(()), is_read=True)
    compression.current = run.at_prompt_end(llm, run.mean, layers)
    return [len(native.positions(llm.ctx, il)) for il in range(len(compression.layers))]


def evict(llm: Any, *, n_question: int = 0) -> List[int]:
    """Compress what the cache holds now, by the policy and to the budgets of the last `apply`: (n_layer,) tokens held.

    For the end of a later turn's question, of n_question tokens (0: not known); between two calls of this `llm.eval`
    does it whenever the tail is full.
    """
    compression = llm._require("applied.evict")
    if not compression.current:
        raise PolicyError("no policy was applied to this text yet: call applied.apply first")
    compression.run.n_question = n_question
    compression.run.compress(llm, compression.current, answer_follows=True)
    return [len(native.positions(llm.ctx, il)) for il in range(len(compression.layers))]


def _layers_of(llm: Any, run: PolicyRun, name: str, seen: Optional[Seen]) -> Optional[Sequence[Layer]]:
    needs = of_text(run.policy.needs)
    if seen is None:
        if not Recorder(run.cache.layers, run.cache.window, needs).idle:
            raise PolicyError(f"policy {name!r} looks at queries that are gone: read the prompt with applied.read")
        return None
    _check_text(llm, seen)
    if not covers(seen.recorder.needs, needs):
        raise PolicyError(f"policy {name!r} needs more than was recorded: name it in applied.read")
    return seen.layers


def _check_text(llm: Any, seen: Seen) -> None:
    if list(seen.tokens) != binding.text_of(llm).tolist():
        raise PolicyError(
            f"the cache holds {llm.n_tokens} tokens, not the {len(seen.tokens)} of the prompt that was read: "
            "restore its state first"
        )
