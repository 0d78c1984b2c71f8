"""Where system prompts end and questions begin, in several chat formats; one rendering a turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, List

import chat_model
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_cpp import llama_chat_format
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from compresskv_edge import Llama
from compresskv_edge.runtime import binding
from compresskv_edge.runtime.prompt import Prompt, common_prefix, contents, token_ends

FORMATS = ("chatml", "llama-2", "llama-3", "mistral-instruct", "gemma", "zephyr", "alpaca")
MESSAGES = [
    {"role": "system", "content": "Be brief about the mill."},
    {"role": "user", "content": "What is a mill?"},
    {"role": "assistant", "content": "A house."},
    {"role": "user", "content": "Whose house is it?"},
]
TOOL = {"type": "function", "function": {"name": "mill", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def llm(load: Callable[..., Llama]) -> Llama:
    return load()


@pytest.fixture
def chatty() -> Iterator[Llama]:
    """A model with a template in its GGUF."""
    llm = chat_model.load(n_ctx=1024)
    yield llm
    llm.close()


def words(llm: Llama, tokens: Any) -> str:
    return llm.detokenize(list(tokens), special=True).decode()


def known(llm: Llama, messages: Any = MESSAGES, **options: Any) -> Prompt:
    prompt = llm.chat_prompt(messages, **options)
    assert prompt is not None
    return prompt


#
# what is known
#


@pytest.mark.parametrize("chat_format", FORMATS)
def test_any_format(chat_format: str, llm: Llama) -> None:
    llm.chat_format = chat_format
    prompt = known(llm)
    system, before = (words(llm, prompt.tokens[:n]) for n in (prompt.n_system, prompt.question))
    assert "What is" not in system
    assert ("Be brief about the mill." in system) or ("Be brief" not in prompt.text)  # some formats drop it
    assert "Whose" not in before
    assert "A house." in before
    assert prompt.n_question == len(prompt.tokens) - prompt.question
    found = [prompt.text[first:end] for first, end in prompt.contents]
    assert found == [message["content"] for message in MESSAGES if message["content"] in prompt.text]


def test_a_template_in_the_gguf_that_strips(chatty: Llama) -> None:
    messages = [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": " Why?  "}]
    prompt = known(chatty, messages)
    assert words(chatty, prompt.tokens[: prompt.n_system]).endswith("Be brief.<|end|>\n<|user|>")
    assert words(chatty, prompt.tokens[prompt.question :]).startswith(" Why?")
    assert prompt.n_before_end("Why?") == prompt.question
    assert prompt.n_before_end("How?") is None


def test_no_system_prompt_no_question(llm: Llama) -> None:
    assert known(llm, MESSAGES[1:]).n_system == 0
    alone = known(llm, MESSAGES[:1])
    assert (alone.n_system, alone.question, alone.n_question) == (0, None, 0)


@pytest.mark.parametrize("chat_format", FORMATS)
def test_a_question_below_a_document_is_the_last_paragraph(chat_format: str, llm: Llama) -> None:
    llm.chat_format = chat_format
    document = "A mill is a house.\n\nIt grinds corn.\n\n"
    prompt = known(llm, [MESSAGES[0], {"role": "user", "content": f"{document}Whose house is it?"}])
    asked = words(llm, prompt.tokens[len(prompt.tokens) - prompt.n_asked :])
    assert asked.startswith("Whose house is it?")
    assert prompt.n_question > prompt.n_asked
    short = known(llm)
    assert short.n_asked == short.n_question, "blank lines of the template are before the question"


def test_no_question_no_paragraph() -> None:
    assert Prompt((1, 2, 3), text="a\n\nb").n_asked == 0


def test_words_that_the_template_changes_are_not_known(llm: Llama) -> None:
    template = "{% for m in messages %}<{{ m.content if m.role == 'system' else m.content | upper }}>{% endfor %}"
    llm.chat_handler = Jinja2ChatFormatter(template, eos_token="", bos_token="").to_chat_handler()
    prompt = known(llm)
    assert (prompt.n_system, prompt.question) == (0, None)
    assert len(prompt.contents) == 1


def test_parts_of_text(llm: Llama) -> None:
    template = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    llm.chat_handler = Jinja2ChatFormatter(template, eos_token="", bos_token="").to_chat_handler()
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "a mill?"}]
    prompt = known(llm, [{"role": "user", "content": parts}])
    assert prompt.question == 1
    assert [prompt.text[first:end] for first, end in prompt.contents] == ["What is", "a mill?"]


def test_the_guide_is_the_last_user_message(load: Callable[..., Llama], text: str) -> None:
    llm = load(kv_prefill="guided", kv_tail=256)
    messages = [*MESSAGES[:1], {"role": "user", "content": text[:1500]}, *MESSAGES[2:]]
    guides = watch_guides(llm)
    llm.create_chat_completion(messages, max_tokens=1)
    assert words(llm, guides[-1]).startswith("Whose house is it?")
    llm.create_completion(text[:1500], max_tokens=1)
    assert len(guides[-1]) == (256 - 8) // 2


def watch_guides(llm: Llama) -> List[Any]:
    found: List[Any] = []
    guide = llm._compression.guide
    llm._compression.guide = lambda *args: found.append(guide(*args)) or found[-1]
    return found


#
# characters and tokens
#


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=8)), st.booleans())
def test_pieces_that_spell_the_text(parts: List[str], in_bytes: bool) -> None:
    text = "".join(parts)
    data = text.encode()
    pieces = [data[i : i + 1] for i in range(len(data))] if in_bytes else [part.encode() for part in parts]
    ends = token_ends(pieces, text)
    assert ends is not None
    whole = [text[: len(b"".join(pieces[: i + 1]).decode(errors="ignore"))] for i in range(len(pieces))]
    assert ends.tolist() == [len(each) for each in whole]


def test_what_tokenizers_add_and_drop() -> None:
    assert token_ends([b"<s>", b" [INST]", b" Why", b"?"], "[INST] Why?").tolist() == [0, 6, 10, 11]
    assert token_ends([b"<|user|>", b"Why", b"?", b"</s>"], "<|user|>\nWhy?").tolist() == [8, 12, 13, 13]
    assert token_ends([b"<|user|>", b"why", b"?"], "<|user|>Why?") is None
    assert token_ends([b"a", b"b"], "abc") is None


def test_words_are_looked_for_in_order() -> None:
    asked = {"role": "user", "content": "Why?"}
    same = [asked, {"role": "assistant", "content": None}, asked]
    assert contents("<Why?><><Why?>", same) == [[(1, 5)], [], [(9, 13)]]


@pytest.mark.parametrize(
    ("a", "b", "n"), [((), (1,), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 3), (1, 9, 3), 1), ((5,), (5,), 1)]
)
def test_common_prefix(a: Any, b: Any, n: int) -> None:
    assert common_prefix(a, b) == common_prefix(list(b), list(a)) == n


def test_long_pieces_are_whole(llm: Llama) -> None:
    tokens = llm.tokenize(b" " * 200 + b"a" * 100, add_bos=False)
    assert b"".join(binding.pieces(llm, tokens)) == b" " * 200 + b"a" * 100


#
# what runs
#


def by_the_binding(llm: Llama, messages: Any, **options: Any) -> Any:
    """What llama_cpp's own handler asks for, and what it makes of the answer."""
    import llama_cpp

    return llama_cpp.Llama.create_chat_completion(llm, messages, **options)


OPTIONS = [
    {},
    {"stop": "."},
    {"stop": ["a", "b"], "stream": True},
    {"stop": None, "temperature": 0.7, "seed": 3, "logit_bias": {5: -100}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "json_object", "schema": TOOL["function"]["parameters"]}},
    {"response_format": {"type": "text"}},
    {"tools": [TOOL], "tool_choice": "auto"},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "mill"}}},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "mill"}}, "stream": True},
    {"functions": [TOOL["function"]], "function_call": {"name": "mill"}},
    {"functions": [TOOL["function"]], "function_call": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_what_the_binding_runs(options: Any, chatty: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: List[Any] = []
    real = Llama.create_completion

    def create_completion(self: Llama, prompt: Any, **given: Any) -> Any:
        grammar = given.pop("grammar")
        stops = given.pop("stopping_criteria")
        seen.append((prompt, {**given, "grammar": grammar and grammar._grammar, "criteria": len(stops or [])}))
        return real(self, prompt, grammar=grammar, stopping_criteria=stops, **given)

    monkeypatch.setattr(Llama, "create_completion", create_completion)
    ways = (Llama.create_chat_completion, by_the_binding)
    answers = [plain(ask(chatty, MESSAGES, max_tokens=5, **options)) for ask in ways]
    assert seen[0] == seen[1]
    if "temperature" not in options or "seed" in options:
        assert answers[0] == answers[1]


def plain(answer: Any) -> Any:
    """Without what differs from call to call."""
    chunks = [answer] if isinstance(answer, dict) else list(answer)
    return [chunk["choices"][0].get("finish_reason") for chunk in chunks], [list(chunk) for chunk in chunks]


def test_a_tool_that_is_not_there(chatty: Llama) -> None:
    choice = {"type": "function", "function": {"name": "wind"}}
    with pytest.raises(ValueError, match="'wind' not found"):
        chatty.create_chat_completion(MESSAGES, tools=[TOOL], tool_choice=choice)


def test_a_prompt_runs_in_its_messages_place(chatty: Llama) -> None:
    prompt = known(chatty)
    assert chatty.n_tokens == 0, "nothing was run"
    chatty.create_chat_completion(prompt, max_tokens=3, temperature=0)
    assert chatty.input_ids[: len(prompt.tokens)].tolist() == list(prompt.tokens)
    assert chatty._compression.protection.n_system == prompt.n_system > 0


def test_a_template_that_refuses(llm: Llama) -> None:
    llm.chat_handler = Jinja2ChatFormatter("{{ raise_exception('no system') }}", "", "").to_chat_handler()
    for ask in (llm.chat_prompt, llm.create_chat_completion):
        with pytest.raises(ValueError, match="no system"):
            ask(MESSAGES)


def test_a_handler_of_its_own_runs_as_it_is(chatty: Llama) -> None:
    def handler(llama: Llama, messages: Any, **options: Any) -> Any:
        return llama.create_completion(prompt="the handler's own", max_tokens=options["max_tokens"])

    chatty.chat_handler = handler
    assert chatty.chat_prompt(MESSAGES) is None
    assert chatty.create_chat_completion(MESSAGES, max_tokens=1)["object"] == "text_completion"
    chatty.chat_handler, chatty.chat_format = None, "chatml-function-calling"
    assert chatty.chat_prompt(MESSAGES) is None
    assert chatty.create_chat_completion(MESSAGES, max_tokens=1)["object"] == "chat.completion"


def test_registered_formats_have_a_formatter(llm: Llama) -> None:
    registered = llama_chat_format.LlamaChatCompletionHandlerRegistry()._chat_handlers
    without = set()
    for llm.chat_format in registered:
        if binding.formatter_of(llm) is None:
            without.add(llm.chat_format)
    assert without == {"functionary", "functionary-v1", "functionary-v2", "chatml-function-calling"}
