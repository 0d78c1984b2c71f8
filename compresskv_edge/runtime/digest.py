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
from typing import Callable, Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from ..engine import native
from ..errors import BudgetError, ContextError, EngineError
from ..method import scoring
from ..policies import edge
from ..policies.layer import Layer
from ..policies.selection import Candidates, Selection
from . import binding
from .binding import LoadedModel
from .compression import Compression
from .prefill import Reader, read_bounded
from .settings import FULL

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
class Probing:
    """How a document is probed. `n_questions` are for each thousand of its tokens."""

    probe: str = "ask"
    n_questions: int = N_QUESTIONS
    seed: int = 0

    @property
    def keys_share(self) -> float:
        """Part of the budget beside the window that goes by keys; 1: nothing is probed."""
        return 1.0 if self.probe == "keys" else 0.5


def digest(reader: Reader, tokens: Sequence[int], plan: Probing, budgets: List[int]) -> None:
    """Leave the digest of a document in the cache: `budgets` (n_layer,) tokens.

    tokens: the document's, start token included. Raises BudgetError, ContextError, EngineError.
    """
    llm = reader.llm
    _check(reader, tokens, plan)
    seed = binding.seed(llm)
    try:
        scores = probe_scores(reader, tokens, plan)
    finally:
        llm.set_seed(seed)
        llm.reset()
    binding.remove_from(llm, 0)
    native.protect(llm.ctx, reader.compression.protected)
    choose = edge.two_parts(plan.keys_share, first=0)
    _read(reader, tokens, budgets, lambda: _keep(llm, reader.compression, scores, budgets, choose))


def _check(reader: Reader, tokens: Sequence[int], plan: Probing) -> None:
    llm, compression = reader.llm, reader.compression
    if compression.has_sliding_windows:
        raise EngineError("digest takes probes back, which sliding-window layers cannot: use a model without them")
    if len(tokens) <= compression.window:
        raise ContextError(f"a document of {len(tokens)} tokens is no longer than the window: nothing to digest")
    if len(tokens) >= llm.n_ctx():
        raise ContextError(f"a document of {len(tokens)} tokens does not fit n_ctx = {llm.n_ctx()}: raise n_ctx")
    reader.positions.check(len(tokens))
    if plan.probe not in PROBES:
        raise BudgetError(f"probe is {plan.probe!r}: use one of {', '.join(PROBES)}")
    if plan.n_questions < 1:
        raise BudgetError(f"n_questions is {plan.n_questions}: ask 1 or more for each thousand tokens")
    if plan.keys_share < 1.0 and chunk_tokens(compression, plan.probe) < 2 * compression.window:
        raise BudgetError(
            f"kv_tail={compression.settings.tail} leaves no room for a chunk and a probe: use 256 or more"
        )


def chunk_tokens(compression: Compression, probe: str) -> int:
    """Tokens of a chunk that fit the tail beside its probe."""
    beside = _PROMPT_TOKENS + _QUESTION_TOKENS + _ANSWER_TOKENS
    return (compression.settings.tail - beside) // (2 if probe == "repeat" else 1)


#
# probes
#


def probe_scores(reader: Reader, tokens: Sequence[int], plan: Probing) -> Scores:
    """How much later questions will need each token, by layer. What the cache held is gone."""
    scores = [np.zeros(len(tokens)) for _ in reader.compression.layers]
    if plan.keys_share == 1.0:
        return scores
    for start, end in chunks(reader.llm, tokens, chunk_tokens(reader.compression, plan.probe)):
        reader.llm.reset()
        reader.decode([tokens[0], *tokens[start:end]])  # a chunk alone in the cache, behind the start token
        found = _PROBES[plan.probe](reader, tokens[start:end], plan, start)
        for layer, values in enumerate(found):
            scores[layer][start:end] = values
    return scores


def chunks(llm: LoadedModel, tokens: Sequence[int], size: int) -> Iterator[Tuple[int, int]]:
    """(start, end) of chunks of `size` tokens at most that end with a sentence where one ends in their second half."""
    start = 1  # behind the start token
    while start < len(tokens):
        end = min(start + size, len(tokens))
        if end < len(tokens):
            ends = [i for i in range(start + size // 2, end) if _ends_sentence(llm, tokens[i])]
            end = ends[-1] + 1 if ends else end
        yield start, end
        start = end


def _ends_sentence(llm: LoadedModel, token: int) -> bool:
    return llm.detokenize([token]).decode(errors="replace").rstrip(" \"'")[-1:] in (".", "!", "?", "\n")


def _repeat(reader: Reader, chunk: Sequence[int], plan: Probing, start: int) -> Scores:
    """Largest attention of any step of a repetition, in steps of the window, whose queries the library keeps."""
    llm, window = reader.llm, reader.compression.window
    n_kept = llm.n_tokens
    best = [np.zeros(len(chunk)) for _ in reader.compression.layers]
    text = [*_words(llm, _REPEAT), *chunk]
    for i in range(0, len(text), window):
        reader.decode(text[i : i + window])
        for layer, values in enumerate(best):
            now = native.scores(llm.ctx, layer, "max")[1 : len(chunk) + 1]
            values[:] = np.maximum(values, now)
    _back(llm, n_kept)
    return [_pooled(reader.compression, values) for values in best]


def _ask(reader: Reader, chunk: Sequence[int], plan: Probing, start: int) -> Scores:
    """Attention at the end of answers to questions that the model asks itself."""
    llm, compression = reader.llm, reader.compression
    n_kept = llm.n_tokens
    best = [np.zeros(len(chunk)) for _ in compression.layers]
    for i in range(math.ceil(plan.n_questions * len(chunk) / 1000)):
        _question(reader, np.random.SeedSequence([plan.seed, start, i]).generate_state(1)[0])
        sureness = _answer(reader)
        for layer, values in enumerate(best):
            now = _pooled(compression, native.scores(llm.ctx, layer)[1 : len(chunk) + 1])
            values[:] = np.maximum(values, sureness**2 * now)
        _back(llm, n_kept)
    return best


_PROBES: Dict[str, Callable[[Reader, Sequence[int], Probing, int], Scores]] = {"repeat": _repeat, "ask": _ask}


def _question(reader: Reader, seed: int) -> None:
    """The model asks at random; the cache ends with the question and "Answer:" then."""
    llm = reader.llm
    reader.decode(_words(llm, _ASK))
    llm.set_seed(int(seed))
    sampler = binding.sampler(llm, temp=_TEMPERATURE, top_k=0, top_p=0.95, min_p=0.02)
    text = ""
    for _ in range(_QUESTION_TOKENS):
        token = binding.sample(llm, sampler)
        piece = llm.detokenize([token]).decode(errors="replace")
        if "\n" in piece or token == llm.token_eos():
            break
        text += piece
        reader.decode([token])
        if text.endswith(("?", _ANSWER)):
            break
    if not text.endswith(_ANSWER):
        reader.decode(_words(llm, _ANSWER))


def _answer(reader: Reader) -> float:
    """Answer greedily; returns the geometric mean of the tokens' probabilities."""
    llm, logs = reader.llm, []
    for _ in range(_ANSWER_TOKENS):
        logits = binding.last_logits(llm).astype(np.float64)
        token = int(logits.argmax())
        logs.append(-math.log(np.exp(logits - logits[token]).sum()))
        piece = llm.detokenize([token]).decode(errors="replace")
        if token == llm.token_eos() or any(stop in piece for stop in _STOP):
            break
        reader.decode([token])
    return math.exp(sum(logs) / len(logs))


def _pooled(compression: Compression, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    settings = compression.attached.settings
    return scoring.pool(values, settings.kernel, settings.pooling)


def _words(llm: LoadedModel, text: str) -> List[int]:
    return list(llm.tokenize(text.encode(), add_bos=False))


def _back(llm: LoadedModel, n_tokens: int) -> None:
    """Take a probe out of the cache again."""
    binding.remove_from(llm, n_tokens)
    llm.n_tokens = n_tokens


#
# reading
#


class _Document:
    """A document as the prefill loop sees it: `keep` leaves the best tokens so far."""

    def __init__(self, reader: Reader, keep: Callable[[], None]) -> None:
        self._reader, self._keep = reader, keep
        self.decode = reader.decode

    def room(self) -> int:
        return self._reader.compression.settings.tail - native.stats(self._reader.llm.ctx).n_tail_used

    def make_room(self, n_tokens: int) -> None:
        self._reader.positions.make_room(n_tokens, lambda: None)  # the gaps are there: keep has just been

    def evict(self, guide: Sequence[int]) -> None:
        self._keep()


def _read(reader: Reader, tokens: Sequence[int], budgets: List[int], keep: Callable[[], None]) -> None:
    """Decode the document; `keep` the best tokens so far whenever the tail is full, and at the end."""
    ctx = reader.llm.ctx
    if reader.mode(len(tokens), len(tokens)) == FULL:
        native.prompt_begin(ctx, len(tokens))
        reader.decode(tokens)
    else:
        native.reserve(ctx, budgets)
        read_bounded(_Document(reader, keep), tokens)
    keep()
    reader.compression.current = budgets


def _keep(
    llm: LoadedModel, compression: Compression, scores: Scores, budgets: Sequence[int], choose: Selection
) -> None:
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
