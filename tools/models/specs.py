"""The two models: all that differs between them, in one place."""

from __future__ import annotations

import dataclasses

Head = tuple[int, int]  # (layer, head)


@dataclasses.dataclass(frozen=True)
class Config:
    """Architecture, and the roles that the structured start and the attention losses give to some heads."""

    arch: str  # llama, or qwen3: queries and keys are normed per head
    vocab: int
    n_layer: int
    n_head: int
    ffn: int
    gather: tuple[Head, ...]  # read the words that a sentence is about
    roles: tuple[tuple[int, int, str], ...]  # (layer, head, one of TARGETS)
    width: int = 256
    n_head_kv: int = 2
    head_size: int = 64
    theta: float = 1e7
    eps: float = 1e-5
    context: int = 8192

    @property
    def group(self) -> int:
        """Query heads a KV head."""
        return self.n_head // self.n_head_kv

    @property
    def qk_norm(self) -> bool:
        return self.arch == "qwen3"

    @property
    def busy(self) -> set[Head]:
        """Heads with a role in answering."""
        return {(layer, head) for layer, head, _ in self.roles}


# What a head with a role reads while an answer is written: the sentence from its key on, the answer's words in it, the
# answer's next token, or that token and those after it. Before the answer starts all of them read the sentence.
TARGETS = ("evidence", "value", "next", "rest")


@dataclasses.dataclass(frozen=True)
class Mix:
    """What the rows of a phase are like; shares are of rows, of filler sentences or of questions."""

    n_token: int
    n_fact: tuple[int, int]
    n_question: tuple[int, int]
    chat: float = 0.5
    clause: float = 0.3
    wild: float = 0.4  # documents whose names, things and answers are any words
    story: float = 0.12  # filler that tells of the same people and things, but answers nothing
    noise: float = 0.12  # filler that holds random tokens
    group: float = 0.3  # documents with facts that are asked for together
    passage: float = 0.0  # documents with passages of several sentences that are asked for as a whole
    answer_weight: float = 8.0


@dataclasses.dataclass(frozen=True)
class Phase:
    """`lr` and `attention_loss` run from the first to the second value.

    margin: nats that every token beside the target gains in the attention losses, as if the row were e^margin as long;
    jump: rows with jumps of position; evict: batches whose answers see only sinks, evidence and window;
    drop_head: heads without a role that are silenced, each by this chance."""

    name: str
    n_step: int
    n_row: int
    mix: Mix
    lr: tuple[float, float]
    attention_loss: tuple[float, float]
    margin: float = 0.0
    jump: float = 0.5
    evict: float = 0.0
    drop_head: float = 0.0


@dataclasses.dataclass(frozen=True)
class Spec:
    """A model from nothing. `pre`: the pre-tokenizer's name in llama.cpp; prose: source -> share of the filler."""

    name: str
    seed: int
    pre: str
    config: Config
    prose: dict[str, float]
    phases: tuple[Phase, ...]
    lr: float = 0.02  # Muon, matrices
    embedding_lr: float = 4e-3  # AdamW, embeddings, norms and biases


def _phases(mix: dict[str, float], n_step: dict[str, int], last: dict[str, float]) -> tuple[Phase, ...]:
    """The rates of `main` are constant: it can be made shorter or longer without a change to what went before.
    last: what differs in the mix from `cool` on, beside passages."""
    late = {"wild": 0.5, **mix}
    dropped = {"evict": 0.25, "drop_head": 0.08}
    start = Mix(224, (2, 5), (2, 4), clause=0.1, wild=0.2, group=0.1)
    bind = Mix(320, (3, 9), (2, 5), **mix)
    main = Mix(768, (1, 16), (2, 8), **late)
    late |= {"passage": 0.3, **last}
    cool = Mix(768, (1, 20), (2, 8), **late)
    long, longest = Mix(1536, (2, 40), (4, 12), **late), Mix(6144, (4, 60), (8, 20), **late)
    return (
        Phase("start", 300, 16, start, (1.0, 1.0), (1.0, 1.0)),
        Phase("bind", 800, 12, bind, (1.0, 0.5), (1.0, 0.6), 0.7, 0.6, 0.2, 0.03),
        Phase("main", n_step["main"], 8, main, (0.35, 0.35), (0.5, 0.5), 1.5, 0.7, **dropped),
        Phase("cool", n_step["cool"], 8, cool, (0.35, 0.1), (0.5, 0.15), 2.0, 0.7, **dropped),
        Phase("long", n_step["long"], 4, long, (0.1, 0.05), (0.15, 0.05), 1.5, 0.6, 0.0, 0.08),
        Phase("longest", n_step["longest"], 1, longest, (0.05, 0.01), (0.05, 0.0), 0.3, 0.3, 0.0, 0.08),
    )


DEMO = Spec(
    "demo", 3, "smollm",
    Config("llama", 3072, 6, 8, 384, ((1, 0), (1, 5)), (
        (2, 5, "evidence"), (3, 1, "evidence"), (3, 6, "value"), (4, 2, "next"), (4, 7, "rest"),
    )),
    {"austen": 0.3, "moby_dick": 0.2, "sotu": 0.3, "python": 0.2},
    _phases({}, {"main": 800, "cool": 400, "long": 100, "longest": 40}, {"group": 0.4}),
)  # fmt: skip
JUDGE = Spec(
    "judge", 11, "qwen2",
    Config("qwen3", 4096, 7, 10, 512, ((1, 1), (1, 6)), (
        (2, 3, "evidence"), (3, 2, "evidence"), (3, 7, "value"), (4, 1, "value"), (4, 8, "evidence"),
        (5, 4, "next"), (5, 9, "rest"),
    )),
    {"austen": 0.35, "moby_dick": 0.25, "sotu": 0.3, "python": 0.1},
    _phases(
        {"chat": 0.6, "group": 0.35, "clause": 0.4},
        {"main": 725, "cool": 400, "long": 100, "longest": 80},
        {"group": 0.5},
    ),
)  # fmt: skip
SPECS = {spec.name: spec for spec in (DEMO, JUDGE)}
