"""Headless Chromium for the page's tests: what it is told, and what happens where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


def programs() -> tuple[str, str]:
    """Paths of Chromium and its driver. Without them the test is skipped, or fails where CI_REQUIRE_BROWSER=1."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    missing = " and ".join(name for name, path in (("Chromium", browser), ("chromedriver", driver)) if not path)
    said = f"the chat page is not tested: {missing} not found. On Debian or Ubuntu: sudo make browser"
    if os.environ.get("CI_REQUIRE_BROWSER") == "1":
        pytest.fail(said)
    pytest.skip(said)


def open_browser(profile: Path, width: int = 1280, height: int = 860) -> Iterator[webdriver.Chrome]:
    """A browser with an empty profile."""
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # what a page asks before it is left is for people
    options.set_capability("unhandledPromptBehavior", "accept")
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()
