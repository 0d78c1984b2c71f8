"""What stands where a model is asked for: a file, or a name of the catalogue."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Optional, Union

from ..errors import ModelError
from . import catalogue
from .store import Store


def resolve(source: Union[str, os.PathLike[str]], store: Optional[Store] = None) -> str:
    """Path of a model: a file of that name wins, then a name of the catalogue that was pulled. Fetches nothing.

    Raises:
        ModelError: a name of the catalogue that was not pulled, or a name that neither a file nor the catalogue has.
            What looks like a path (with a folder, or ending in .gguf) is given back as it is, for the loader to refuse.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return str(path)
    model = catalogue.get(os.fspath(source))
    if model is None:
        return _unknown(os.fspath(source))
    if not (store or Store.user()).has(model):
        raise ModelError(
            f'{model.name} is not on this machine: run "compresskv pull {model.name}" ({model.size}, {model.licence})'
        )
    return str((store or Store.user()).path(model))


def _unknown(source: str) -> str:
    if source.lower().endswith(".gguf") or os.path.basename(source) != source:
        return source
    raise ModelError(f"there is no file {source!r} and no model of that name: {catalogue.hint(source)}")
