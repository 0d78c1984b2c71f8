"""Where models lie that were pulled: one folder, one file a model, and what was begun."""

from __future__ import annotations

import hashlib
import logging
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ..errors import ModelError
from .catalogue import CatalogueModel
from .lock import exclusive

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Store:
    """A folder of models. A file in it is whole: it was given its name when its SHA-256 was right."""

    folder: Path

    @classmethod
    def user(cls) -> Store:
        """The one in the user's cache folder."""
        return cls(platformdirs.user_cache_path("compresskv", appauthor=False) / "models")

    def path(self, model: CatalogueModel) -> Path:
        """Of the model's file, which may not be there."""
        return self.folder / f"{model.name}.gguf"

    def has(self, model: CatalogueModel) -> bool:
        """By name and size; reading the whole file would take longer than loading it."""
        path = self.path(model)
        return path.is_file() and path.stat().st_size == model.n_bytes

    def is_intact(self, model: CatalogueModel) -> bool:
        """By SHA-256."""
        return self.has(model) and sha256(self.path(model)) == model.sha256

    def begun(self, model: CatalogueModel) -> Path:
        """The folder of what was fetched of a model so far."""
        return self.folder / "begun" / model.name

    def lock(self, model: CatalogueModel) -> AbstractContextManager[None]:
        """As long as it is held, no other process fetches this model."""
        (self.folder / "begun").mkdir(parents=True, exist_ok=True)
        return exclusive(
            self.folder / "begun" / f"{model.name}.lock",
            lambda: _log.warning("another process fetches %s: waiting for it", model.name),
        )


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def require_space(folder: Path, n_bytes: int) -> None:
    """Raises ModelError where the disk has fewer free bytes."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise ModelError(
            f"{n_bytes / 1e6:.0f} MB are needed in {str(folder)!r}, and {free / 1e6:.0f} MB are free: make room there"
        )
