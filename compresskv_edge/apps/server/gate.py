"""Who may ask: the host, the method, the web page and the key of a request, before any of its body is read."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Dict, Optional, Set

from starlette.types import Scope

from .errors import ApiError
from .settings import ServerSettings

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_OPEN = {"/", "/health", "/page"}  # the page asks for the key itself; nothing there tells what the server holds
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Gate:
    """Raises ApiError for a request that must not get in."""

    def __init__(self, settings: ServerSettings, methods: Iterable[str]) -> None:
        """`methods`: those that any route knows."""
        self.methods = frozenset(methods)
        self._hosts = _allowed_hosts(settings)
        self._origins = {_origin(origin) for origin in settings.cors_origins}
        self._key = None if settings.api_key is None else settings.api_key.encode("utf-8")

    def check(self, scope: Scope) -> None:
        """ApiError 403, 405 or 401."""
        headers = _headers(scope)
        self._check_host(headers)
        self._check_method(scope["method"])
        if not is_open(scope):
            self._check_page(headers)
            self._check_key(headers)

    def _check_host(self, headers: Dict[bytes, bytes]) -> None:
        """A page of another site whose name was pointed at 127.0.0.1 would otherwise be let in by the browser."""
        host = headers.get(b"host", b"").decode("latin-1")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if self._hosts is not None and name.lower() not in self._hosts:
            raise ApiError(403, f"this server does not answer to the name {name!r}: start it with --allowed_hosts")

    def _check_method(self, method: str) -> None:
        if method not in self.methods:
            raise ApiError(405, "no route of this server knows this method", Allow=", ".join(sorted(self.methods)))

    def _check_page(self, headers: Dict[bytes, bytes]) -> None:
        """Browsers say which page sends a request. Other programs say nothing, and are no page."""
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if site is not None:
            own = site in (b"same-origin", b"none")
        else:  # an older browser
            own = origin is None or _authority(origin) == _authority(b"http://" + headers.get(b"host", b""))
        if own or "*" in self._origins or (origin is not None and _origin(origin.decode("latin-1")) in self._origins):
            return
        raise ApiError(403, "pages of other sites may not use this server: start it with --cors_origins", code="origin")

    def _check_key(self, headers: Dict[bytes, bytes]) -> None:
        if self._key is None:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._key):
            raise ApiError(401, "this server needs its API key", code="invalid_api_key", WWW_Authenticate="Bearer")


def is_open(scope: Scope) -> bool:
    """Whether anyone may have this: the page's files and /health. The path is read as Starlette's router reads it."""
    if scope["method"] not in ("GET", "HEAD"):
        return False
    path, root = scope["path"], scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        path = path[len(root) :]
    return path in _OPEN or path.startswith("/page/")


def _allowed_hosts(settings: ServerSettings) -> Optional[Set[str]]:
    """Host names that requests may ask for, None: any."""
    if settings.allowed_hosts:
        return None if "*" in settings.allowed_hosts else {name.lower() for name in settings.allowed_hosts}
    return LOOPBACK if settings.host in LOOPBACK else None


def _headers(scope: Scope) -> Dict[bytes, bytes]:
    """The first of each name."""
    return dict(reversed(scope["headers"]))


def _origin(origin: str) -> str:
    return origin.lower().rstrip("/")


def _authority(origin: bytes) -> str:
    """Host and port of an origin, without the port that goes without saying."""
    scheme, _, authority = _origin(origin.decode("latin-1")).partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")
    return authority[: -len(port)] if port and authority.endswith(port) else authority
