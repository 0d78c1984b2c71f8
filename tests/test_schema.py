"""A schema is enforced as a whole, or refused by the name of what cannot be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from compresskv_edge.errors import SchemaError
from compresskv_edge.runtime import binding, schema

PERSON = {
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Who.", "minLength": 1},
        "age": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "kind": {"$ref": "#/$defs/Kind"},
        "born": {"type": "string", "format": "date"},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]+$"}, "maxItems": 3},
        "more": {"type": ["string", "null"]},
    },
    "required": ["name", "kind"],
    "additionalProperties": False,
    "$defs": {"Kind": {"enum": ["a", "b"], "title": "Kind", "type": "string"}},
}


def within(part: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": part}}


def enforce(wanted: Any) -> Any:
    schema.check(wanted)
    return binding.schema_grammar(json.dumps(wanted), verbose=False)


def test_what_pydantic_makes_is_enforced() -> None:
    assert '\\"name\\"' in enforce(PERSON)._grammar


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "integer", "maximum": 5}, "schema.properties.x.maximum"),
        ({"type": "string", "format": "email"}, "format"),
        ({"type": "array", "items": {"type": "number", "multipleOf": 2}}, "items.0.multipleOf"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems"),
        ({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}, "anyOf.0.minimum"),
        ({"not": {"type": "null"}}, "not"),
        ({"allOf": [{"type": "string"}]}, "allOf"),
        ({"type": "money"}, "money"),
        ({"type": "string", "pattern": "abc"}, "Pattern"),
        ({"$ref": "https://example.com/x.json"}, "Fetching"),
        ({"$ref": "#/$defs/Nowhere"}, "Nowhere"),
        ({"$ref": "other.json"}, "other.json"),
        (True, "True"),
    ],
)  # fmt: skip
def test_what_is_not_enforced_is_named(part: Any, named: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(named)):
        enforce(within(part))


@pytest.mark.parametrize("ref", ["#", "#/$defs/N"])
def test_a_recursive_schema_is_refused_by_its_name(ref: str) -> None:
    with pytest.raises(SchemaError, match=re.escape(ref)):
        enforce({"$ref": ref, "$defs": {"N": within({"$ref": ref})}})
