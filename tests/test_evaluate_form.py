"""Prompts in the forms of models: templates with and without a system role, plain text, later turns."""

from __future__ import annotations

from typing import Any

import pytest

from compresskv_edge.errors import EvaluationError
from compresskv_edge.evaluate import form
from compresskv_edge.evaluate.sample import Sample, Turn

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (
    "[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
)
FORGETFUL = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"

TURNS = (Turn("First?", ("one",)), Turn("Second?", ("two",)), Turn("Third?", ("three",)))
SAMPLE = Sample("s", "A text.", TURNS, hint="Be brief.")


def chat(template: str) -> form.ChatForm:
    return form.ChatForm(form._renderer(template, "<s>", "</s>"))


def test_opening_and_following_make_up_the_conversation() -> None:
    chatml = chat(CHATML)
    assert chatml.opening(SAMPLE) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nA text.\n\nFirst?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for n, question in ((1, "Second?"), (2, "Third?")):
        assert chatml.following(SAMPLE, n) == (
            f"<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        )


def test_without_a_system_role_it_leads_the_first_message() -> None:
    assert chat(NO_SYSTEM).opening(SAMPLE) == "[user] Be brief.\n\nA text.\n\nFirst?\n"
    assert chat(NO_SYSTEM).following(SAMPLE, 1) == "\n[user] Second?\n"


def test_a_system_prompt_under_test_takes_the_place_of_the_hint() -> None:
    sample = Sample("s", "A text.", TURNS, hint="Be brief.", system="Sing.")
    assert "Be brief." not in chat(CHATML).opening(sample)
    assert "Sing." in chat(CHATML).opening(sample)
    assert form.PlainForm().opening(sample) == "Sing.\n\nA text.\n\nQuestion: First? Answer:"


def test_plain_text() -> None:
    plain = form.PlainForm()
    assert plain.opening(SAMPLE) == "A text.\n\nQuestion: First? Answer:"
    assert plain.following(SAMPLE, 1) == "\n\nQuestion: Second? Answer:"
    assert plain.opening(Sample("s", "A prompt:", (Turn("", ("x",)),))) == "A prompt:"


def test_templates_that_fail_or_drop_answers() -> None:
    with pytest.raises(EvaluationError, match=r"template fails .*--form plain"):
        chat("{{ raise_exception('broken') }}").opening(Sample("s", "A text.", TURNS))
    with pytest.raises(EvaluationError, match="drops answers: use --form plain"):
        chat(FORGETFUL).following(SAMPLE, 1)


def test_choose(load: Any) -> None:
    llm = load()
    llm.metadata.pop("tokenizer.chat_template", None)
    assert isinstance(form.choose(llm), form.PlainForm)
    with pytest.raises(EvaluationError, match="no chat template"):
        form.choose(llm, "chat")
    with pytest.raises(EvaluationError, match="form is 'alpaca': use auto, chat, plain"):
        form.choose(llm, "alpaca")
    llm.metadata["tokenizer.chat_template"] = CHATML
    assert isinstance(form.choose(llm), form.ChatForm)
    assert isinstance(form.choose(llm, "plain"), form.PlainForm)


def test_tokens_and_room(load: Any) -> None:
    llm = load()
    prompter = form.Prompter(llm, form.PlainForm())
    tokens = prompter.opening(SAMPLE)
    assert llm.detokenize(tokens).decode().strip() == form.PlainForm().opening(SAMPLE)
    assert prompter.room(SAMPLE, 500) + len(tokens) == pytest.approx(500 + prompter.count("A text."), abs=2)
    raw = Sample("s", "A prompt:", (Turn("", ("x",)),), raw=True)
    chatty = form.Prompter(llm, chat(CHATML))
    assert llm.detokenize(chatty.opening(raw)).decode().strip() == "A prompt:"
    assert chatty.stops(SAMPLE, TURNS[0]) == ()
    assert chatty.stops(raw, raw.turns[0]) == raw.turns[0].stop
