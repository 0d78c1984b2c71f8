"""The committed models do what their cards say (tests/models/cards.json, docs/models.md), on a sample of prompts.

With REBUILT_MODELS=build/models the files are those of `make models`.

Prompts: facts whose names and things no training text holds, in sentences of a grammar of ours (prose.py). The cards'
own figures were measured in novels, which are not in the repository.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from prose import prose

from compresskv_edge import Llama
from compresskv_edge.model.packaged import model_path

FOLDER = Path(__file__).parent / "models"
sys.path.insert(0, str(FOLDER.parents[1] / "tools" / "models"))

import evict  # noqa: E402
import gguf_copy  # noqa: E402
import measure  # noqa: E402
import random_texts  # noqa: E402
import tables  # noqa: E402
from prompts import SIMPLE, Book, Prompt, Task, make_prompt  # noqa: E402
from specs import SPECS  # noqa: E402

if TYPE_CHECKING:
    from text import Encoder

CARDS: dict[str, Any] = json.loads((FOLDER / "cards.json").read_text())
FILES = {"demo": Path(model_path()), "judge": FOLDER / "judge-q8_0.gguf"}
LENGTHS = {"demo": 4000, "judge": 8000}  # the longest prompts of the sample
if "REBUILT_MODELS" in os.environ:
    FILES = {name: Path(os.environ["REBUILT_MODELS"], name, f"{name}-q8_0.gguf") for name in FILES}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model, opened for long prompts, and the figures of its card."""

    name: str
    path: Path
    card: dict[str, Any]
    llm: Llama
    encoder: Encoder


@pytest.fixture(scope="module", params=FILES)
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    llm = measure.open_model(FILES[request.param])
    yield Model(request.param, FILES[request.param], CARDS[request.param], llm, measure.LlamaEncoder(llm))
    llm.close()


@pytest.fixture(scope="module")
def text_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prose") / "prose.txt"
    path.write_text(prose(1200, seed=4), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def book(model: Model, text_path: Path) -> Book:
    return Book(model.encoder, text_path)


@pytest.fixture(scope="module")
def prompts(model: Model, book: Book) -> list[Prompt]:
    return evict.make_prompts(model.encoder, [book], 20, 500, "test")


def at_least(rate: float, n: int) -> float:
    """What a model as good as its card stays above in 999 of 1000 samples of n prompts."""
    return n * rate - 3.1 * math.sqrt(n * rate * (1 - rate)) - 1


def rate(cells: list[dict[str, Any]]) -> float:
    return sum(c["right"] for c in cells) / sum(c["n"] for c in cells)


@pytest.mark.parametrize(("n_token", "n"), [(512, 22), (2048, 6), (None, 1)])
def test_needles_as_the_card_says(n_token: int | None, n: int, model: Model, book: Book) -> None:
    n_token = n_token or LENGTHS[model.name]
    tasks = [Task(n_token, i % 11 / 10, (0, 4, 16)[i % 3], SIMPLE[i % len(SIMPLE)], i % 2 == 1) for i in range(n)]
    made = [make_prompt(f"test {n_token} {i}", model.encoder, book, task) for i, task in enumerate(tasks)]
    assert measure.count(model.llm, made)[0]["right"] >= at_least(rate(model.card["grid"]), n)


def test_tasks_as_the_card_says(model: Model, book: Book) -> None:
    """Two prompts of each line of the table; one line alone would say little."""
    table = measure.task_table(model.llm, model.encoder, [book], 500, 2, "test")
    cells = [cell for line in table.values() for cell in line]
    expected = sum(
        cell["n"] * rate([figure])
        for name, line in table.items()
        for cell, figure in zip(line, model.card["tasks"][name])
    )
    n = sum(cell["n"] for cell in cells)
    assert sum(cell["right"] for cell in cells) >= at_least(expected / n, n)


def test_perplexity_as_the_card_says(model: Model, text_path: Path) -> None:
    llm = measure.open_model(model.path, n_ctx=512, logits_all=True)
    found = measure.perplexity(llm, Book(measure.LlamaEncoder(llm), text_path))
    llm.close()
    assert found["token"] == pytest.approx(model.card["perplexity"]["prose"]["token"], rel=0.01)


def test_tokenises_as_in_training(model: Model) -> None:
    """NAME.tokens.json holds digests of what the training's tokenizer made of these texts."""
    expected = json.loads((FOLDER / f"{model.name}.tokens.json").read_text())
    texts = random_texts.random_texts()
    found = [random_texts.digest(model.llm.tokenize(t.encode(), add_bos=False, special=False)) for t in texts]
    assert len(expected) == len(texts) == 1000
    assert found == expected


def test_logits_equal_pytorch(tmp_path: Path, model: Model, book: Book) -> None:
    torch = pytest.importorskip("torch")
    exact = gguf_copy.dequantised(model.path, tmp_path / "f32.gguf")
    network = gguf_copy.to_torch(exact, SPECS[model.name].config)
    ids = make_prompt("logits", model.encoder, book, Task(600, 0.5, chat=True)).ids
    llm = measure.open_model(exact, n_ctx=640, logits_all=True, type_k=0, type_v=0, flash_attn=False)
    llm.eval(ids)
    with torch.no_grad():
        expected = network(torch.tensor([ids]), torch.arange(len(ids))[None])[0][0].numpy()
    assert np.abs(llm.scores[: len(ids)] - expected).max() < 1e-3 * np.abs(expected).max()
    llm.close()


# ---- heads ----------------------------------------------------------------------------------------------------------


def test_few_heads_in_several_layers_hold_the_score(model: Model) -> None:
    top, others = gguf_copy.top_heads(model.card["scores"])
    score = functools.partial(sum, start=0.0)
    of = [model.card["scores"][layer][head] for layer, head in top], [model.card["scores"][i][j] for i, j in others]
    assert score(of[0]) >= 0.5 * (score(of[0]) + score(of[1]))
    assert np.median(of[1]) < 0.05
    assert len({layer for layer, _ in top}) >= 3


def test_no_two_heads_are_alike(model: Model) -> None:
    """Cosine of what any two heads of a layer ask for, and of what they write."""
    stored = gguf_copy.weights(model.path)
    for layer in range(len(model.card["scores"])):
        asked = stored[f"blk.{layer}.attn_q.weight"].reshape(len(model.card["scores"][0]), -1)
        written = stored[f"blk.{layer}.attn_output.weight"].T.reshape(asked.shape)
        for rows in (asked, written):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            assert np.abs(unit @ unit.T - np.eye(len(unit))).max() < 0.7


def test_retrieval_needs_its_heads_and_no_others(model: Model, prompts: list[Prompt]) -> None:
    """The paper's ablation: under 30 % without the best tenth of the heads, at most 10 points less without others."""
    found: dict[str, Any] = evict.ablation(model.path, model.card["scores"], prompts, n_draw=2)
    assert found["all"] >= at_least(model.card["ablation"]["all"] / model.card["ablation"]["n"], len(prompts))
    assert found["no_top"] < 0.3 * len(prompts)
    assert sum(found["no_others"]) / 2 >= found["all"] - 0.1 * len(prompts)


def test_eviction_can_work(model: Model, book: Book) -> None:
    """A cache of 4 sinks, the evidence and the window answers, and so does one chosen by the best heads at 3 %."""
    prompts = evict.make_prompts(model.encoder, [book], 8, 1024, "test")
    found = evict.eviction(model.path, model.card["scores"], prompts, shares=(0.03,), n_heads=(2,))
    assert found["oracle"] >= found["full"] - 1
    assert found["best 2 3%"] >= found["full"] - 1
    assert found["worst 4 3%"] <= 0.4 * len(prompts)
    assert found["streaming 3%"] <= 0.4 * len(prompts)


def test_page_shows_the_measured_figures() -> None:
    page = tables.PAGE.read_text()
    for name, card in CARDS.items():
        for part, text in tables.render(card).items():
            assert f"<!-- {name} {part} -->\n{text}\n<!-- end -->" in page, f"{name} {part}: run tools/models/tables.py"
