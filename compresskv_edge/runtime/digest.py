"""Read a document once, for questions that nobody has asked yet.

Which tokens later questions will look at is guessed in two ways, half of the budget each:

    keys    tokens whose keys differ from those of the others (KeyDiff, arXiv:2504.15364), as in the policy `edge`
    a probe through the profile's semantic retrieval heads, either of
      ask     the model asks itself questions about the document and answers them, at random, many times; a token counts
              by the attention that the answers' last tokens pay to it, weighted by how sure the model is of the answer
      repeat  the model is made to repeat the document; a token counts by the largest attention that any step of the
              repetition pays to it (KVzip, arXiv:2505.23416, there with all heads)

"repeat" runs the document once more; "ask" decodes about as many tokens as the document has, one by one. With "keys"
there is no probe: the whole budget goes by keys, and the document is read once. Figures: docs/memory.md.

The document is probed chunk by chunk, each in an empty cache, so that memory does not grow with it. Then it is read
from its start, and whenever the tail is full the best tokens stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, List, Tuple

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import BudgetError, ContextError, EngineError
from ..method import scoring
from ..policies import edge
from ..policies.layer import Layer
from ..policies.selection import Candidates, Selection
from .rebase import check_positions
from .session.session import last_logits

if TYPE_CHECKING:
    from .compression import Compression
    from .llama import Llama

PROBES = ("keys", "ask", "repeat")
N_QUESTIONS = 35  # for each thousand tokens

_ASK = "\n\nQuestion:"
_ANSWER = " Answer:"
_REPEAT = "\n\nRepeat the previous context exactly:\n\n"

_PROMPT_TOKENS, _QUESTION_TOKENS, _ANSWER_TOKENS = 24, 32, 12  # at most
_TEMPERATURE = 0.75  # of questions: enough to ask about many things, cold enough to name them right
_STOP = (".", "\n")

Scores = List[npt.NDArray[np.float64]]  # (n_layer,) of (n_tokens,)


@dataclass(frozen=True)
class Plan:
    """How a document is probed. `n_questions` are for each thousand of its tokens."""

    probe: str = "ask"
    n_questions: int = N_QUESTIONS
    seed: int = 0

    @property
    def keys_share(self) -> float:
        """Part of the budget beside the window that goes by keys; 1: nothing is probed."""
        return 1.0 if self.probe == "keys" else 0.5


def digest(llm: Llama, compression: Compression, tokens: Sequence[int], plan: Plan, budgets: List[int]) -> None:
    """Leave the digest of a document in the cache: `budgets` (n_layer,) tokens.

    tokens: the document's, start token included. Raises BudgetError, ContextError, EngineError.
    """
    _check(llm, compression, tokens, plan)
    seed = llm._seed
    try:
        scores = probe_scores(llm, compression, tokens, plan)
    finally:
        llm.set_seed(seed)
        llm.reset()
    llm._ctx.kv_cache_seq_rm(-1, 0, -1)
    native.protect(llm.ctx, compression.protection.positions())
    choose = edge.two_parts(plan.keys_share, first=0)
    _read(llm, compression, tokens, budgets, lambda: _keep(llm, compression, scores, budgets, choose))


def _check(llm: Llama, compression: Compression, tokens: Sequence[int], plan: Plan) -> None:
    if compression.has_sliding_windows:
        raise EngineError("digest takes probes back, which sliding-window layers cannot: use a model without them")
    if len(tokens) <= compression.window:
        raise ContextError(f"a document of {len(tokens)} tokens is no longer than the window: nothing to digest")
    if len(tokens) >= llm.n_ctx():
        raise ContextError(f"a document of {len(tokens)} tokens does not fit n_ctx = {llm.n_ctx()}: raise n_ctx")
    if llm._rebase is None:
        check_positions(len(tokens), llm._n_positions)
    if plan.probe not in PROBES:
        raise BudgetError(f"probe is {plan.probe!r}: use one of {', '.join(PROBES)}")
    if plan.n_questions < 1:
        raise BudgetError(f"n_questions is {plan.n_questions}: ask 1 or more for each thousand tokens")
    if plan.keys_share < 1.0 and chunk_tokens(compression, plan.probe) < 2 * compression.window:
        raise BudgetError(f"kv_tail={compression.tail} leaves no room for a chunk and a probe: use 256 or more")


def chunk_tokens(compression: Compression, probe: str) -> int:
    """Tokens of a chunk that fit the tail beside its probe."""
    beside = _PROMPT_TOKENS + _QUESTION_TOKENS + _ANSWER_TOKENS
    return (compression.tail - beside) // (2 if probe == "repeat" else 1)


#
# probes
#


def probe_scores(llm: Llama, compression: Compression, tokens: Sequence[int], plan: Plan) -> Scores:
    """How much later questions will need each token, by layer. What the cache held is gone."""
    scores = [np.zeros(len(tokens)) for _ in compression.layers]
    if plan.keys_share == 1.0:
        return scores
    for start, end in chunks(llm, tokens, chunk_tokens(compression, plan.probe)):
        _start(llm, tokens, start, end)
        found = _PROBES[plan.probe](llm, compression, tokens[start:end], plan, start)
        for layer, values in enumerate(found):
            scores[layer][start:end] = values
    return scores


def _start(llm: Llama, tokens: Sequence[int], start: int, end: int) -> None:
    """A chunk alone in the cache, behind the start token."""
    llm.reset()
    _decode(llm, [tokens[0], *tokens[start:end]])


def chunks(llm: Llama, tokens: Sequence[int], size: int) -> Iterator[Tuple[int, int]]:
    """(start, end) of chunks of `size` tokens at most that end with a sentence where one ends in their second half."""
    start = 1  # behind the start token
    while start < len(tokens):
        end = min(start + size, len(tokens))
        if end < len(tokens):
            ends = [i for i in range(start + size // 2, end) if _ends_sentence(llm, tokens[i])]
            end = ends[-1] + 1 if ends else end
        yield start, end
        start = end


def _ends_sentence(llm: Llama, token: int) -> bool:
    return llm.detokenize([token]).decode(errors="replace").rstrip(" \"'")[-1:] in (".", "!", "?", "\n")


def _repeat(llm: Llama, compression: Compression, chunk: Sequence[int], plan: Plan, start: int) -> Scores:
    """Largest attention of any step of a repetition, in steps of the window, whose queries the library keeps."""
    n_kept, window = llm.n_tokens, compression.window
    best = [np.zeros(len(chunk)) for _ in compression.layers]
    text = [*_words(llm, _REPEAT), *chunk]
    for i in range(0, len(text), window):
        _decode(llm, text[i : i + window])
        for layer, values in enumerate(best):
            now = native.scores(llm.ctx, layer, "max")[1 : len(chunk) + 1]
            values[:] = np.maximum(values, now)
    _back(llm, n_kept)
    return [_pooled(compression, values) for values in best]


def _ask(llm: Llama, compression: Compression, chunk: Sequence[int], plan: Plan, start: int) -> Scores:
    """Attention at the end of answers to questions that the model asks itself."""
    n_kept = llm.n_tokens
    best = [np.zeros(len(chunk)) for _ in compression.layers]
    for i in range(math.ceil(plan.n_questions * len(chunk) / 1000)):
        _question(llm, np.random.SeedSequence([plan.seed, start, i]).generate_state(1)[0])
        sureness = _answer(llm)
        for layer, values in enumerate(best):
            now = _pooled(compression, native.scores(llm.ctx, layer)[1 : len(chunk) + 1])
            values[:] = np.maximum(values, sureness**2 * now)
        _back(llm, n_kept)
    return best


_PROBES: dict[str, Callable[[Llama, Compression, Sequence[int], Plan, int], Scores]] = {"repeat": _repeat, "ask": _ask}


def _question(llm: Llama, seed: int) -> None:
    """The model asks at random; the cache ends with the question and "Answer:" then."""
    _decode(llm, _words(llm, _ASK))
    llm.set_seed(int(seed))
    sampler = llm._init_sampler(temp=_TEMPERATURE, top_k=0, top_p=0.95, min_p=0.02)
    text = ""
    for _ in range(_QUESTION_TOKENS):
        token = sampler.sample(llm._ctx, -1)
        piece = llm.detokenize([token]).decode(errors="replace")
        if "\n" in piece or token == llm.token_eos():
            break
        text += piece
        _decode(llm, [token])
        if text.endswith(("?", _ANSWER)):
            break
    if not text.endswith(_ANSWER):
        _decode(llm, _words(llm, _ANSWER))


def _answer(llm: Llama) -> float:
    """Answer greedily; returns the geometric mean of the tokens' probabilities."""
    logs = []
    for _ in range(_ANSWER_TOKENS):
        logits = last_logits(llm).astype(np.float64)
        token = int(logits.argmax())
        logs.append(-math.log(np.exp(logits - logits[token]).sum()))
        piece = llm.detokenize([token]).decode(errors="replace")
        if token == llm.token_eos() or any(stop in piece for stop in _STOP):
            break
        _decode(llm, [token])
    return math.exp(sum(logs) / len(logs))


def _pooled(compression: Compression, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    settings = compression.attached.settings
    return scoring.pool(values, settings.kernel, settings.pooling)


def _words(llm: Llama, text: str) -> List[int]:
    return list(llm.tokenize(text.encode(), add_bos=False))


def _decode(llm: Llama, tokens: Sequence[int]) -> None:
    import llama_cpp

    llama_cpp.Llama.eval(llm, list(tokens))  # no eviction on the way


def _back(llm: Llama, n_tokens: int) -> None:
    """Take a probe out of the cache again."""
    llm._ctx.kv_cache_seq_rm(-1, n_tokens, -1)
    llm.n_tokens = n_tokens


#
# reading
#


def _read(
    llm: Llama, compression: Compression, tokens: Sequence[int], budgets: List[int], keep: Callable[[], None]
) -> None:
    """Decode the document; `keep` the best tokens so far whenever the tail is full, and at the end."""
    mode = compression.choose_prefill(len(tokens), llm.n_ctx(), native.stats(llm.ctx))
    bounded = mode != "full" or not llm._fits(len(tokens))
    if bounded:
        native.reserve(llm.ctx, budgets)
    else:
        native.prompt_begin(llm.ctx, len(tokens))
    rest = list(tokens)
    while rest:
        room = compression.tail - native.stats(llm.ctx).n_tail_used if bounded else len(rest)
        if llm._rebase is not None:
            llm._rebase.make_room(len(rest[:room]), lambda: None)  # the gaps are there: keep has just been
        _decode(llm, rest[:room])
        rest = rest[room:]
        keep()
    compression.current = budgets


def _keep(llm: Llama, compression: Compression, scores: Scores, budgets: Sequence[int], choose: Selection) -> None:
    pinned = compression.protection.positions()
    kept = []
    for layer, budget in enumerate(budgets):
        held = native.positions(llm.ctx, layer)
        n_before = len(held) - compression.window
        forced = np.isin(held[:n_before], pinned)
        value = np.where(forced, np.inf, scores[layer][held[:n_before]]).astype(np.float32)
        keys, _ = native.read_kv(llm.ctx, layer, compression.layers[layer])
        candidates = Candidates(value, forced, Layer(layer, held, {"keys": keys}))
        best = choose(candidates, min(budget - compression.window, n_before))
        kept.append(np.concatenate([best, np.arange(n_before, len(held))]))
    native.keep(llm.ctx, kept)
