"""The chat page in a real browser: load a document, ask, see the meter and the kept words, save, reload."""

from __future__ import annotations

import re
import time

import httpx
import pytest
from axe_core_python.selenium import Axe
from browser import open_browser
from prose import prose
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from server_process import serving

PATIENCE_S = 180  # other work may share the machine
QUESTION = "Which code opens the amber lantern?"
_STORY = prose(120).split(". ")
DOCUMENT = ". ".join([*_STORY[:100], "The secret code of the amber lantern is 4817", *_STORY[100:]])
DROP = """
const transfer = new DataTransfer();
transfer.items.add(new File([arguments[0]], "notes.md", { type: "text/markdown" }));
for (const kind of ["dragenter", "dragover", "drop"])
  document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""

LATE_LOOKS = """
const { fetch } = window;
const pause = (ms) => new Promise((resume) => setTimeout(resume, ms));
let asked;
window.late = 0;
window.fetch = async (path, options) => {
  if (path.endsWith("chat/completions")) {
    asked = options.headers["X-Request-Id"];
    await pause(500);
  }
  if (path.endsWith("kept")) await pause(2000);
  if (!path.endsWith("slots")) return fetch(path, options);
  await pause(1000);
  window.late += 1;
  const slot = { request_id: asked, state: "answer", n_decoded: 1, n_generated: 1 };
  return Response.json({ slots: [{ ...slot, kv_bytes: 1, kv_bytes_full: 2, kv_bytes_stock: 3 }] });
};
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def chrome(folder):
    yield from open_browser(folder / "profile")


@pytest.fixture
def page(chrome, server):
    return Page(chrome, server.url)


class Page:
    """What a user can do, and sees."""

    def __init__(self, chrome, url):
        self.chrome = chrome
        chrome.get(url)
        self.wait(lambda: self.text("model"))

    def __call__(self, name):
        return self.chrome.find_element(By.ID, name)

    def text(self, name):
        return self(name).text

    def wait(self, condition):
        return WebDriverWait(self.chrome, PATIENCE_S, 0.1).until(lambda _: condition())

    def answers(self):
        return [each.text for each in self.chrome.find_elements(By.CSS_SELECTOR, "#messages .assistant .body")]

    def load(self, path):
        self("file").send_keys(str(path))
        self.wait(lambda: "tokens. Now ask" in self.text("status"))

    def ask(self, question):
        self("question").send_keys(question + Keys.ENTER)
        self.wait(lambda: self.text("status").startswith("Done"))

    def settle(self, name, value):
        self.chrome.execute_script("document.getElementById(arguments[0]).value = arguments[1]", name, value)


@pytest.fixture
def document(folder):
    file = folder / "expedition.txt"
    file.write_text(DOCUMENT, encoding="utf-8")
    return file


def test_load_ask_meter_save_reload(page, document):
    page.settle("temperature", "0")
    page.load(document)
    page.ask(QUESTION)
    assert "4817" in page.answers()[0]

    meter = page("meter")
    assert 0 < int(meter.get_attribute("aria-valuenow")) < 50
    now, full = re.fullmatch(r"(.+) instead of (.+)", meter.get_attribute("aria-valuetext")).groups()
    assert page.text("kv-now") == now
    assert page.text("kv-full") == f"instead of {full}"
    facts = page.text("facts")
    assert "Tokens read" in facts
    assert "Compressions\n1 in" in facts

    assert page.text("text-title") == "expedition.txt"
    assert page("text").get_attribute("textContent") == DOCUMENT.strip()
    marks = page("text").find_elements(By.TAG_NAME, "mark")
    assert marks
    assert sum(len(mark.text) for mark in marks) < 0.5 * len(DOCUMENT)
    assert "The secret code of the amber lantern is 4817." in page.text("passages")
    page("passages").find_element(By.XPATH, ".//button[contains(., '4817')]").click()
    assert page("text").find_elements(By.CSS_SELECTOR, "mark.here")
    assert page("text").get_property("scrollTop") > 0

    page("save").click()
    assert page("save-name").get_attribute("value") == "expedition"
    page("save-name").send_keys(Keys.ENTER)
    page.wait(lambda: page.text("status").startswith("Saved “expedition”"))

    page.chrome.refresh()
    page.wait(lambda: page.text("model"))
    assert page.answers() == []
    page("saved").click()
    page.wait(lambda: page("saved-list").find_elements(By.CLASS_NAME, "open"))
    page("saved-list").find_element(By.XPATH, ".//button[.='expedition']").click()
    page.wait(lambda: page.text("status").startswith("Here it is"))
    assert "4817" in page.answers()[0]
    assert page.chrome.find_element(By.CSS_SELECTOR, "#messages .file").text == "expedition.txt"
    assert "with its cache" in page.text("status")
    assert page("text").get_attribute("textContent") == DOCUMENT.strip()

    page.ask(QUESTION)
    assert "4817" in page.answers()[1]
    assert errors(page) == []


def test_a_late_look_at_the_slots_does_not_cover_the_answer(page, document):
    page.load(document)
    page.chrome.execute_script(LATE_LOOKS)
    page.ask(QUESTION)
    assert page.chrome.execute_script("return window.late") > 0
    assert " instead of " in page("meter").get_attribute("aria-valuetext")
    assert page.text("status").startswith("Done")


def test_a_dropped_document_and_one_taken_back(page):
    for _ in range(2):
        page.chrome.execute_script(DROP, "The secret code of the amber lantern is 4817. " * 3)
        page.wait(lambda: page("attachments").text)
        assert "notes.md" in page.text("attachments")
        page("attachments").find_element(By.TAG_NAME, "button").click()
        assert page.text("attachments") == ""
    assert not page("drop").is_displayed()


def test_a_document_that_cannot_be_read_is_named(page, folder):
    (folder / "broken.pdf").write_bytes(b"no pdf")
    page("file").send_keys(str(folder / "broken.pdf"))
    page.wait(lambda: "bad" in page("status").get_attribute("class"))
    assert page.text("status").startswith("broken.pdf: ")
    assert page.text("attachments") == ""


def test_too_long_a_question_leaves_everything_as_it_was(page, document):
    page.load(document)
    page.chrome.execute_script("document.getElementById('question').value = 'x '.repeat(9000)")
    page("question").send_keys("?" + Keys.ENTER)
    page.wait(lambda: "maximum context length" in page.text("status"))
    assert page.answers() == []
    assert page("question").get_attribute("value").endswith("?")
    assert "expedition.txt" in page.text("attachments")


def test_keyboard_alone(page, server):
    assert page.chrome.switch_to.active_element == page("question")
    page("question").send_keys("One" + Keys.SHIFT + Keys.ENTER + Keys.SHIFT + "two")
    assert page("question").get_attribute("value") == "One\ntwo"
    reached = []
    for _ in range(12):
        ActionChains(page.chrome).send_keys(Keys.TAB).perform()
        reached.append(page.chrome.execute_script("return document.activeElement.id || document.activeElement.tagName"))
        outline = page.chrome.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] in ("question", "BODY", "HTML")
    assert {"attach", "send", "new", "saved", "SUMMARY"} <= set(reached)


def test_escape_stops_an_answer(page, server):
    page.settle("max-tokens", "7000")
    page.settle("temperature", "2")
    page("question").send_keys("Tell me a very long story about the coast." + Keys.ENTER)
    page.wait(lambda: page("stop").is_displayed() or page.text("status").startswith("Done"))
    ActionChains(page.chrome).send_keys(Keys.ESCAPE).perform()
    page.wait(lambda: page("send").is_displayed())
    assert page.text("status").startswith(("Stopped", "Done"))
    until = time.monotonic() + PATIENCE_S
    while httpx.get(server.url + "extras/slots").json()["slots"][0]["busy"]:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(page, document, scheme, width):
    page.chrome.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.load(document)
        page.ask(QUESTION)
        if width < 900:
            page("toggle-side").click()
        page.wait(lambda: page("text").is_displayed())
        found = Axe().run(page.chrome)
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
        ground = page.chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) > 380) is (scheme == "light")
        assert page.chrome.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_comes_from_elsewhere(page, server):
    sources = page.chrome.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert len(sources) >= 5
    assert all(source.startswith(server.url) for source in sources)
    policy = httpx.get(server.url).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_the_key_is_asked_for_and_kept_in_the_tab(chrome, folder):
    with serving(folder, api_key="secret") as locked:
        chrome.get(locked.url)
        dialog = chrome.find_element(By.ID, "key-dialog")
        for key in ("wrong", "secret"):
            WebDriverWait(chrome, PATIENCE_S).until(lambda _: dialog.is_displayed())
            chrome.find_element(By.ID, "key").send_keys(key + Keys.ENTER)
        WebDriverWait(chrome, PATIENCE_S).until(lambda _: chrome.find_element(By.ID, "model").text)
        chrome.refresh()
        WebDriverWait(chrome, PATIENCE_S).until(lambda _: chrome.find_element(By.ID, "model").text)
        assert not chrome.find_element(By.ID, "key-dialog").is_displayed()
        assert chrome.execute_script("return localStorage.length") == 0


def errors(page):
    return [entry["message"] for entry in page.chrome.get_log("browser") if entry["level"] == "SEVERE"]
