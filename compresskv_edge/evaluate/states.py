"""Documents that were read, on disk: a run that is stopped, or that adds policies, goes on without reading them again.

Files hold objects of Python (pickle): use a folder of your own, never one from a stranger.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

from ..errors import EvaluationError
from ..runtime import applied


@dataclass(frozen=True)
class KnownText:
    """A text that was read: the state after it, what the policies saw, and the milliseconds that it took."""

    state: Any
    seen: applied.Seen
    ms: float


@dataclass(frozen=True)
class States:
    """A folder of readings; key: what they belong to beside their tokens, such as the model's hash."""

    folder: Path
    key: str

    def load(self, tokens: Sequence[int], names: Sequence[str]) -> Optional[KnownText]:
        """What was saved of these tokens, if it serves these policies. Raises EvaluationError for a damaged file."""
        path = self._path(tokens)
        if not path.is_file():
            return None
        try:
            reading: KnownText = pickle.loads(path.read_bytes())
        except Exception as error:  # pickle's own, and those of what it holds
            raise EvaluationError(f"{str(path)!r} is damaged ({error}): remove it") from error
        return reading if applied.serves(reading.seen, names) else None

    def save(self, tokens: Sequence[int], reading: KnownText) -> None:
        """Without the keys and values that are in the state as well."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(tokens)
        begun = path.with_suffix(".begun")
        begun.write_bytes(pickle.dumps(replace(reading, seen=replace(reading.seen, layers=()))))
        begun.replace(path)

    def _path(self, tokens: Sequence[int]) -> Path:
        text = f"{self.key} {' '.join(map(str, tokens))}"
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.state"
