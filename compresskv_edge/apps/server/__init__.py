"""`compresskv serve`: llama-cpp-python's OpenAI-compatible server with compressed caches, slots and a chat page.

Options, request types, request preparation and the loading of models are llama-cpp-python's own (llama_cpp.server);
what runs a request is ours, because a slot must be freed when its client leaves, and several must work at once.
"""

from __future__ import annotations

from importlib.util import find_spec

from ...errors import CompressKVError

# what the extra brings, by the names that Python imports
_NEEDED = ("fastapi", "uvicorn", "sse_starlette", "starlette_context", "pydantic_settings", "yaml", "prometheus_client")


def require_extra() -> None:
    """Raise CompressKVError, with the command that helps, if a package of the extra `server` is missing."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise CompressKVError(
            f'the server needs {", ".join(missing)}, which is not installed: run pip install "compresskv-edge[server]"'
        )
