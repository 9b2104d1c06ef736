"""A real headless Chromium, and what holds on every page of ours. Used by dashboard.py and report.py."""

import base64
import json
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.ui import WebDriverWait

SIZES = {"desk": (1280, 900), "phone": (390, 844), "small phone": (320, 640)}
# What is wrong on a page, asked at once: a driver's call takes longer than a page's answer.
FAULTS = """
const all = (css, within = document) => [...within.querySelectorAll(css)], faults = [];
if (all('header nav, main, footer').length !== 3) faults.push('landmarks');
if (all('h1').length !== 1) faults.push('one heading');
const wide = document.documentElement.scrollWidth - innerWidth;
const beyond = one => one.getBoundingClientRect().right > innerWidth && !one.closest('.wide');
const html = one => one.outerHTML.slice(0, 80);
if (wide > 0) faults.push([`${wide} pixels too wide`, ...all('body *').filter(beyond).slice(0, 5).map(html)]);
const bare = all('.chart').filter(one => !all('details table, p', one).length);
faults.push(...bare.map(one => ['a chart without its figures', html(one)]));
const told = one => one.getAttribute('role') === 'img' && one.getAttribute('aria-label');
const mute = all('figure svg:not([aria-hidden])').filter(one => !told(one));
faults.push(...mute.map(one => ['a picture without words', html(one)]));
return faults;
"""
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]


class Browser:
    """One window. `pictures` is a folder for screenshots or nothing, `axe` the file axe.min.js of axe-core or None."""

    def __init__(self, pictures, axe):
        options = webdriver.ChromeOptions()
        for flag in FLAGS:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
        self.pictures = Path(pictures) if pictures else None
        self.axe = Path(axe).read_text() if axe else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.driver.quit()

    def open(self, url):
        self.driver.get(url)

    def size(self, name):
        width, height = SIZES[name]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": "phone" in name}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def scheme(self, name):
        """The colours that the reader prefers: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def scripts(self, allowed):
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def picture(self, name):
        """The whole page as it is seen, for people who asked for pictures."""
        if not self.pictures:
            return
        height = self.js("return document.documentElement.scrollHeight")
        box = {"x": 0, "y": 0, "width": self.js("return innerWidth"), "height": height, "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box})
        (self.pictures / f"{name.replace(' ', '-')}.png").write_bytes(base64.b64decode(shot["data"]))

    def js(self, script):
        return self.driver.execute_script(script)

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def follow(self, link):
        """Clicks what leads to another page, and waits until the one that it stands on is gone."""
        link.click()
        WebDriverWait(self.driver, 10).until(staleness_of(link))

    def focused(self):
        return self.driver.switch_to.active_element

    def press(self, key):
        """A key, where the focus is."""
        self.focused().send_keys(getattr(Keys, key))

    def tab_to(self, css, most=200):
        """Presses Tab until what `css` selects has the focus; tells what was passed."""
        passed = []
        for _ in range(most):
            self.press("TAB")
            if self.js(f"return document.activeElement.matches({json.dumps(css)})"):
                return passed
            passed.append(self.js("return document.activeElement.tagName"))
        raise AssertionError(f"no way by keyboard to {css}: {passed}")

    def tab_through(self, most=2000):
        """Presses Tab from the page's begin to its end: how many different places had the focus, each visible."""
        self.js("document.activeElement.blur(); window.seen = new Set()")
        for _ in range(most):
            self.press("TAB")
            state = self.js(
                "const one = document.activeElement; if (one === document.body || seen.has(one)) return null;"
                "seen.add(one); const box = one.getBoundingClientRect();"
                "return [one.outerHTML.slice(0, 80), box.width > 0 && box.height > 0 && box.right > 0];"
            )
            if state is None:
                return self.js("return seen.size")
            assert state[1], f"the focus is where nobody sees it: {state[0]}"
        raise AssertionError(f"the focus does not come round in {most} steps")

    def check(self, name, rules=True):
        """What holds on every page; with `rules`, those of axe-core, too."""
        faults = self.js(FAULTS)
        assert not faults, f"{name}: {json.dumps(faults, indent=1)}"
        if self.axe and rules:
            # The page's policy runs no script but its own; the driver's is not the page's.
            self.js(self.axe)
            found = self.driver.execute_async_script(
                "const done = arguments[0]; axe.run().then(result => done(result.violations));"
            )
            told = [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found]
            assert not told, f"{name}: {json.dumps(told, indent=1)}"

    def requests(self):
        """Every address that was asked for since this was last called, the pages' own included."""
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.append(message["params"]["request"]["url"])
        return found

    def said(self):
        """What the console says: errors and warnings."""
        return self.driver.get_log("browser")


def hold(browser, claims):
    """Checks claim by claim, and prints what holds."""
    for claim in claims:
        claim()
        print("holds:", claim.__name__, "" if browser.axe else "(without axe)", flush=True)
