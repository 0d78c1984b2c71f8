"""Names of saved chats: what is one on every system, and never a path."""

from __future__ import annotations

import re
import unicodedata

from .errors import ApiError

_MAX_CHARS = 80
_MAX_BYTES = 200  # of 255 that file systems take: the rest is for what is written beside it for a moment
_FORBIDDEN = set('<>:"/\\|?*')  # on Windows, or as a path
_JOINER = "\u200d"  # holds emoji together
# what Windows takes for a device, whatever follows the first full stop
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])", re.IGNORECASE)


def checked(name: str) -> str:
    """The name in one spelling: an accent is part of its letter. Raises ApiError 400 with the reason."""
    name = unicodedata.normalize("NFC", name)
    wrong = _wrong(name)
    if wrong:
        raise ApiError(400, f"{name!r} is no name for a chat: {wrong}", param="name")
    return name


def _wrong(name: str) -> str:
    if not all(map(_allowed, name)):
        return 'it has a control character or one of <>:"/\\|?*'
    if not name or len(name) > _MAX_CHARS or len(name.encode("utf-8")) > _MAX_BYTES:
        return f"it needs 1 to {_MAX_CHARS} characters, {_MAX_BYTES} bytes at most"
    if name[0] in " .-~_" or name[-1] in " .":
        return "it begins with a space or one of .-~_, or ends with a space or a full stop"
    if _DEVICE.fullmatch(name.partition(".")[0].rstrip(" ")):
        return "Windows has a device of this name"
    return ""


def _allowed(character: str) -> bool:
    # C: control characters, halves of pairs, unassigned. Z: spaces; all but the one are invisible or break lines
    category = unicodedata.category(character)[0]
    return character in (" ", _JOINER) or (category not in "CZ" and character not in _FORBIDDEN)
