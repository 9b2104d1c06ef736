"""A run's report in a real browser: python report.py FILE PICTURES [AXE]

One file, opened from the disk: it asks for nothing, is read in light and dark, on a desk, on phones and on paper, by
eye, by screen reader and by keyboard. Prints what was checked; fails at the first claim that does not hold.
"""

import sys
from pathlib import Path

from browser import Browser, hold

FILE = Path(sys.argv[1]).resolve()
URL = FILE.as_uri()
browser = Browser(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
find = browser.find


def every_form():
    backgrounds = set()
    for width in ["desk", "phone", "small phone"]:
        browser.size(width)
        for colours in ["light", "dark"]:
            browser.scheme(colours)
            browser.open(URL)
            browser.check(f"{width}, {colours}")
            browser.picture(f"report-{width}-{colours}")
            backgrounds.add(find("body").value_of_css_property("background-color"))
    assert len(backgrounds) == 2, backgrounds
    browser.size("desk")
    browser.scheme("light")


def every_section_is_there_and_led_to():
    browser.open(URL)
    links = browser.all("nav a")
    names = [link.text for link in links]
    expected = ["Gate", "Training", "Evaluations", "Calibration and scores", "Segments", "Data"]
    assert names == expected, names
    for link in links:
        link.click()
        place = browser.js("return document.querySelector(':target').getBoundingClientRect().top")
        heading = browser.js("return document.querySelector(':target').textContent")
        assert heading == link.text and -1 <= place < 900, (heading, place)
    told = find("dl.facts").text
    for fact in ["Gate", "pass", "Steps", "AUC of click, test", "Rows of training"]:
        assert fact in told, told
    assert "platform = ios" in find("section[aria-labelledby=Segments]").text


def charts_say_what_they_show():
    browser.open(URL)
    labels = [picture.get_attribute("aria-label") for picture in browser.all("figure svg[role=img]")]
    for title in ["Loss: ", "AUC: ", "Calibration of click: ", "Scores of click: ", "Density of "]:
        told = [label for label in labels if label.startswith(title)]
        assert told and any(letter.isdigit() for letter in told[0]), (title, labels)
    charts = browser.all(".chart")
    assert len(charts) == len(browser.all(".chart details")) == len(labels)
    # Nothing of a picture lies outside of it.
    outside = browser.js(
        "return [...document.querySelectorAll('figure svg[role=img]')].flatMap(svg => { const box = svg.getBBox();"
        " const view = svg.viewBox.baseVal; const out = box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1"
        " || box.y + box.height > view.height + 1; return out ? [svg.getAttribute('aria-label').slice(0, 40)] : []; })"
    )
    assert not outside, outside


def keyboard():
    browser.open(URL)
    browser.tab_to("a")
    assert browser.focused().text == "Skip to the figures"
    browser.press("ENTER")
    assert browser.focused().get_attribute("id") == "main"
    browser.tab_to("summary")
    browser.press("ENTER")
    assert find("details[open] table").is_displayed()
    browser.open(URL)
    reached = browser.tab_through()
    wanted = len(browser.all("a, summary")) + len([one for one in browser.all("[tabindex='0']") if one.is_displayed()])
    assert reached == wanted, (reached, wanted)


def without_scripts():
    browser.scripts(False)
    browser.open(URL)
    assert len(browser.all("section")) == 6
    browser.scripts(True)


def on_paper():
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 10_000


def nothing_is_asked_and_no_error_is_told():
    asked = {one for one in browser.requests() if not one.startswith("data:")}
    assert {one.split("#")[0] for one in asked} == {URL}, asked
    assert not browser.said(), browser.said()


with browser:
    hold(
        browser,
        [
            every_form,
            every_section_is_there_and_led_to,
            charts_say_what_they_show,
            keyboard,
            without_scripts,
            on_paper,
            nothing_is_asked_and_no_error_is_told,
        ],
    )
