"""What was measured so far, on disk after each document: a stopped calibration goes on where it was."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import numpy.typing as npt

from .. import files

Float64 = npt.NDArray[np.float64]

_ARRAYS = ("semantic", "classic", "recall", "query_sum", "errors", "curves")


@dataclass
class State:
    """Results of one calibration. `key` says of what: results of another one are never mixed in.

    Layers that are not measured, and heads beyond those of a layer, hold zeros.
    """

    key: dict[str, Any]
    semantic: Float64  # (n_questions, n_layer, n_head)
    classic: Float64  # (n_questions, n_layer, n_head)
    recall: Float64  # (n_questions,)
    query_sum: Float64  # (n_layer, n_head, head_dim)
    errors: Float64  # (n_error_documents, n_layer) sums over the steps
    curves: Float64  # (n_curve_documents, 2, n_layer, n_points) asked and later
    read: list[int] = field(default_factory=list)  # documents, of those that were prepared
    n_queries: int = 0
    n_steps: int = 0  # of the errors
    lengths: list[int] = field(default_factory=list)  # tokens of each prompt

    @classmethod
    def empty(cls, key: dict[str, Any], n_layer: int, n_head: int, head_dim: int, n_points: int = 0) -> State:
        heads = np.zeros((0, n_layer, n_head))
        sums = np.zeros((n_layer, n_head, head_dim))
        return cls(
            key, heads, heads.copy(), np.zeros(0), sums, np.zeros((0, n_layer)), np.zeros((0, 2, n_layer, n_points))
        )

    @classmethod
    def load(cls, path: Path) -> Optional[State]:
        """None if there is no such file, or none that can be read."""
        try:
            with np.load(path, allow_pickle=False) as data:
                more = json.loads(str(data["more"]))
                return cls(**{name: data[name] for name in _ARRAYS}, **more)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, path: Path) -> None:
        """Readers see the old file or the new one, never a part."""
        path.parent.mkdir(parents=True, exist_ok=True)
        more = {name: getattr(self, name) for name in ("key", "read", "n_queries", "n_steps", "lengths")}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS}
        content = io.BytesIO()
        np.savez(content, more=np.array(json.dumps(more)), **arrays)
        files.replace(path, [content.getbuffer()])

    def fits(self, key: dict[str, Any]) -> bool:
        """Whether the results are of the calibration that `key` describes."""
        return json.dumps(self.key, sort_keys=True) == json.dumps(key, sort_keys=True)
