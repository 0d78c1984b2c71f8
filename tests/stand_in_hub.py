"""Hugging Face with one repository, as far as compresskv_edge.model.hub asks for it. No network."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest


class Hub:
    """What `import huggingface_hub` gives while a test runs. `down`: the error that every call raises."""

    def __init__(self, files: dict[str, bytes], cache: Path) -> None:
        self.files, self.cache = files, cache
        self.down: Exception | None = None
        self.downloaded: list[str] = []

    def HfApi(self) -> Hub:
        return self

    def list_repo_files(self, repo_id: str) -> list[str]:
        self._answer()
        return list(self.files)

    def get_paths_info(self, repo_id: str, paths: list[str]) -> list[Any]:
        self._answer()
        return [
            types.SimpleNamespace(lfs=types.SimpleNamespace(sha256=hashlib.sha256(self.files[path]).hexdigest()))
            for path in paths
            if path in self.files
        ]

    def hf_hub_download(self, *, repo_id: str, filename: str, local_dir: Path | None = None) -> str:
        self._answer()
        self.downloaded.append(f"{repo_id}:{filename}")
        path = Path(local_dir or self.cache) / filename
        path.write_bytes(self.files[filename])
        return str(path)

    def _answer(self) -> None:
        if self.down is not None:
            raise self.down


def use(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], cache: Path) -> Hub:
    """These are the files of every repository from now on."""
    hub = Hub(files, cache)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)  # type: ignore[arg-type]
    return hub


def leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface-hub is not installed."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
