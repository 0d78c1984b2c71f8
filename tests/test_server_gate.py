"""Who gets in: by host, method, page and key. The gate sees the head of a request only."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute

from compresskv_edge.apps.server import app as application
from compresskv_edge.apps.server.errors import ApiError
from compresskv_edge.apps.server.gate import Gate, is_open
from compresskv_edge.apps.server.settings import ServerSettings


def status(path="/v1/models", method="GET", settings=None, **headers):
    """200, or the status of the refusal."""
    sent = {"host": "localhost:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    gate = Gate(ServerSettings(**(settings or {})), ["GET", "HEAD", "POST", "PUT", "DELETE"])
    try:
        gate.check({"type": "http", "method": method, "path": path, "headers": head})
    except ApiError as refused:
        return refused.status
    return 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
def test_names_of_this_machine(host):
    assert status(host=host) == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "", "[::2]", "localhost@evil.example"])
@pytest.mark.parametrize("path", ["/", "/health", "/v1/models"])
def test_a_page_whose_name_was_pointed_here_is_refused(host, path):
    assert status(path, host=host) == 403


def test_other_names_where_they_are_wanted():
    assert status(host="pi.local:80", settings={"allowed_hosts": ["pi.local"]}) == 200
    assert status(host="localhost", settings={"allowed_hosts": ["pi.local"]}) == 403
    assert status(host="pi.local", settings={"allowed_hosts": ["*"]}) == 200
    assert status(host="pi.local", settings={"host": "0.0.0.0"}) == 200


@pytest.mark.parametrize("method", ["BREW", "get", "TRACE", "CONNECT", "PATCH", ""])
def test_methods_that_no_route_knows(method):
    assert status(method=method) == 405


FOREIGN = [
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:3000"},  # another program's page
    {"origin": "http://localhost"},
    {"origin": "null"},  # a sandboxed frame, or a file
    {"origin": ""},
    {"origin": "http://localhost:8000.evil.example"},
    {"origin": "http://evil.example/http://localhost:8000"},
    {"origin": "http://127.0.0.1:8000"},  # the browser's page is not that of the name it asks for
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-site"},
    {"sec_fetch_site": "Same-Origin"},
    {"sec_fetch_site": ""},
    {"sec_fetch_site": "cross-site", "origin": "http://localhost:8000"},
]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("PUT", "/extras/sessions/x"),
        ("POST", "/extras/document"),
        ("GET", "/metrics"),
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_pages_of_other_sites(method, path, headers, host):
    assert status(path, method, {"host": host}, **headers) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},  # no browser
        {"origin": "http://localhost:8000"},
        {"origin": "HTTP://LOCALHOST:8000"},
        {"sec_fetch_site": "same-origin", "origin": "http://localhost:8000"},
        {"sec_fetch_site": "same-origin", "origin": "https://chat.example"},  # behind a proxy that asks for localhost
        {"sec_fetch_site": "none"},  # typed into the address bar
    ],
)
def test_the_own_page_and_programs(headers):
    assert status("/v1/chat/completions", "POST", **headers) == 200


def test_a_port_that_goes_without_saying():
    assert status(host="localhost", origin="http://localhost:80") == 200
    assert status(host="localhost", origin="http://localhost") == 200


def test_sites_that_were_let_in():
    cors = {"cors_origins": ["https://app.example", "http://localhost:3000/"]}
    for origin in ("https://app.example", "HTTPS://APP.EXAMPLE", "http://localhost:3000"):
        assert status("/v1/models", "POST", cors, origin=origin, sec_fetch_site="cross-site") == 200
    assert status("/v1/models", "POST", cors, origin="http://app.example", sec_fetch_site="cross-site") == 403
    assert status("/v1/models", "POST", cors, sec_fetch_site="cross-site") == 403
    assert status("/v1/models", "POST", {"cors_origins": ["*"]}, origin="null", sec_fetch_site="cross-site") == 200


def test_a_link_may_lead_to_the_page():
    for path in ("/", "/page/main.js", "/health"):
        assert status(path, sec_fetch_site="cross-site") == 200
        assert status(path, "POST", sec_fetch_site="cross-site") == 403


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic secret", "Bearer secret2", "secret"])
def test_the_key(given):
    assert status(settings={"api_key": "secret"}, authorization=given) == 401
    assert status(settings={"api_key": "secret"}, authorization="bearer  secret ") == 200


def test_every_route_but_the_open_ones_needs_the_key():
    routes = [route for router in application._ROUTERS for route in router.routes]
    assert len(routes) > 12
    for route in routes:
        assert isinstance(route, APIRoute)
        for method in route.methods:
            expected = 200 if route.path == "/health" else 401
            assert status(route.path, method, {"api_key": "secret"}) == expected
    assert status("/openapi.json", settings={"api_key": "secret"}) == 401


@pytest.mark.parametrize("path", ["/pages", "/page/../v1/models", "/health/", "//", "/v1/models?x=/page/"])
def test_what_looks_like_an_open_path(path):
    # below /page/ is nothing but files: Starlette does not resolve the dots
    assert is_open({"method": "GET", "path": path}) is path.startswith("/page/")


def test_a_path_before_all_paths():
    scope = {"method": "GET", "root_path": "/ai"}
    assert is_open({**scope, "path": "/ai/page/main.js"})
    assert is_open({**scope, "path": "/health"})  # the proxy took it off
    assert not is_open({**scope, "path": "/ai/v1/models"})
    assert not is_open({**scope, "path": "/aihealth"})
