"""What the demo asks: the model that ships with the package about a generated text, or a real one about a book."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...calibration import auto
from ...errors import CalibrationError, ModelError
from ...evaluate import haystack
from ...model.gguf_file import GGUF
from ...model.packaged import model_path
from ...model.resolve import resolve
from ...runtime.llama import Llama

BUDGET = 0.03  # what the demo model bears: docs/results/needle.json
N_TOKENS = 3700  # of its prompt
SEED = 1
N_QUESTIONS = 5

REAL_BUDGET = 256  # tokens a layer, of the book's 4,900 as Qwen2.5 counts them
_REAL_CONTEXT = 8192
_HINT = "Answer from the text, in a few words."
_BOOK = Path(__file__).parent / "data" / "american-adventures"


@dataclass(frozen=True)
class DemoQuestion:
    """A question. expected: "27|twenty-seven", one of which the answer has to hold. sentence: of the document."""

    question: str
    expected: str
    sentence: str

    def is_right(self, answer: str) -> bool:
        """Whether it says what is expected."""
        words = "|".join(map(re.escape, self.expected.split("|")))
        return re.search(rf"(?<!\w)({words})(?!\w)", answer, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Scene:
    """A model, a document and questions. chat: through the model's template. kv: how `Llama` compresses.

    options: of `Llama` for both caches.
    """

    model: str
    title: str
    document: str
    asked: tuple[DemoQuestion, ...]
    budget: int | float
    kv: Mapping[str, Any]
    chat: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, *, compressed: bool) -> Llama:
        """The model with one of the two caches."""
        kv = {**self.kv, "kv_budget": self.budget, "kv_prefill": "full"} if compressed else {}
        return Llama(self.model, verbose=False, **self.options, **kv)

    def prompt(self, llm: Llama, question: str) -> Sequence[int]:
        """The document and a question, in tokens."""
        if not self.chat:
            tokens: Sequence[int] = llm.tokenize(haystack.question_prompt(self.document, question).encode())
            return tokens
        prompt = llm.chat_prompt(self._messages(question))
        assert prompt is not None  # no handler of images
        return prompt.tokens

    def answer(self, llm: Llama, question: str) -> str:
        """Greedy."""
        if self.chat:
            messages: Any = self._messages(question)
            reply: Any = llm.create_chat_completion(messages, max_tokens=48, temperature=0.0)
            return str(reply["choices"][0]["message"]["content"]).strip()
        out: Any = llm.create_completion(
            list(self.prompt(llm, question)), max_tokens=16, temperature=0.0, stop=[".", "\n"]
        )
        return str(out["choices"][0]["text"]).strip()

    def _messages(self, question: str) -> list[dict[str, str]]:
        asked = {"role": "user", "content": f"{self.document}\n\n{question}"}
        return [{"role": "system", "content": _HINT}, asked]


def facts(n: int = N_QUESTIONS) -> list[tuple[float, haystack.Fact]]:
    """(depth, fact) of n different facts, spread evenly over the generated document."""
    rng = random.Random(SEED)
    kinds = [haystack.KINDS[i % len(haystack.KINDS)] for i in range(n)]
    drawn = haystack.draw_facts(rng, kinds)
    return [((i + 0.5) / n, fact) for i, fact in enumerate(drawn)]


def packaged(budget: int | float | None = None, n_questions: int = N_QUESTIONS) -> Scene:
    """The model that ships with the package."""
    # Decoding: a model this small is fastest on one core. Prompts: threads that wait for a busy core cost more than
    # they bring, so half of the cores. All else is llama-cpp-python's default, as users have it today.
    options = {"n_ctx": 4096, "n_threads": 1, "n_threads_batch": max(1, (os.cpu_count() or 1) // 2)}
    counting = Llama(model_path(), vocab_only=True, verbose=False)
    placed = facts(n_questions)
    document = haystack.document(
        random.Random(SEED),
        [(depth, fact.sentence) for depth, fact in placed],
        N_TOKENS - 40,
        lambda text: len(counting.tokenize(text.encode(), add_bos=False)),
    )
    asked = tuple(DemoQuestion(fact.question, fact.answer, fact.sentence) for _, fact in placed)
    kv = {"kv_profile": "demo"}
    return Scene(
        model_path(), "one document", document, asked, BUDGET if budget is None else budget, kv, options=options
    )


def real(model: str, budget: int | float | None = None, n_questions: int = N_QUESTIONS) -> Scene:
    """A model of one's own with a chat template. model: a path, or a name of the catalogue. Raises ModelError."""
    path = resolve(model)
    if "tokenizer.chat_template" not in GGUF.open(path).metadata:
        raise ModelError(f"{model!r} has no chat template, so it answers no questions: take an instruct model")
    book = json.loads(_BOOK.with_suffix(".json").read_text(encoding="utf-8"))
    asked = tuple(DemoQuestion(**each) for each in book["questions"][:n_questions])
    text = _BOOK.with_suffix(".txt").read_text(encoding="utf-8").strip()
    kv = {"kv_policy": "ahead", "kv_profile": _profile(path)}
    return Scene(
        path,
        book["title"],
        text,
        asked,
        REAL_BUDGET if budget is None else budget,
        kv,
        chat=True,
        options={"n_ctx": _REAL_CONTEXT},
    )


def _profile(path: str) -> Any:
    """The shipped profile or the user's own; a model without one does without: nothing is calibrated for a demo."""
    try:
        return auto.resolve(path, allow_calibration=False)
    except CalibrationError:
        return None
