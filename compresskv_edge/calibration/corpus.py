"""What a model is calibrated on: haystacks (text) and needles (facts to find in it). Ours, or the user's own.

Nothing of it is used by the suites of `compresskv_edge.evaluate`, so a result of theirs is independent of a profile.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

from ..errors import CalibrationError
from .logbook import entries

PathLike = Union[str, "os.PathLike[str]"]

_DATA = Path(__file__).parent / "data"
_LOGBOOK = "logbook"
_FIELDS = ("sentence", "question", "answer")


@dataclass(frozen=True)
class Needle:
    """A sentence that answers a question."""

    kind: str
    sentence: str
    question: str
    answer: str

    @property
    def begin(self) -> str:
        """The sentence up to the answer, for a model to go on with; empty where the answer is not in its words."""
        return self.sentence.partition(self.answer)[0].strip() if self.answer in self.sentence else ""


@dataclass(frozen=True)
class Haystack:
    """A text as sentences; without any it is the endless logbook."""

    name: str
    sentences: tuple[str, ...] = ()

    def read(self, rng: random.Random) -> Iterator[str]:
        """All sentences once, from a random one on."""
        if not self.sentences:
            yield from entries(rng)
        start = rng.randrange(len(self.sentences))
        yield from self.sentences[start:] + self.sentences[:start]


@dataclass(frozen=True)
class Corpus:
    """Haystacks and needles. `name` says in a profile what it was calibrated on."""

    name: str
    haystacks: tuple[Haystack, ...]
    needles: tuple[Needle, ...]

    @classmethod
    def load(
        cls, *, text: Optional[PathLike] = None, needles: Optional[PathLike] = None, model_name: str = ""
    ) -> Corpus:
        """Text and needles of the user, ours where there are none.

        text: folder of .txt files, or one file. needles: JSON, a list of objects with sentence, question, answer and
        perhaps kind; or a name of ours, "general" or "demo". model_name: decides which of ours are taken.
        Raises CalibrationError.
        """
        path = _needle_file(needles, model_name)
        haystacks = _own_haystacks() if text is None else _read_haystacks(Path(text))
        source = "haystacks of compresskv_edge" if text is None else f"haystacks {Path(text).name!r}"
        return cls(f"{source}, needles {path.stem.removeprefix('needles-')!r}", haystacks, _read_needles(path))

    def half(self, which: int) -> Corpus:
        """Every other haystack and needle, from the first (0) or the second (1) on: two halves share nothing."""
        if len(self.haystacks) < 2 or len(self.needles) < 2:
            raise CalibrationError("a corpus needs two haystacks and two needles to be halved: give more text")
        return replace(
            self,
            name=f"{self.name}, half {which + 1} of 2",
            haystacks=self.haystacks[which::2],
            needles=self.needles[which::2],
        )

    def hay(self, index: int, rng: random.Random) -> Iterator[str]:
        """Sentences of one haystack, then of the next ones: no sentence twice."""
        n = len(self.haystacks)
        for i in range(n):
            yield from self.haystacks[(index + i) % n].read(rng)

    def fingerprint(self) -> str:
        """Changes with every change of the text."""
        return hashlib.sha256(repr((self.haystacks, self.needles)).encode()).hexdigest()[:16]


def sentences(text: str) -> tuple[str, ...]:
    """A text cut after the ends of its sentences, white space made plain."""
    parts = re.split(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n\s*\n", text)
    return tuple(" ".join(part.split()) for part in parts if part and part.strip())


def _own_haystacks() -> tuple[Haystack, ...]:
    return (*_read_haystacks(_DATA / "haystacks"), Haystack(_LOGBOOK))


def _read_haystacks(path: Path) -> tuple[Haystack, ...]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    found = [Haystack(file.name, sentences(_read(file))) for file in files]
    found = [haystack for haystack in found if haystack.sentences]
    if not found:
        raise CalibrationError(f"no text in {str(path)!r}: give a .txt file or a folder with some")
    return tuple(found)


def _needle_file(needles: Optional[PathLike], model_name: str) -> Path:
    if needles is None:
        ours = sorted(_DATA.glob("needles-*.json"))
        made_for = [file for file in ours if model_name in json.loads(_read(file))["models"]]
        return made_for[0] if made_for else _DATA / "needles-general.json"
    named = _DATA / f"needles-{needles}.json"
    return named if named.is_file() else Path(needles)


def _read_needles(path: Path) -> tuple[Needle, ...]:
    try:
        data = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise CalibrationError(f"needles {str(path)!r} are not JSON ({error}): see --help for the form") from error
    rows = data.get("needles") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not rows:
        raise CalibrationError(f"needles {str(path)!r} hold no list of needles: give objects with {', '.join(_FIELDS)}")
    return tuple(_needle(row, i, path) for i, row in enumerate(rows))


def _needle(row: Any, index: int, path: Path) -> Needle:
    texts = [row.get(field) for field in _FIELDS] if isinstance(row, Mapping) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise CalibrationError(
            f"needle {index} of {str(path)!r} is {row!r:.80}: it needs {', '.join(_FIELDS)}, all text"
        )
    return Needle(str(row.get("kind", "needle")), *(str(text).strip() for text in texts))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise CalibrationError(f"cannot read {str(path)!r}: {reason}") from error
