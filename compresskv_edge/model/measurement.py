"""What a calibration leaves in a profile beside its ranking and layer errors: for readers and for other policies."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Optional

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

# a profile may come from a stranger: numbers that no model has would only cost memory and time
MAX_COUNT = 1 << 31
Count = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]
NonNegative = Annotated[float, Field(strict=True, ge=0.0, le=1e12, allow_inf_nan=False)]
Scores = tuple[tuple[NonNegative, ...], ...]


class Frozen(BaseModel):
    """Base of all parts of a profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stability(Frozen):
    """Two halves of a calibration against each other: no needle is in both, and no document."""

    n_counted: tuple[Count, Count] = Field(description="questions answered in each half")
    rank_correlation: Annotated[float, Field(strict=True, ge=-1.0, le=1.0)] = Field(
        description="of the semantic scores of all heads, Spearman"
    )
    shared_heads: Annotated[float, Field(strict=True, ge=0.0, le=1.0)] = Field(
        description="share of the heads that score (settings.n_heads a layer) that both halves choose"
    )
    error_difference: NonNegative = Field(description="largest difference of a layer's error, which sum to 1")


class Calibration(Frozen):
    """What `compresskv calibrate` measured beside the ranking and the layer errors. Scores are (n_layer, n_head)."""

    heads_calibrated: bool = Field(description="false: no head could be ranked, so all of them score")
    reason: str = Field(default="", description="why not, if so")
    n_prompts: Count = Field(description="questions asked")
    n_counted: Count = Field(description="questions answered, over which scores are averaged")
    semantic_scores: Scores = Field(description="semantic retrieval score: attention mass on the whole needle")
    semantic_spread: Scores = Field(description="standard deviation of that over the counted prompts")
    classic_scores: Scores = Field(description="classic retrieval score: share of the needle that was copied, top 1")
    tensor_hash: str = Field(description="of the GGUF that was measured: names, shapes and a sample of its weights")
    query_directions: tuple[str, ...] = Field(
        description="(n_layer,) mean query of each head as a unit vector, after RoPE, for Q-Filters: float16 "
        "(n_head, head_dim), little endian, base64; empty where a layer was not measured"
    )
    stability: Optional[Stability] = Field(default=None, description="left out where a half has too few answers")

    def query_direction(self, layer: int) -> npt.NDArray[np.float32]:
        """Mean query directions of a layer's heads: (n_head, head_dim), (0, 0) where it was not measured."""
        flat = np.frombuffer(base64.b64decode(self.query_directions[layer]), dtype="<f2").astype(np.float32)
        n_head = len(self.semantic_scores[layer])
        return flat.reshape(n_head, -1) if flat.size else np.zeros((0, 0), dtype=np.float32)

    def scores(self, which: Literal["semantic_scores", "semantic_spread", "classic_scores"]) -> npt.NDArray[np.float64]:
        """One of the tables as an array: (n_layer, most heads of a layer), NaN beyond a layer's heads."""
        return _padded(getattr(self, which))

    @field_validator("query_directions")
    @classmethod
    def _decodes(cls, layers: tuple[str, ...]) -> tuple[str, ...]:
        for layer, text in enumerate(layers):
            try:
                base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"layer {layer} is not base64") from None
        return layers

    def problems(self, n_head: Sequence[int]) -> Iterator[str]:
        """What does not fit a model with so many heads a layer: n_head (n_layer,)."""
        for field in ("semantic_scores", "semantic_spread", "classic_scores"):
            shape = [len(row) for row in getattr(self, field)]
            if shape != list(n_head):
                yield f"calibration.{field} has scores of {shape} heads, layer by layer, but the model has {n_head}"
        if len(self.query_directions) != len(n_head):
            yield f"calibration.query_directions has {len(self.query_directions)} layers, the model {len(n_head)}"
        for layer, (text, n) in enumerate(zip(self.query_directions, n_head)):
            if text and (n == 0 or len(base64.b64decode(text)) % (2 * n)):
                yield f"calibration.query_directions[{layer}] is not one vector for each of {n} heads"


class ErrorCurves(Frozen):
    """What it costs answers when one layer alone is compressed, at several budgets: `compresskv calibrate --curves`.

    Not in the paper, which compares layers at one budget by the error of their own output.
    """

    tokens: tuple[Count, ...] = Field(description="tokens that the layer keeps beside the window, ascending")
    asked: Scores = Field(
        description="(n_layer, n_tokens) probability that moves against the full cache (total variation), summed over "
        "an answer's tokens, mean over the prompts, if the question chose the tokens; zeros: not evictable"
    )
    later: Scores = Field(description="(n_layer, n_tokens) the same, if keys alone chose them before the question came")

    def arrays(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """asked, later: (n_layer, n_tokens) each."""
        return np.asarray(self.asked, dtype=np.float64), np.asarray(self.later, dtype=np.float64)

    def problems(self, n_layer: int) -> Iterator[str]:
        """What does not fit a model of n_layer layers."""
        if len(self.tokens) < 2 or any(a >= b for a, b in zip(self.tokens, self.tokens[1:])):
            yield f"error_curves.tokens must be two numbers or more, ascending, got {list(self.tokens)}"
        for field in ("asked", "later"):
            shape = [len(row) for row in getattr(self, field)]
            if shape != [len(self.tokens)] * n_layer:
                yield f"error_curves.{field} has rows of {shape}: give {n_layer} rows of {len(self.tokens)}"


def pack_directions(means: Sequence[npt.NDArray[Any]]) -> tuple[str, ...]:
    """Mean queries of each layer (n_head, head_dim) as Calibration.query_directions holds them; zeros become empty."""
    packed = []
    for mean in means:
        norms = np.linalg.norm(mean, axis=-1, keepdims=True)
        unit = (mean / np.where(norms > 0.0, norms, 1.0)).astype("<f2")
        packed.append(base64.b64encode(unit.tobytes()).decode() if norms.any() else "")
    return tuple(packed)


def _padded(rows: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    out = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out
