"""The facts of a model that a profile must match, from a GGUF's header or from a loaded model."""

from __future__ import annotations

import os
from typing import Annotated, Any, Callable, Union

from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from ..errors import UnsupportedModelError
from ..files import short
from .gguf_file import GGUF
from .measurement import MAX_COUNT, Count, Frozen

# a file may come from a stranger, and llama.cpp has 512 layers at most
MAX_LAYERS = 1024
MAX_HEADS = 4096


def _collapse(value: object) -> object:
    """(8, 8, 8) -> 8: one value says as much as a list of equal ones, and then compares equal to it."""
    if isinstance(value, (list, tuple)):
        return value[0] if value and all(item == value[0] for item in value) else tuple(value)
    return value


def one_message(expected: str) -> Callable[[Any, ValidatorFunctionWrapHandler], Any]:
    """A union fails once for each of its members; people need one sentence."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(f"{expected}, got {short(value)}") from None

    return validate


PositiveCount = Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]
NumberOfLayers = Annotated[int, Field(strict=True, ge=1, le=MAX_LAYERS)]
HeadCount = Annotated[int, Field(strict=True, ge=0, le=MAX_HEADS)]
_collapses = BeforeValidator(_collapse)
_per_layer = WrapValidator(one_message("must be a count, or a list with one count for each layer"))
HeadsPerLayer = Annotated[Union[HeadCount, tuple[HeadCount, ...]], _collapses, _per_layer]
PerLayer = Annotated[Union[Count, tuple[Count, ...]], _collapses, _per_layer]


class ModelFacts(Frozen):
    """The facts of a model that a profile must match. Counts are one int, or one for each layer where they differ."""

    architecture: str = Field(description="general.architecture of the GGUF")
    n_layer: NumberOfLayers
    n_head: HeadsPerLayer = Field(description="query heads; 0 in layers without attention")
    n_head_kv: HeadsPerLayer
    head_dim: PerLayer = Field(description="size of one key")
    name: str = Field(default="", description="for people; not compared, quantisers and fine-tuners change it")

    @model_validator(mode="after")
    def _one_count_a_layer(self) -> ModelFacts:
        for field in ("n_head", "n_head_kv", "head_dim"):
            counts = getattr(self, field)
            if isinstance(counts, tuple) and len(counts) != self.n_layer:
                raise ValueError(f"{field} lists {len(counts)} layers but n_layer is {self.n_layer}")
        return self

    @classmethod
    def from_gguf(cls, path: str | os.PathLike[str]) -> ModelFacts:
        """Read the facts from a GGUF header. Raises UnsupportedModelError if there are none to read."""
        header = GGUF.open(path).metadata
        arch = str(header.get("general.architecture", ""))

        def get(key: str, default: Any = None) -> Any:
            return header.get(f"{arch}.{key}", default)

        n_head = get("attention.head_count")
        try:
            if get("block_count") is None or not _largest(n_head):
                raise UnsupportedModelError(
                    f"{str(path)!r} (architecture {arch or 'unknown'!r}) has no attention heads in its header: "
                    "only decoder models with attention can be compressed"
                )
            return cls(
                architecture=arch,
                n_layer=get("block_count"),
                n_head=n_head,
                n_head_kv=get("attention.head_count_kv", n_head),
                head_dim=get("attention.key_length", get("embedding_length", 0) // _largest(n_head)),
                name=str(header.get("general.name", "")),
            )
        except (TypeError, OverflowError, ValueError) as error:
            if isinstance(error, UnsupportedModelError):
                raise
            raise UnsupportedModelError(
                f"{str(path)!r} has a header that no decoder model has: {_first(error)}. Give a complete .gguf file"
            ) from error

    def heads_in(self, layer: int) -> int:
        """Query heads of a layer."""
        return self.n_head[layer] if isinstance(self.n_head, tuple) else self.n_head


def _largest(counts: object) -> int:
    return int(max(counts, default=0)) if isinstance(counts, (list, tuple)) else int(counts or 0)  # type: ignore[call-overload]


def _first(error: Exception) -> str:
    """What is wrong, the first of it."""
    if not isinstance(error, ValidationError):
        return str(error)
    item = error.errors()[0]
    return f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got {short(item['input'])}"
