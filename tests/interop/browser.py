"""A headless Chromium, driven as a user would: by what is seen, clicked and typed.

May not: reach into the page's own code, or wait by the clock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

Found = TypeVar("Found")

SEES_WITHIN_SECONDS = 20.0
DESKTOP = (1280, 860)
PHONE = (390, 844)


class Browser:
    """One browser with a profile of its own."""

    def __init__(self, directory: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
        for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--lang=en",
                         f"--user-data-dir={directory / 'profile'}"):
            options.add_argument(argument)
        if os.geteuid() == 0:
            # As root Chromium refuses to start with its own sandbox.
            options.add_argument("--no-sandbox")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(_program("chromedriver"),
                                          log_output=str(directory / "chromedriver.log"))
        self.driver = webdriver.Chrome(options, service)
        self.resize(*DESKTOP)

    def close(self) -> None:
        self.driver.quit()

    # --- seeing -------------------------------------------------------------------------------

    def until(self, found: Callable[[], Found], within_seconds: float = SEES_WITHIN_SECONDS) -> Found:
        """What `found` gives once it gives something; what it gives in the end."""
        def look(_: Any) -> Found | None:
            try:
                return found()
            except StaleElementReferenceException:
                # The page was redrawn in between.
                return None
        try:
            return WebDriverWait(self.driver, within_seconds, 0.05).until(look)
        except TimeoutException:
            return found()

    def all(self, selector: str, within: WebElement | None = None) -> list[WebElement]:
        """What is there and can be seen."""
        found = (within or self.driver).find_elements(By.CSS_SELECTOR, selector)
        return [element for element in found if element.is_displayed()]

    def one(self, selector: str, within: WebElement | None = None) -> WebElement:
        found = self.until(lambda: self.all(selector, within))
        if len(found) != 1:
            raise RuntimeError(f"{len(found)} elements are {selector}")
        return found[0]

    def text(self, selector: str) -> str:
        """The text that can be seen there, "" if there is none."""
        return " ".join(element.text for element in self.all(selector))

    def text_of(self, within: WebElement, selector: str) -> str:
        """The same inside an element."""
        return " ".join(element.text for element in self.all(selector, within))

    def reads(self, selector: str, words: str) -> str:
        """The text there, when it comes to hold these words."""
        self.until(lambda: words in self.text(selector))
        return self.text(selector)

    @property
    def focus(self) -> WebElement:
        return self.driver.switch_to.active_element

    def complaints(self) -> list[str]:
        """What the console was told since the last time, but for requests that were refused."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["source"] != "network"]

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    # --- doing --------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        self.driver.get(url)

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def press_with(self, modifier: str, key: str) -> None:
        webdriver.ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(
            modifier).perform()

    def resize(self, width: int, height: int) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600})

    def prefer(self, scheme: str) -> None:
        """`light` or `dark`."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "features": [{"name": "prefers-color-scheme", "value": scheme},
                         {"name": "prefers-reduced-motion", "value": "reduce"}]})

    @contextmanager
    def without_network(self, *urls: str) -> Iterator[None]:
        """Requests to these (`*` stands for anything) come to nothing."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": list(urls)})
        try:
            yield
        finally:
            self.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})

    def keep(self, directory: Path | None, name: str) -> None:
        """A picture of what is seen, if pictures are wanted."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(directory / f"{name}.png"))


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise SystemExit(f"{names[0]} is not installed")


__all__ = ["Browser", "By", "Keys", "PHONE", "DESKTOP", "WebElement"]
