"""A profile: what is known about one model before any prompt, as JSON. Which heads score tokens, and how the budget is
spread over the layers (sections 3.2 and 3.3 of arXiv:2508.02401).

`python -m compresskv_edge.model.profile --schema` prints the JSON Schema that is kept in profiles/schema.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import ConfigDict, Field, ValidationError, WrapValidator, field_validator, model_validator

from ..errors import BudgetError, ProfileError
from ..files import check_size, replace_text, short
from ..method.budget import allocate, resolve_mean_budget
from . import profile_files
from .facts import ModelFacts, PositiveCount, one_message
from .measurement import MAX_COUNT, Calibration, Count, ErrorCurves, Frozen, NonNegative

SCHEMA_VERSION = 1
MAX_WINDOW = 1 << 16  # a profile may come from a stranger
_MAX_VALUES = 1 << 19
_MAX_ERRORS = 20  # that are told

_ANOTHER_PROFILE = "use the profile made for this model, or Profile.uniform(model_path) for an uncalibrated one"


Budget = Annotated[
    Union[Annotated[int, Field(strict=True, le=MAX_COUNT)], Annotated[float, Field(strict=True)]],
    WrapValidator(one_message("must be an int (tokens) or a float in (0, 1] (fraction of the prompt)")),
]


class Settings(Frozen):
    """How tokens are scored and budgets spread; the defaults are the paper's."""

    window: Annotated[PositiveCount, Field(le=MAX_WINDOW)] = Field(
        default=8, description="tokens at the end of the prompt that score and always stay"
    )
    kernel: Annotated[PositiveCount, Field(le=MAX_WINDOW)] = Field(default=5, description="pooling kernel, odd")
    pooling: Literal["avg", "max"] = "avg"
    n_heads: PositiveCount = Field(default=4, description="heads of each layer that score: the first of its ranking")
    floor: PositiveCount = Field(default=32, description="tokens that every layer keeps at least")
    cap_factor: Annotated[float, Field(strict=True, ge=1.0, le=1e6, allow_inf_nan=False)] = Field(
        default=3.0, description="no layer keeps more than this times the mean budget"
    )

    @model_validator(mode="after")
    def _fits(self) -> Settings:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        if self.floor <= self.window:
            raise ValueError(f"floor is {self.floor} tokens but the window alone holds {self.window}: raise the floor")
        return self


class Provenance(Frozen):
    """Where the numbers come from."""

    how: str = Field(description="method of measurement, or source of published values")
    text: str = Field(description="text that was measured on")
    date: str = Field(description="day of the measurement or publication, YYYY-MM-DD or YYYY-MM; empty if not recorded")
    version: str = Field(description="software that measured, with its version")
    remarks: tuple[str, ...] = ()


class Profile(Frozen):
    """Calibration of one model, see `profiles/README.md`. Immutable; compare and copy it freely."""

    model_config = ConfigDict(title="compresskv_edge profile")

    schema_version: Literal[1] = 1
    model: ModelFacts
    heads_ranked: tuple[tuple[Count, ...], ...] = Field(
        description="(n_layer, <= n_head) query heads by semantic retrieval score, best first; may end early"
    )
    layer_errors: tuple[NonNegative, ...] = Field(description="(n_layer,) what compression costs a layer; relative")
    settings: Settings = Settings()
    default_budget: Budget = Field(description="int: tokens, mean per layer; float in (0, 1]: fraction of the prompt")
    provenance: Provenance
    calibration: Optional[Calibration] = Field(default=None, description="left out where numbers were published")
    error_curves: Optional[ErrorCurves] = Field(default=None, description="left out where they were not measured")

    @field_validator("heads_ranked")
    @classmethod
    def _no_head_twice(cls, heads: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        for layer, ranking in enumerate(heads):
            if len(set(ranking)) < len(ranking):
                raise ValueError(f"layer {layer} ranks a head twice: {list(ranking)}")
        return heads

    @model_validator(mode="after")
    def _fits(self) -> Profile:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        n_layer = self.model.n_layer
        for field in ("heads_ranked", "layer_errors"):
            if len(getattr(self, field)) != n_layer:
                yield f"{field} has {len(getattr(self, field))} layers but model.n_layer is {n_layer}"
        for layer, ranking in enumerate(self.heads_ranked[:n_layer]):
            n_head = self.model.heads_in(layer)
            if n_head and not ranking:
                yield f"heads_ranked[{layer}] is empty but the layer has {n_head} heads"
            if ranking and max(ranking) >= n_head:
                yield f"heads_ranked[{layer}] names head {max(ranking)} but the layer has heads 0..{n_head - 1}"
        try:
            resolve_mean_budget(self.default_budget, 0, window=self.settings.window)
        except BudgetError as error:
            yield f"default_budget: {error}"
        if self.error_curves is not None:
            yield from self.error_curves.problems(n_layer)
        if self.calibration is not None:
            yield from self.calibration.problems([self.model.heads_in(layer) for layer in range(self.model.n_layer)])

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Profile) -> Profile:
        """From a path to a .json file, the name of a shipped profile, a dict, or a Profile (returned as it is).

        Raises ProfileError that names the file, every wrong field and the remedy.
        """
        if isinstance(source, Profile):
            return source
        if isinstance(source, Mapping):
            return cls._from_dict(dict(source), "the profile dict")
        path = profile_files.find(source)
        return cls._from_dict(profile_files.read_json(path), f"profile {str(path)!r}")

    @classmethod
    def _from_dict(cls, data: object, where: str) -> Profile:
        if not isinstance(data, dict):
            raise ProfileError(f"{where} holds a {type(data).__name__}, expected an object as in profiles/schema.json")
        version = data.get("schema_version")
        if version != SCHEMA_VERSION or isinstance(version, bool):
            raise ProfileError(
                f"{where}: schema_version is {short(version)}, this version of compresskv_edge reads {SCHEMA_VERSION}: "
                "use a profile of that version or another version of the package"
            )
        try:
            check_size(data, _MAX_VALUES)
        except ValueError as error:
            raise ProfileError(f"{where} is no profile: {error}") from error
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ProfileError(f"{where} is not valid:\n{_readable(error)}\nSee profiles/schema.json.") from error

    @classmethod
    def uniform(cls, model_path: str | os.PathLike[str]) -> Profile:
        """An uncalibrated profile for any GGUF: all heads score, all layers get the same budget.

        Raises UnsupportedModelError if the header cannot be read or names no attention heads.
        """
        facts = ModelFacts.from_gguf(model_path)
        heads = tuple(tuple(range(facts.heads_in(layer))) for layer in range(facts.n_layer))
        return cls(
            model=facts,
            heads_ranked=heads,
            layer_errors=(1.0 / facts.n_layer,) * facts.n_layer,
            settings=Settings(n_heads=max(map(len, heads))),
            default_budget=0.25,
            provenance=Provenance(how="uncalibrated: all heads, equal layer errors", text="none", date="", version=""),
        )

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the shipped profiles, sorted."""
        return profile_files.names()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile; readers see the old file or the new one, never a part. Raises ProfileError."""
        try:
            replace_text(path, self.to_json())
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise ProfileError(f"cannot write profile {os.fspath(path)!r}: {why}") from error

    def to_json(self) -> str:
        """The same text for equal profiles, lists of numbers on one line."""
        return _format(self.model_dump(mode="json", exclude_none=True), "") + "\n"

    def check(self, facts: ModelFacts) -> None:
        """Raise ProfileError that names every fact of `facts` that differs from the model this profile is for."""
        fields = ("architecture", "n_layer", "n_head", "n_head_kv", "head_dim")
        pairs = [(field, getattr(self.model, field), getattr(facts, field)) for field in fields]
        lines = [f"  {field}: profile {ours!r}, model {theirs!r}" for field, ours, theirs in pairs if ours != theirs]
        if lines:
            title = f"the profile for {self.model.name!r} does not fit the model {facts.name!r}:"
            raise ProfileError("\n".join([title, *lines, _ANOTHER_PROFILE]))

    def budgets(self, mean_budget: int, evictable: Sequence[bool] | None = None) -> list[int]:
        """Tokens that each layer keeps (n_layer,), `mean_budget` on average over the evictable layers, 0 in the others.

        evictable: (n_layer,), None: all. Raises BudgetError.
        """
        mask = [True] * self.model.n_layer if evictable is None else list(evictable)
        if len(mask) != self.model.n_layer:
            raise BudgetError(f"evictable lists {len(mask)} layers but the profile has {self.model.n_layer}")
        errors = [error for error, use in zip(self.layer_errors, mask) if use]
        if not errors:
            return [0] * len(mask)
        cap = round(self.settings.cap_factor * mean_budget)
        tokens = iter(allocate(errors, mean_budget, floor=self.settings.floor, cap=cap))
        return [next(tokens) if use else 0 for use in mask]

    def heads_used(self) -> list[list[int]]:
        """The heads that score in each layer, best first: (n_layer, <= settings.n_heads)."""
        return [list(ranking[: self.settings.n_heads]) for ranking in self.heads_ranked]


def schema_json() -> str:
    """The JSON Schema of a profile, as kept in profiles/schema.json."""
    return json.dumps(Profile.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _readable(error: ValidationError) -> str:
    return "\n".join(f"  {_field(item['loc'])}: {_said(item)}" for item in error.errors()[:_MAX_ERRORS])


def _field(location: tuple[int | str, ...]) -> str:
    """("model", "n_head", 3) -> "model.n_head[3]"."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".") or "profile"


def _said(item: Any) -> str:
    message = str(item["msg"]).replace("Value error, ", "")
    if item["type"] in ("missing", "value_error"):
        return message
    return f"{message}, got {short(item['input'])}"


def _format(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(key)}: {_format(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (list, str)) for item in value):
        return "[\n" + ",\n".join(inner + _format(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        sys.exit("usage: python -m compresskv_edge.model.profile --schema")
    sys.stdout.write(schema_json())
