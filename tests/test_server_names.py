"""Names of saved chats: on Windows, macOS and Linux, whichever this is."""

from __future__ import annotations

import pytest

from compresskv_edge.apps.server.errors import ApiError
from compresskv_edge.apps.server.names import checked

FAMILY = "👨\u200d👩\u200d👧"


@pytest.mark.parametrize(
    "name",
    ["a", "Amber lantern", "2026-12-01 notes", "Über (2)", "第一章", "🏮 amber 🏮", FAMILY, "❤️", "🇨🇭", "a.b,c",
     "console", "NULL", "COM10", "नमस्ते", "x" * 80, "é" * 80, "𐍈" * 50],
)  # fmt: skip
def test_names(name):
    assert checked(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "1 to 80"),
        ("x" * 81, "1 to 80"),
        ("𐍈" * 51, "200 bytes"),
        ("𐍈" * 80, "200 bytes"),
        ("..", "begins"),
        (".hidden", "begins"),
        (" x", "begins"),
        ("~x", "begins"),
        ("-x", "begins"),
        ("x ", "ends"),
        ("x.", "ends"),
        ("a/b", "control"),
        ("a\\b", "control"),
        ("c:x", "control"),
        ("a*", "control"),
        ("a\x00b", "control"),
        ("a\nb", "control"),
        ("a\u2028b", "control"),
        ("a\u202eb", "control"),  # writes from right to left
        ("a\u00a0b", "control"),
        ("\ud800", "control"),
        ("NUL", "Windows"),
        ("nul", "Windows"),
        ("Aux.chat", "Windows"),
        ("con .x", "Windows"),
        ("COM1", "Windows"),
        ("lpt³", "Windows"),
        ("CONIN$", "Windows"),
    ],
)
def test_what_is_none(name, why):
    with pytest.raises(ApiError, match=why) as refused:
        checked(name)
    assert refused.value.status == 400


def test_one_spelling():
    assert checked("e\u0301te\u0301") == "été"
