"""The dashboard in a real browser: python dashboard.py URL PICTURES [AXE]

Clicks from a pillar to a request, by mouse and by keyboard; at the width of a desk and of a phone; in light and dark;
with and without scripts. AXE is the file axe.min.js of axe-core. Prints what was checked; fails at the first claim
that does not hold.
"""

import sys
import time
from urllib.parse import urlparse

from browser import Browser, hold

URL = sys.argv[1].rstrip("/")
browser = Browser(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None)
find = browser.find


def heading():
    return find("h1").text


def drill():
    """From the overview down to a request, as one would."""
    browser.open(URL + "/")
    for name, css in [
        ("pillar", ".cards a[href^='/pillar/data']"),
        ("feature", "main tbody th a[href^='/feature/']"),
        ("segments", "main .legend a[href*='by=']"),
        ("requests", "main tbody th a[href^='/requests?']"),
        ("request", "main tbody th a[href^='/requests/']"),
    ]:
        browser.follow(find(css))
        yield name
    assert heading().startswith("Request "), heading()
    assert "input." in find("thead").text


def pages():
    browser.open(URL + "/")
    yield "overview"
    yield from drill()
    pillars = ["pillar/model", "pillar/system", "pillar/business"]
    for path in [*pillars, "rules", "rules/slow", "rules/missing", "incidents", "nowhere"]:
        browser.open(f"{URL}/{path}")
        yield path.replace("/", "-")


def every_page_in_every_form():
    for width in ["desk", "phone"]:
        browser.size(width)
        for colours in ["light", "dark"]:
            browser.scheme(colours)
            for name in pages():
                # Each width and each scheme of colours once: the rules look at both, and take a second a page.
                rules = (width, colours) in [("desk", "light"), ("phone", "dark")]
                browser.check(f"{name} ({width}, {colours})", rules)
                browser.picture(f"{name}-{width}-{colours}")
    backgrounds = []
    for colours in ["light", "dark"]:
        browser.scheme(colours)
        backgrounds.append(find("body").value_of_css_property("background-color"))
    assert backgrounds[0] != backgrounds[1], backgrounds
    browser.size("desk")
    browser.scheme("light")


def keyboard():
    browser.open(URL + "/")
    browser.tab_to("a")
    first = browser.focused()
    assert first.text == "Skip to the figures", first.text
    browser.press("ENTER")
    assert browser.focused().get_attribute("id") == "main"
    # Down the page, in its order, and into a chart's figures.
    browser.open(URL + "/pillar/system")
    browser.tab_to("summary")
    browser.press("ENTER")
    assert find("details[open] table").is_displayed()


def renewal():
    browser.open(URL + "/")
    find("details summary").click()
    browser.js("document.activeElement.blur()")
    before = find("#as-of").text
    time.sleep(1.1)
    browser.js("document.dispatchEvent(new Event('streamrec-renew'))")
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
    browser.js("document.dispatchEvent(new Event('streamrec-renew'))")
    time.sleep(0.5)
    assert find("#as-of").text == paused, "paused, and renewed all the same"


def a_rule_is_reached_from_its_incident_and_its_pillar():
    for start, css in [
        ("/incidents", "main p a[href^='/rules/slow?']"),
        ("/pillar/system", "main tbody th a[href='/rules/slow']"),
        ("/rules", "main tbody th a[href='/rules/slow']"),
    ]:
        browser.open(URL + start)
        browser.follow(find(css))
        assert heading() == "Rule slow", heading()
        assert "fires" in find("main .badge").text
        picture = find(".chart svg[role=img]")
        words = picture.get_attribute("aria-label")
        assert words.startswith("latency_p50_ms: measured ") and "; at most " in words and "; fires " in words, words
        for mark in ["polyline.s0", "polyline.limit", "rect.span"]:
            assert browser.all(f".chart svg[role=img] {mark}"), mark
        legend = find(".chart .legend").text
        assert legend.split("\n") == ["measured", "at most", "fires"], legend
    find(".chart summary").click()
    figures = find(".chart details table").text
    assert "fires" in figures and "UTC" not in figures, figures
    # What is asked for besides stays when one looks further back.
    browser.open(f"{URL}/rules/missing")
    assert heading() == "Rule missing" and len(browser.all(".chart")) == 8, heading()
    first = find("main tbody th a[href*='key=']")
    name = first.text
    assert " where platform = " in name, name
    browser.follow(first)
    assert [one.text for one in browser.all(".chart figcaption")] == [f"missing_rate {name}"]
    find("#hours option[value='168']").click()
    browser.follow(find("footer form button"))
    assert "hours=168" in browser.driver.current_url and "key=" in browser.driver.current_url
    assert [one.text for one in browser.all(".chart figcaption")] == [f"missing_rate {name}"]
    browser.follow(find("main td a[href*='/feature/']"))
    assert heading().startswith("Feature ") and "by=platform" in browser.driver.current_url
    # The episode of an incident, and back to it.
    browser.open(f"{URL}/rules/slow")
    browser.follow(find("main tbody th a[href^='/incidents#']"))
    target = browser.js("return document.querySelector(':target').textContent")
    assert target.startswith("slow of "), target
    browser.open(f"{URL}/rules")
    told = " ".join(find("main table").text.split())
    for state in ["slow fires critical", "ranked_badly fires warning", "missing good critical", "never_judged nothing"]:
        assert state in told, told
    browser.open(URL + "/")
    assert "rules that fire\n1 of 1" in find(".cards li:nth-child(3)").text


def acknowledgement():
    browser.open(URL + "/incidents")
    forms = len(browser.all("form[method=post]"))
    find("input[name=by]").send_keys("Ada <b>")
    find("input[name=note]").send_keys("the client 7.2 again")
    browser.follow(find("form[method=post] button"))
    told = find("main").text
    assert "Ada <b>" in told and "acknowledged: the client 7.2 again" in told, told
    assert len(browser.all("form[method=post]")) == forms - 1


def without_scripts():
    browser.scripts(False)
    for name in drill():
        assert find("main").text, name
    assert not find("#pause").is_displayed()
    browser.scripts(True)


def nothing_else_is_asked_and_no_error_is_told():
    outside = [one for one in browser.requests() if urlparse(one).netloc not in (urlparse(URL).netloc, "")]
    assert not outside, f"asks {outside}"
    said = [entry for entry in browser.said() if "nowhere" not in entry["message"]]
    assert not said, said


with browser:
    hold(
        browser,
        [
            every_page_in_every_form,
            keyboard,
            renewal,
            a_rule_is_reached_from_its_incident_and_its_pillar,
            acknowledgement,
            without_scripts,
            nothing_else_is_asked_and_no_error_is_told,
        ],
    )
