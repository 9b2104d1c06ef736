"""The dashboard in a real browser: python dashboard.py URL PICTURES [AXE]

Clicks from a pillar to a request, by mouse and by keyboard; at the width of a desk and of a phone; in light and dark;
with and without scripts. AXE is the file axe.min.js of axe-core. Prints what was checked; fails at the first claim
that does not hold.
"""

import json
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

URL, PICTURES = sys.argv[1].rstrip("/"), Path(sys.argv[2])
AXE = Path(sys.argv[3]).read_text() if len(sys.argv) > 3 else None
SIZES = {"desk": (1280, 900), "phone": (390, 844)}


def browser():
    options = webdriver.ChromeOptions()
    for flag in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


driver = browser()


def size(name):
    width, height = SIZES[name]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": name == "phone"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def scheme(name):
    features = [{"name": "prefers-color-scheme", "value": name}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def picture(name):
    height = driver.execute_script("return document.documentElement.scrollHeight")
    box = {"x": 0, "y": 0, "width": driver.execute_script("return innerWidth"), "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": box})
    import base64

    (PICTURES / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))


def find(css):
    return driver.find_element(By.CSS_SELECTOR, css)


def heading():
    return find("h1").text


def check_page(name, rules):
    """What holds on every page; with `rules`, those of axe-core, too."""
    assert len(driver.find_elements(By.CSS_SELECTOR, "header nav, main, footer")) == 3, f"{name}: landmarks"
    assert len(driver.find_elements(By.CSS_SELECTOR, "h1")) == 1, f"{name}: one heading"
    wide = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{name}: {wide} pixels too wide"
    for figure in driver.find_elements(By.CSS_SELECTOR, ".chart"):
        assert figure.find_elements(By.CSS_SELECTOR, "details table, p"), f"{name}: a chart without its figures"
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    own = urlparse(URL).netloc
    outside = [one for one in loaded if urlparse(one).netloc not in (own, "")]
    assert not outside, f"{name}: asks {outside}"
    if AXE and rules:
        # The page's policy runs no script but its own; the driver's is not the page's.
        driver.execute_script(AXE)
        found = driver.execute_async_script(
            "const done = arguments[0]; axe.run().then(result => done(result.violations));"
        )
        told = [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found]
        assert not told, f"{name}: {json.dumps(told, indent=1)}"


def drill():
    """From the overview down to a request, as one would."""
    driver.get(URL + "/")
    for name, css in [
        ("pillar", ".cards a[href^='/pillar/data']"),
        ("feature", "main tbody th a[href^='/feature/']"),
        ("segments", "main .legend a[href*='by=']"),
        ("requests", "main tbody th a[href^='/requests?']"),
        ("request", "main tbody th a[href^='/requests/']"),
    ]:
        find(css).click()
        yield name
    assert heading().startswith("Request "), heading()
    assert "input." in find("thead").text


def pages():
    driver.get(URL + "/")
    yield "overview"
    yield from drill()
    for path in ["pillar/model", "pillar/system", "pillar/business", "incidents", "nowhere"]:
        driver.get(f"{URL}/{path}")
        yield path.replace("/", "-")


def every_page_in_every_form():
    for width in SIZES:
        size(width)
        for colours in ["light", "dark"]:
            scheme(colours)
            for name in pages():
                # Each width and each scheme of colours once: the rules look at both, and take a second a page.
                check_page(f"{name} ({width}, {colours})", (width, colours) in [("desk", "light"), ("phone", "dark")])
                picture(f"{name}-{width}-{colours}")
    backgrounds = []
    for colours in ["light", "dark"]:
        scheme(colours)
        backgrounds.append(find("body").value_of_css_property("background-color"))
    assert backgrounds[0] != backgrounds[1], backgrounds
    size("desk")
    scheme("light")


def keyboard():
    driver.get(URL + "/")
    find("body").send_keys(Keys.TAB)
    first = driver.switch_to.active_element
    assert first.text == "Skip to the figures", first.text
    first.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "main"
    # Down the page, in its order, and into a chart's figures.
    driver.get(URL + "/pillar/system")
    seen = []
    for _ in range(60):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(driver.execute_script("return document.activeElement.tagName"))
        if seen[-1] == "SUMMARY":
            break
    assert seen[-1] == "SUMMARY", seen
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert find("details[open] table").is_displayed()


def renewal():
    driver.get(URL + "/")
    find("details summary").click()
    driver.execute_script("document.activeElement.blur()")
    before = find("#as-of").text
    time.sleep(1.1)
    driver.execute_script("document.dispatchEvent(new Event('streamrec-renew'))")
    for _ in range(100):
        if find("#as-of").text != before:
            break
        time.sleep(0.05)
    assert find("#as-of").text != before, "the figures are not renewed"
    assert find("details").get_attribute("open"), "what was open is closed"
    button = find("#pause")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    paused = find("#as-of").text
    time.sleep(1.1)
    driver.execute_script("document.dispatchEvent(new Event('streamrec-renew'))")
    time.sleep(0.5)
    assert find("#as-of").text == paused, "paused, and renewed all the same"


def acknowledgement():
    driver.get(URL + "/incidents")
    find("input[name=by]").send_keys("Ada <b>")
    find("input[name=note]").send_keys("the client 7.2 again")
    find("form[method=post] button").click()
    told = find("main").text
    assert "Ada <b>" in told and "acknowledged: the client 7.2 again" in told, told
    assert not driver.find_elements(By.CSS_SELECTOR, "form[method=post]")


def without_scripts():
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    for name in drill():
        assert find("main").text, name
    assert not find("#pause").is_displayed()
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


try:
    for claim in [every_page_in_every_form, keyboard, renewal, acknowledgement, without_scripts]:
        claim()
        print("holds:", claim.__name__, "" if AXE else "(without axe)")
    said = [entry for entry in driver.get_log("browser") if "nowhere" not in entry["message"]]
    assert not said, said
finally:
    driver.quit()
