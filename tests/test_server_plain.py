"""JSON of strangers."""

from __future__ import annotations

import json
import re

import pytest
from fastapi import HTTPException

from compresskv_edge.apps.server.plain import parse


@pytest.mark.parametrize("value", [None, True, 0, -(2**63) + 1, 1.5, "", "ä🏮", [], {}, {"a": [{"b": "c"}] * 3}])
def test_plain_data(value):
    assert parse(json.dumps(value).encode()) == value
    assert parse(json.dumps(value, ensure_ascii=False).encode()) == value


def nested(depth, opening=b"[", closing=b"]"):
    return opening * depth + closing * depth


def test_depth():
    assert parse(nested(63))
    assert parse(b'{"a":' * 62 + b"[]" + b"}" * 62)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (nested(65), "64 levels"),
        (nested(900), "64 levels"),
        (nested(1_000_000), "64 levels"),
        (b"[" * 1_000_000, "64 levels|not valid JSON"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "64 levels"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b'{"x": 1e999}', "inf"),
        (b"9" * 30, "64 bits"),
        (b"-" + b"9" * 30, "64 bits"),
        (b"9" * 5000, "64 bits|not valid JSON"),
        (b'"\\ud800"', "not valid JSON"),
        (b'{"\\udfff": 1}', "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        ("{}".encode("utf-16"), "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
    ],
)
def test_what_is_not_plain(body, why):
    with pytest.raises(HTTPException) as refused:
        parse(body)
    assert refused.value.status_code == 400
    assert re.search(why, refused.value.detail)
    assert len(refused.value.detail) < 100
