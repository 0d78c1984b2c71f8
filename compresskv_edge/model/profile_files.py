"""Where profiles lie: those that ship with the package, by name, and a user's files."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from ..errors import ProfileError
from ..files import parse_json, read_bytes

_MAX_BYTES = 16 << 20  # of a file: 128 layers of 128 heads take 6 MB


def names() -> tuple[str, ...]:
    """Names of the shipped profiles, sorted."""
    return tuple(sorted(path.stem for path in shipped_folder().glob("*.json") if path.name != "schema.json"))


def shipped_folder() -> Path:
    """Package data of an installed wheel, else the folder of the checkout that an editable install runs from."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "profiles"
    # the schema tells our folder from some other package's `profiles`
    editable = not (package / "profiles").is_dir() and (checkout / "schema.json").is_file()
    return checkout if editable else package / "profiles"


def find(source: str | os.PathLike[str]) -> Path:
    """The file of a profile: a path, or the name of a shipped one. Raises ProfileError."""
    path = Path(source)
    if path.suffix == ".json" or path.parent != Path() or path.is_file():
        return path
    known = names()
    if str(path) in known:
        return shipped_folder() / f"{path}.json"
    close = difflib.get_close_matches(str(path).lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ProfileError(
        f"no profile is named {str(path)!r}: {hint}Shipped are {', '.join(known) or 'none'}; a path must end in .json"
    )


def read_json(path: Path) -> object:
    """Raises ProfileError if there is no such file, or no JSON in it."""
    try:
        return parse_json(read_bytes(path, _MAX_BYTES))
    except OSError as error:
        known = ", ".join(names())
        raise ProfileError(
            f"cannot read profile {str(path)!r}: {error.strerror}; give a .json file or one of the names {known}"
        ) from error
    except ValueError as error:
        raise ProfileError(
            f"profile {str(path)!r} is not JSON or is truncated ({error}): copy or download the file again"
        ) from error
