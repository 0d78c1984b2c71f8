"""JSON schemas that a grammar can hold an answer to, and the name of what it cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Set, Tuple

from ..errors import SchemaError

# what changes no answer
_REMARKS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions", "strict"),
}
_FORMATS = {"date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"}
_OBJECT = {"properties", "required", "additionalProperties"}
_ARRAY = {"items", "prefixItems", "minItems", "maxItems"}


def check(schema: Any, place: str = "schema") -> None:
    """Raise SchemaError with the place and the keyword that the binding's converter would pass over."""
    if not isinstance(schema, Mapping):
        raise SchemaError(f"{place} is {schema!r:.60}: only objects can be enforced")
    for keyword in schema:
        if keyword not in _enforced(schema) | _REMARKS:
            raise SchemaError(f"{place}.{keyword} = {schema[keyword]!r:.60} cannot be enforced: leave it out")
    for name, part in _parts(schema):
        check(part, f"{place}.{name}")


def _enforced(schema: Mapping[str, Any]) -> Set[str]:
    """The keywords that the converter looks at: it takes the first kind that fits."""
    kind = schema.get("type")
    for first in ("$ref", "oneOf", "anyOf"):
        if first in schema:
            return {first}
    if isinstance(kind, list):
        return {"type"}
    for first in ("const", "enum"):
        if first in schema:
            return {first, "type"}
    if kind in (None, "object") and ("properties" in schema or "additionalProperties" in schema):
        return {"type", *_OBJECT}
    if kind in (None, "array") and ("items" in schema or "prefixItems" in schema):
        return {"type", *_ARRAY}
    return {"type", *_enforced_of_text(schema, kind)}


def _enforced_of_text(schema: Mapping[str, Any], kind: Any) -> Set[str]:
    if kind in (None, "string") and "pattern" in schema:
        return {"pattern"}
    if kind in (None, "string") and schema.get("format") in _FORMATS:
        return {"format"}
    return {"minLength", "maxLength"} if kind == "string" else set()


def _parts(schema: Mapping[str, Any]) -> Iterator[Tuple[str, Any]]:
    """Schemas within, with their names."""
    for keyword in ("properties", "$defs", "definitions"):
        for name, part in dict(schema.get(keyword) or {}).items():
            yield f"{keyword}.{name}", part
    for keyword in ("items", "prefixItems", "oneOf", "anyOf"):
        part = schema.get(keyword)
        for i, each in enumerate(part if isinstance(part, list) else [] if part is None else [part]):
            yield f"{keyword}.{i}", each
    if not isinstance(schema.get("additionalProperties", True), bool):
        yield "additionalProperties", schema["additionalProperties"]
