"""The tokens of a prompt are those that the model is given."""

from __future__ import annotations

import chat_model

from compresskv_edge.apps.chat.prompt import prompt_tokens

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Which code opens the door?"},
    {"role": "assistant", "content": "42."},
    {"role": "user", "content": "And the gate?"},
]


def test_they_are_what_a_completion_evaluates() -> None:
    llm = chat_model.load(n_ctx=512)
    tokens = prompt_tokens(llm, MESSAGES)
    assert llm.n_tokens == 0, "nothing was run"
    llm.create_chat_completion(MESSAGES, max_tokens=3, temperature=0)
    assert llm.input_ids[: len(tokens)].tolist() == tokens
    assert llm.n_tokens < len(tokens) + 3
    llm.close()


def test_other_chat_formats_and_handlers() -> None:
    llm = chat_model.load(n_ctx=512, chat_format="chatml")
    assert b"<|im_start|>user\nAnd the gate?" in llm.detokenize(prompt_tokens(llm, MESSAGES), special=True)
    llm.chat_handler = lambda llama, messages: llama.create_completion(prompt="the handler's own")
    assert llm.detokenize(prompt_tokens(llm, MESSAGES)).strip() == b"the handler's own"
    llm.close()
