"""Outcomes as JSON lines, written as they come: a run that was killed goes on where it was.

The first line says what was run (suite, model, settings); policies, budgets and repeats are not part of it, so that a
later run can add some. A last line that was cut off by a kill is dropped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import EvaluationError
from .outcome import Budget, Outcome, Score

Key = tuple[str, str, Budget]


class Journal:
    """The outcomes of one run so far; `add` appends to the file at once."""

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        """Open a file, or start it with the header. Raises EvaluationError if it belongs to another run."""
        self.path = path
        self.header = json.loads(json.dumps(header))  # as it comes back from the file
        self._outcomes: dict[Key, Outcome] = {}
        try:
            if not path.is_file() or not self._load(path.read_bytes()):
                self._start()
        except OSError as error:
            raise EvaluationError(f"cannot write {str(path)!r}: {error.strerror}") from error

    def __contains__(self, key: Key) -> bool:
        return key in self._outcomes

    def outcomes(self) -> list[Outcome]:
        return list(self._outcomes.values())

    def add(self, outcome: Outcome) -> None:
        self._outcomes[key_of(outcome)] = outcome
        self._write(asdict(outcome))

    def _start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self.header)

    def _write(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _load(self, text: bytes) -> bool:
        """Read all whole lines and drop a cut one; False if not even the header is there."""
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):
            os.truncate(self.path, len(whole))
        if not whole:
            return False
        header, *rows = (self._parse(line, i) for i, line in enumerate(whole.splitlines(), 1))
        self._check(header)
        for outcome in map(_outcome, rows):
            self._outcomes[key_of(outcome)] = outcome
        return True

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"line {number} of {str(self.path)!r} is damaged: remove it, or the file") from error

    def _check(self, header: Mapping[str, Any]) -> None:
        names = sorted({*header, *self.header})
        other = [name for name in names if header.get(name) != self.header.get(name)]
        if other:
            differences = ", ".join(f"{n} {header.get(n)!r} there, {self.header.get(n)!r} now" for n in other)
            raise EvaluationError(
                f"{str(self.path)!r} is of another run ({differences}): use another --out, or remove it"
            )


def key_of(outcome: Outcome) -> Key:
    return outcome.sample, outcome.policy, outcome.budget


def _outcome(row: Mapping[str, Any]) -> Outcome:
    scores = tuple(Score(**score) for score in row["scores"])
    return Outcome(**{**row, "scores": scores, "held": tuple(row.get("held", ()))})
