"""A real browser before the real service."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.e2e.pictures import lesions, spoilt

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET_CHROMIUM = (
    "--no-sandbox",  # the tests run as root in containers, and open no page but ours
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE_MS = 30_000  # a machine that also trains is slow

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for one module only: Playwright's sync API holds an event loop, and later async tests need their own."""
    executable = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if executable is None:
        absent = "no chromium found: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(absent)
        pytest.skip(absent)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=QUIET_CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture
def context_options() -> dict[str, object]:
    """What kind of screen the test wants; parametrize it to want another."""
    return {}


@pytest.fixture
def context(browser: Browser, context_options: dict[str, object]) -> Iterator[BrowserContext]:
    """A fresh profile for each test."""
    fresh = browser.new_context(**context_options)
    fresh.set_default_timeout(PATIENCE_MS)
    yield fresh
    fresh.close()


@pytest.fixture
def page(context: BrowserContext, service_url: str) -> Page:
    """The page, opened, with its model named in the head."""
    opened = context.new_page()
    opened.goto(service_url)
    expect(opened.locator("#service")).to_contain_text("version")
    return opened


LesionJudged = Callable[[str], bytes]


@pytest.fixture(scope="session")
def lesion_judged(service_url: str) -> LesionJudged:
    """Finds a drawn picture of a lesion on which the service decides as named, whatever model it serves."""

    @functools.cache
    def find(decision: str) -> bytes:
        with httpx.Client(base_url=service_url, timeout=30) as client:
            for content in (*lesions(), spoilt("blurred")):
                answer = client.post("/v1/predictions", content=content).raise_for_status().json()
                if answer["decision"] == decision and answer["diagnoses"]:
                    return content
        pytest.fail(f"the service judges none of the drawn lesions {decision}")

    return find
