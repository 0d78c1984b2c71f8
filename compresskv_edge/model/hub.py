"""Files of Hugging Face, through its own huggingface-hub, which comes with the extra "chat"."""

from __future__ import annotations

import fnmatch
import logging
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Optional

from ..errors import ModelError
from .catalogue import CatalogueModel, HubFile
from .store import require_space

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+):(?P<file>[^:]+\.gguf)", re.IGNORECASE)


def parse(name: str) -> Optional[HubFile]:
    """ "repo/name:file.gguf", where the file may be a pattern such as *q4_k_m.gguf; None if it is not of that form."""
    match = _NAME.fullmatch(name)
    return None if match is None else HubFile(match["repo"], match["file"])


def fetch(wanted: HubFile) -> Path:
    """The file in Hugging Face's own cache, fetched if it is not there. Raises ModelError.

    A pattern has to fit one file of the repository.
    """
    hub = _hub(wanted)
    try:
        file = _only(hub, wanted) if re.search(r"[*?\[]", wanted.file) else wanted.file
        return Path(hub.hf_hub_download(repo_id=wanted.repo, filename=file))
    except ModelError:
        raise
    except Exception as error:  # of the network, the hub, or the disk
        raise _failure(wanted, error) from error


def fetch_model(model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object]) -> Path:
    """A model of the catalogue, into `folder`. What was begun there is gone on with. Raises ModelError.

    huggingface-hub shows its own progress; `on_bytes` hears of the end.
    """
    hub = _hub(model.hub)
    try:
        _require_same(hub, model)
        require_space(folder, model.n_bytes - _n_bytes_in(folder))
        path = Path(hub.hf_hub_download(repo_id=model.hub.repo, filename=model.hub.file, local_dir=folder))
    except ModelError:
        raise
    except Exception as error:
        raise _failure(model.hub, error) from error
    on_bytes(model.n_bytes)
    return path


def _require_same(hub: Any, model: CatalogueModel) -> None:
    """Before anything large is fetched: the hub knows the SHA-256 of large files.

    Without a network this fails at once, where a download would be tried for half a minute.
    """
    infos = hub.HfApi().get_paths_info(model.hub.repo, [model.hub.file])
    found = infos[0].lfs.sha256 if infos and infos[0].lfs else None
    if found != model.sha256:
        what = "has no such file" if found is None else f"has another file of that name, with SHA-256 {found}"
        raise ModelError(f"{model.hub.repo!r} on Hugging Face {what}: {model.hub.file!r}")


def _only(hub: Any, wanted: HubFile) -> str:
    files = [name for name in hub.HfApi().list_repo_files(wanted.repo) if fnmatch.fnmatch(name, wanted.file)]
    if len(files) != 1:
        found = f"{len(files)} files, {', '.join(files)}" if files else "no file"
        raise ModelError(f"{wanted.file!r} fits {found} of {wanted.repo!r} on Hugging Face: name one file")
    return str(files[0])


def _n_bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _hub(wanted: HubFile) -> Any:
    try:
        hub = import_module("huggingface_hub")
    except ImportError as error:
        raise ModelError(
            f"names on Hugging Face ({wanted.repo}) need huggingface-hub: pip install huggingface-hub"
        ) from error
    if not _log.isEnabledFor(logging.WARNING):  # compresskv --quiet
        import_module("huggingface_hub.utils").disable_progress_bars()
    return hub


def _failure(wanted: HubFile, error: Exception) -> ModelError:
    return ModelError(f"cannot fetch {wanted.file!r} of {wanted.repo!r} from Hugging Face: {error}")
