"""Which passages were kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import chat_model
import numpy as np
import pytest

from compresskv_edge.apps.chat.conversation import Conversation
from compresskv_edge.apps.chat.document import Document
from compresskv_edge.apps.chat.why import Piece, _pieces, passages, pieces

FACT = chat_model.facts()[2]
DOCUMENT = Document("facts.txt", chat_model.text())


@pytest.fixture(scope="module")
def asked() -> Iterator[Conversation]:
    chat = Conversation(chat_model.load(), DOCUMENT, sampling=chat_model.SAMPLING)
    "".join(chat.ask(FACT.question))
    yield chat
    chat.close()


def test_the_share_is_that_of_the_layers(asked: Conversation) -> None:
    share, llm = asked.llm.kv_share(), asked.llm
    n_layer = len(llm.kv_stats().n_tokens_kept)
    assert share.shape == (llm.n_tokens,)
    position = int(np.flatnonzero((share > 0) & (share < 1))[0])
    assert share[position] == sum(position in llm.kv_kept(layer) for layer in range(n_layer)) / n_layer
    assert share.sum() * n_layer == sum(llm.kv_stats().n_tokens_kept)


def test_the_pieces_are_the_document(asked: Conversation) -> None:
    found = pieces(asked.llm, DOCUMENT)
    assert "".join(piece.text for piece in found).strip() == DOCUMENT.text
    assert [piece.at for piece in found] == list(np.cumsum([0, *(len(piece.text) for piece in found[:-1])]))
    everything = pieces(asked.llm)
    assert FACT.question in "".join(piece.text for piece in everything)


def test_the_evidence_is_among_the_best_passages(asked: Conversation) -> None:
    best = passages(pieces(asked.llm, DOCUMENT), DOCUMENT, 3)
    texts = ["".join(piece.text for piece in passage.pieces).strip() for passage in best]
    assert FACT.sentence in texts
    assert [passage.depth for passage in best] == sorted(passage.depth for passage in best)
    found = best[texts.index(FACT.sentence)]
    assert found.depth == pytest.approx(DOCUMENT.text.index(FACT.sentence) / len(DOCUMENT.text), abs=0.01)
    assert found.share >= 0.25


def test_all_passages_are_the_whole_text(asked: Conversation) -> None:
    every = passages(pieces(asked.llm, DOCUMENT), DOCUMENT, None)
    joined = "".join(piece.text for passage in every for piece in passage.pieces)
    assert joined.split() == DOCUMENT.text.split()


def test_a_document_that_the_tokenizer_changed_shows_all_of_the_prompt(asked: Conversation) -> None:
    other = Document("x", "text that is not in the prompt")
    assert len(pieces(asked.llm, other)) == len(pieces(asked.llm))


def test_characters_spread_over_tokens() -> None:
    parts = [b"a", b"\xe2\x82", b"\xac", b"b", b"\xff", b"c"]
    found = list(_pieces(parts, np.array([0.0, 0.25, 1.0, 0.0, 0.5, 0.0])))
    assert "".join(piece.text for piece in found) == "a€b�c"
    assert found[1] == Piece("€", 1, 1.0)


def test_pages_of_passages() -> None:
    document = Document("x.pdf", "One is here. Two is here.\n\nThree is here.", (0, 27))
    words = [Piece(w, document.text.index(w), 1.0) for w in ("One is here. ", "Two is here.\n\n", "Three is here.")]
    assert [passage.page for passage in passages(words, document)] == [1, 1, 2]


def test_nothing_kept_is_no_passage() -> None:
    assert passages([Piece("One is here. ", 0, 0.0)]) == []


def test_a_full_cache_holds_everything() -> None:
    llm: Any = chat_model.load(kv_profile=None, kv_budget=None)
    llm.eval([1, 2, 3])
    assert llm.kv_share().tolist() == [1.0, 1.0, 1.0]
    llm.close()
