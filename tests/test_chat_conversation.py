"""A conversation with a real (small) model about a document."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean
from typing import Any

import chat_model
import pytest

from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.document import Document
from compresskv_edge.errors import BudgetError, ChatError, EngineError

FACTS = chat_model.facts()


@pytest.fixture
def talk() -> Iterator[Any]:
    """`talk(**options)`: a conversation over the document; options of Llama, and `fresh`."""
    opened = []

    def make(fresh: bool = True, system: str = "", **options: Any) -> Conversation:
        document = Document("facts.txt", chat_model.text())
        chat = Conversation(chat_model.load(**options), document, system, chat_model.SAMPLING, fresh=fresh)
        opened.append(chat)
        return chat

    yield make
    for chat in opened:
        chat.close()


def ask(chat: Conversation, question: str) -> str:
    return "".join(chat.ask(question))


def test_every_question_sees_the_whole_document(talk: Any) -> None:
    chat = talk()
    n_read = chat.read_ahead()
    assert n_read == chat.n_ahead() == chat.llm.n_tokens > 800
    for fact in FACTS:
        assert ask(chat, fact.question).rstrip(".") == fact.answer
        assert mean(chat.llm.kv_stats().n_tokens_kept) < 200
        assert chat.timing.n_prompt < 150, "only what was said since is run"
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 4


def test_without_fresh_a_question_sees_what_was_kept_for_the_first(talk: Any) -> None:
    chat = talk(fresh=False)
    assert ask(chat, FACTS[0].question).rstrip(".") == FACTS[0].answer
    assert ask(chat, FACTS[2].question).rstrip(".") != FACTS[2].answer
    question = chat.again()
    assert question == FACTS[2].question
    assert ask(chat, question).rstrip(".") == FACTS[2].answer


def test_in_bounded_memory_nothing_is_read_ahead(talk: Any) -> None:
    chat = talk(kv_prefill="guided")
    assert chat.read_ahead() == 0
    for fact in FACTS[1:3]:
        assert ask(chat, fact.question).rstrip(".") == fact.answer
        assert chat.timing.n_prompt > 800, "the second one reads all of it again"
    assert chat.llm.kv_stats().kv_bytes_peak < 0.6 * chat.llm.kv_stats().kv_bytes_stock


def test_the_stock_cache_works_as_well(talk: Any) -> None:
    chat = talk(kv_profile=None, kv_budget=None)
    chat.read_ahead()
    for fact in FACTS[:2]:
        assert ask(chat, fact.question).rstrip(".") == fact.answer
    with pytest.raises(EngineError, match="needs a compressed cache"):
        chat.set_budget(100)


def test_a_stopped_answer_stays_in_the_chat(talk: Any) -> None:
    chat = talk()
    chat.read_ahead()
    chat.sampling["max_tokens"] = 200
    chat.sampling["logit_bias"] = {chat.llm.token_eos(): -100, 6: -100}  # it would not end by itself
    answer = chat.ask(FACTS[0].question)
    said = [next(answer), next(answer)]
    chat.stop.request()
    said += answer
    assert chat.timing.stopped
    assert chat.messages[-1] == {"role": "assistant", "content": "".join(said)}
    assert len(said) < 10


def test_a_stop_while_reading_keeps_what_was_read(talk: Any) -> None:
    chat = talk()
    read, decode = chat.llm._ctx.decode, []

    def stop_later(batch: Any) -> None:
        decode.append(batch)
        if len(decode) == 2:
            chat.stop.request()
        read(batch)

    chat.llm._ctx.decode = stop_later
    assert chat.read_ahead() == 512, "the second batch was given up"
    assert list(chat.ask(FACTS[0].question)) == []
    assert chat.messages == []
    chat.llm._ctx.decode = read
    chat.stop.forget()
    assert ask(chat, FACTS[0].question).rstrip(".") == FACTS[0].answer


def test_a_new_conversation_about_the_same_document_reads_nothing(talk: Any) -> None:
    chat = talk(system="Answer with the value only.")
    chat.read_ahead()
    ask(chat, FACTS[0].question)
    chat.clear()
    assert chat.messages == [{"role": "system", "content": "Answer with the value only."}]
    assert ask(chat, FACTS[3].question).rstrip(".") == FACTS[3].answer
    assert chat.timing.n_prompt < 100


def test_a_budget_holds_from_the_next_question_on(talk: Any) -> None:
    chat = talk()
    chat.read_ahead()
    ask(chat, FACTS[0].question)
    assert "whole document" in chat.set_budget(0.25)
    ask(chat, FACTS[1].question)
    assert mean(chat.llm.kv_stats().n_tokens_kept) == pytest.approx(0.25 * chat.llm.n_tokens, rel=0.05)
    with pytest.raises(BudgetError, match=r"1\.5"):
        chat.set_budget(1.5)


def test_a_budget_without_a_snapshot(talk: Any) -> None:
    chat = talk(fresh=False)
    assert "from the next question" in chat.set_budget(256)
    ask(chat, FACTS[0].question)
    assert "compressed to it already" in chat.set_budget(64)
    assert mean(chat.llm.kv_stats().n_tokens_kept) <= 64
    assert "reads the conversation again" in chat.set_budget(512)
    ask(chat, FACTS[1].question)
    assert mean(chat.llm.kv_stats().n_tokens_kept) > 500


def test_a_document_that_does_not_fit(talk: Any) -> None:
    chat = talk(n_ctx=512)
    with pytest.raises(ChatError, match=r"the document has \d+ tokens, the context 512: --ctx 8192 is what"):
        chat.read_ahead()
    with pytest.raises(ChatError, match="the document has"):
        ask(chat, "Why?")
    assert chat.messages == []


def test_a_failing_engine_leaves_the_conversation_as_it_was(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = talk()
    chat.read_ahead()

    def fail(*_: object, **__: object) -> None:
        raise EngineError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr("compresskv_edge.engine.native.compress", fail)
        with pytest.raises(EngineError, match="gone"):
            ask(chat, FACTS[0].question)
    assert chat.messages == []
    assert ask(chat, FACTS[0].question).rstrip(".") == FACTS[0].answer


def test_again_needs_a_question(talk: Any) -> None:
    with pytest.raises(ChatError, match="no question yet"):
        talk().again()


def test_a_full_disk_costs_the_snapshot_only(talk: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    chat = talk()
    monkeypatch.setattr("compresskv_edge.runtime.session.snapshot._new_file", _full_disk)
    chat.read_ahead()
    assert "disk is full" in caplog.text
    assert ask(chat, FACTS[0].question).rstrip(".") == FACTS[0].answer


def _full_disk() -> None:
    raise EngineError("cannot write to 'x': the disk is full")


def test_a_second_document_stands_before_the_next_question(talk: Any) -> None:
    chat = talk()
    chat.read_ahead()
    ask(chat, FACTS[0].question)
    more = "The secret code of the copper lantern is 2085. Care is needed here. " + "Nothing else was changed. " * 30
    chat.attach(Document("more.txt", more.strip()))
    assert chat.read_ahead() == chat.n_ahead()
    assert ask(chat, "Which code opens the copper lantern?").rstrip(".") == "2085"
    assert ask(chat, FACTS[3].question).rstrip(".") == FACTS[3].answer, "the first one is still there"
    assert sum(more[:40] in message["content"] for message in chat.messages) == 1


def test_the_reading_of_the_document_has_its_own_seconds(talk: Any) -> None:
    chat = talk()
    chat.read_ahead()
    ask(chat, FACTS[0].question)
    assert chat.timing.reading_seconds > 0
    assert chat.timing.prompt_seconds > 0
    ask(chat, FACTS[1].question)
    assert chat.timing.reading_seconds == 0, "it was read for the first question"


def test_chats_without_a_seed_differ(talk: Any) -> None:
    llm = talk().llm
    Conversation(llm)
    first = llm._seed
    Conversation(llm)
    assert llm._seed != first
    Conversation(llm, sampling={"seed": 7})  # the answers' own, as the user chose it
    assert llm._seed != first
