"""How a sample becomes tokens: through the GGUF's chat template, or as plain text that ends in "Answer:".

The plain form is the one that the small models of this project learned; any model without a chat template gets it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Callable, Protocol

from ..errors import EvaluationError
from ..runtime.llama import Llama
from ..runtime.prompt import common_prefix
from .haystack import question_prompt
from .sample import Sample, Turn

FORMS = ("auto", "chat", "plain")

_MARK = "\u2983%d\u2984"  # stands for an answer while a template renders a conversation
_SEAM = 4  # tokens at the end of a document that another question might change
_DAY = datetime(2024, 7, 26)  # some templates write the date: the same prompt on every day


class Form(Protocol):
    """Text before the first answer, and between answers."""

    special: bool  # control tokens are written out in the text

    def opening(self, sample: Sample) -> str: ...

    def following(self, sample: Sample, n_answered: int) -> str: ...


class PlainForm:
    """A text, then "Question: ... Answer:" for each turn; a document without a question is the whole prompt."""

    special = False

    def opening(self, sample: Sample) -> str:
        text = f"{sample.system}\n\n{sample.document}" if sample.system else sample.document
        question = sample.turns[0].question
        return question_prompt(text, question) if question else text

    def following(self, sample: Sample, n_answered: int) -> str:
        return question_prompt("", sample.turns[n_answered].question)


class ChatForm:
    """The model's own template. `render` takes messages and writes the prompt, generation prompt included."""

    special = True

    def __init__(self, render: Callable[[Sequence[dict[str, str]]], str]) -> None:
        self._render = render

    def opening(self, sample: Sample) -> str:
        return self._conversation(sample, 0)

    def following(self, sample: Sample, n_answered: int) -> str:
        """The conversation is rendered with marks for the answers: what comes after the last of them."""
        _, found, rest = self._conversation(sample, n_answered).partition(_MARK % (n_answered - 1))
        if not found:
            raise EvaluationError("the model's chat template drops answers: use --form plain")
        return rest

    def _conversation(self, sample: Sample, n_answered: int) -> str:
        system = sample.system or sample.hint
        first = f"{sample.document}\n\n{sample.turns[0].question}".rstrip()
        messages = [{"role": "user", "content": first}]
        for i in range(n_answered):
            messages.append({"role": "assistant", "content": _MARK % i})
            messages.append({"role": "user", "content": sample.turns[i + 1].question})
        return self._with_system(system, messages)

    def _with_system(self, system: str, messages: list[dict[str, str]]) -> str:
        """Templates without a system role get it as the start of the first message."""
        if not system:
            return self._render(messages)
        try:
            return self._render([{"role": "system", "content": system}, *messages])
        except EvaluationError:
            first = {"role": "user", "content": f"{system}\n\n{messages[0]['content']}"}
            return self._render([first, *messages[1:]])


def choose(llm: Llama, name: str = "auto") -> Form:
    """A form by name; "auto" is the GGUF's chat template if it has one. Raises EvaluationError."""
    template = llm.metadata.get("tokenizer.chat_template")
    if name not in FORMS:
        raise EvaluationError(f"form is {name!r}: use {', '.join(FORMS)}")
    if name == "chat" and not template:
        raise EvaluationError("the model has no chat template: use --form plain")
    if name == "plain" or not template:
        return PlainForm()
    return ChatForm(_renderer(template, *(_piece(llm, token) for token in (llm.token_bos(), llm.token_eos()))))


def _renderer(template: str, bos: str, eos: str) -> Callable[[Sequence[dict[str, str]]], str]:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    formatter: Any = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)
    formatter.strftime_now = _DAY.strftime

    def render(messages: Sequence[dict[str, str]]) -> str:
        try:
            return str(formatter(messages=list(messages), enable_thinking=False).prompt)
        except Exception as error:  # whatever a template may raise
            raise EvaluationError(f"the model's chat template fails ({error}): use --form plain") from error

    return render


class Prompter:
    """Tokens of samples for one model in one form; also the `Fit` that suites ask for lengths."""

    def __init__(self, llm: Llama, form: Form) -> None:
        self._llm = llm
        self.form = form
        self._add_bos = llm.adds_bos

    def count(self, text: str) -> int:
        """Tokens of a text inside a prompt."""
        return len(self.tokens(text, special=False))

    def room(self, sample: Sample, n_tokens: int) -> int:
        """Tokens left for the sample's document in a prompt of n_tokens."""
        return n_tokens - len(self.opening(Sample(**{**vars(sample), "document": ""})))

    def n_system(self, sample: Sample) -> int:
        """Tokens that come before the document: system prompt or hint, and what the template puts around them."""
        other = replace(sample, document="\n", turns=(replace(sample.turns[0], question="\n"), *sample.turns[1:]))
        return common_prefix(self.opening(sample), self.opening(other))

    def n_document(self, sample: Sample) -> int:
        """Tokens up to the end of the document that are the same whatever is asked about it."""
        other = replace(sample, turns=(replace(sample.turns[0], question="\n"), *sample.turns[1:]))
        return max(common_prefix(self.opening(sample), self.opening(other)) - _SEAM, 1)

    def n_question(self, sample: Sample) -> int:
        """Tokens from the first question on, with what the template puts behind it; 0: there is none."""
        return len(self.opening(sample)) - self.n_document(sample) if sample.turns[0].question else 0

    def opening(self, sample: Sample) -> list[int]:
        """Everything before the first answer, start token included if the model wants one."""
        form = self._form(sample)
        tokens = self.tokens(form.opening(sample), special=form.special)
        bos = self._llm.token_bos()
        return tokens if not self._add_bos or tokens[:1] == [bos] else [bos, *tokens]

    def following(self, sample: Sample, n_answered: int) -> list[int]:
        """What comes between the answer to one question and the answer to the next."""
        form = self._form(sample)
        return self.tokens(form.following(sample, n_answered), special=form.special)

    def tokens(self, text: str, *, special: bool) -> list[int]:
        return list(self._llm.tokenize(text.encode(), add_bos=False, special=special))

    def stops(self, sample: Sample, turn: Turn) -> tuple[str, ...]:
        """Strings that end an answer; a chat model ends it by itself."""
        return turn.stop if not self._form(sample).special else ()

    def _form(self, sample: Sample) -> Form:
        return PlainForm() if sample.raw else self.form


def _piece(llm: Llama, token: int) -> str:
    return llm.detokenize([token], special=True).decode(errors="replace") if token >= 0 else ""
