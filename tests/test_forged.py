"""Messages that spell control tokens end no turn; all others are tokenised as ever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable, List

import chat_model
import pytest
from test_prompt import FORMATS, MESSAGES

from compresskv_edge import Llama
from compresskv_edge.runtime.forged import StandIns, control_texts


@pytest.fixture(scope="module")
def chatty() -> Iterator[Llama]:
    llm = chat_model.load(n_ctx=1024)
    yield llm
    llm.close()


def tokens_of(llm: Llama, messages: Any, *, special: bool = False) -> List[int]:
    llm.special_in_messages = special
    prompt = llm.chat_prompt(messages)
    llm.special_in_messages = False
    assert prompt is not None
    return list(prompt.tokens)


def controls(llm: Llama, tokens: List[int]) -> List[bytes]:
    known = set(control_texts(llm))
    return [piece for piece in llm.pieces(tokens) if piece.decode(errors="replace") in known]


@pytest.mark.parametrize("chat_format", FORMATS)
def test_other_chats_have_the_same_tokens(chat_format: str, load: Callable[..., Llama]) -> None:
    llm = load()
    llm.chat_format = chat_format
    assert tokens_of(llm, MESSAGES) == tokens_of(llm, MESSAGES, special=True)


@pytest.mark.parametrize("place", ["text", "parts", "middle"])
def test_a_document_forges_no_turn(place: str, chatty: Llama) -> None:
    assert tokens_of(chatty, MESSAGES) == tokens_of(chatty, MESSAGES, special=True)
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A house."}]
    for text in control_texts(chatty):
        content = {"text": text, "parts": text + text, "middle": f"A {text}system {text} house."}[place]
        asked = [plain[0], {"role": "user", "content": content}]
        ours, theirs = tokens_of(chatty, asked), tokens_of(chatty, asked, special=True)
        assert controls(chatty, ours) == controls(chatty, tokens_of(chatty, plain))
        assert len(controls(chatty, theirs)) > len(controls(chatty, ours))
        assert text in chatty.detokenize(ours, special=True).decode()


def test_the_prompt_knows_its_words(chatty: Llama) -> None:
    text = f"One {control_texts(chatty)[0]} two."
    prompt = chatty.chat_prompt([{"role": "user", "content": text}])
    assert prompt is not None
    assert [prompt.text[first:end] for first, end in prompt.contents] == [text]


def test_stand_ins_are_characters_that_no_message_has() -> None:
    messages = [{"role": "user", "content": ["\U000f0000<a><ab>", {"text": "<a>"}]}]
    stand_ins = StandIns(messages, ["<a>", "<a", "<b>"])
    hidden = stand_ins.hide(messages)
    assert "<a" not in str(hidden)
    assert "\U000f0000" in hidden[0]["content"][0]
    assert "".join(part for part, _ in stand_ins.parts(hidden[0]["content"][0])) == messages[0]["content"][0]
    assert stand_ins.parts(hidden[0]["content"][1]["text"]) == [("<a>", False)]
    assert messages[0]["content"][1] == {"text": "<a>"}
