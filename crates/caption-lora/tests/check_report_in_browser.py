"""Opens pages of a run in headless Chromium, in desktop and phone size, light and dark, on paper and by keyboard alone.

    python check_report_in_browser.py [--screenshot PICTURE.png] runs/pokemon/report.html [runs/compare.html ...]

Fails if a page writes to the console, is wider than its window, has text or marks that are hard to read, does not print as it
should, or cannot be used without a mouse. Needs only `chromium` and Python. It is not part of `cargo test`, which
needs no browser.
"""

import argparse
import re
import tempfile
from pathlib import Path

from browser import Browser

# Texts, bars and underlines with less contrast to their background than WCAG 2.2 requires: 4.5 for text, 3 for the others.
FAINT = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((level) => level / 255)
    .map((level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4)
    .reduce((sum, level, channel) => sum + level * [0.2126, 0.7152, 0.0722][channel], 0);
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const clear = (color) => color === "transparent" || channels(color)[3] === 0;
  const ground = (element) => {
    const picture = element.closest("svg");
    if (picture) return getComputedStyle(picture.querySelector("rect")).fill;
    for (let at = element; at; at = at.parentElement) {
      if (!clear(getComputedStyle(at).backgroundColor)) return getComputedStyle(at).backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  const check = (element, color, least, what) => {
    const found = contrast(color, ground(element));
    if (found < least) faint.push(`${what}: ${found.toFixed(2)}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), element = texts.currentNode.parentElement;
    if (!text || !element.getClientRects().length || element.closest("script")) continue;
    const style = getComputedStyle(element);
    check(element, element.closest("svg") ? style.fill : style.color, 4.5, text);
  }
  for (const bar of document.querySelectorAll(".bar")) check(bar, getComputedStyle(bar).borderTopColor, 3, "bar");
  for (const mark of document.querySelectorAll("mark, .best")) {
    check(mark, getComputedStyle(mark).textDecorationColor, 3, "underline of " + mark.textContent);
  }
  return [...new Set(faint)];
})()"""

# The focused element: its name, whether it is visible, and whether it is outlined.
FOCUS = """(() => {
  const at = document.activeElement, style = getComputedStyle(at), box = at.getBoundingClientRect();
  if (at === document.body) return null;
  return {
    name: at.localName + (at.name ? ":" + at.name : ""),
    seen: box.bottom > 0 && box.top < innerHeight && box.width > 0,
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
  };
})()"""

# The layout on paper.
PAPER = """(() => {
  const shown = (element) => element.getClientRects().length > 0;
  const style = (selector) => [...document.querySelectorAll(selector)].filter(shown).map((element) => getComputedStyle(element));
  return {
    plots: [...document.querySelectorAll("figure")].map((figure) => [...figure.querySelectorAll("svg")].filter(shown).length),
    white: style("figure svg > rect:first-of-type").every(({ fill }) => fill === "rgb(255, 255, 255)"),
    ink: style("body")[0].color,
    whole: style(".metric, figure, .gallery li, tr").every(({ breakInside }) => breakInside === "avoid"),
    rows: [...document.querySelectorAll("tbody tr")].every(shown),
    controls: style("nav, .controls label, summary").length,
  };
})()"""


def check_window(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    where = f"{page.name}, {width} pixels, {'dark' if dark else 'light'}"
    browser.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    wide = browser.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0, f"{where}: {wide} pixels wider than the window"
    plots = browser.evaluate(PAPER)["plots"]
    assert all(shown == 1 for shown in plots), f"{where}: {plots} pictures shown in the figures"
    faint = browser.evaluate(FAINT)
    assert not faint, f"{where}: hard to read: {faint}"


def check_paper(browser, page):
    # For a reader who prefers a dark background.
    browser.open(page, 794, dark=True)
    browser.media(dark=True, medium="print")
    paper = browser.evaluate(PAPER)
    assert all(shown == 1 for shown in paper["plots"]), f"{page.name}: {paper['plots']} pictures printed in the figures"
    assert paper["white"] and paper["ink"] == "rgb(0, 0, 0)", f"{page.name}: not black on white: {paper}"
    assert paper["whole"], f"{page.name}: cards or rows may be cut by the end of a sheet"
    assert paper["rows"] and paper["controls"] == 0, f"{page.name}: {paper}"
    faint = browser.evaluate(FAINT)
    assert not faint, f"{page.name}, printed: hard to read: {faint}"
    browser.media(dark=True)
    with tempfile.NamedTemporaryFile(suffix=".pdf") as file:
        browser.print(file.name)
        return len(re.findall(rb"/Type\s*/Page\b", Path(file.name).read_bytes()))


def check_filter(browser, page):
    browser.open(page, 1280)
    browser.evaluate("""window.items = () => [...document.querySelectorAll(".gallery li")];
      window.visible = () => items().filter((item) => item.getClientRects().length).length;
      window.count = (value) => { document.querySelector(`.controls input[value=${value}]`).click(); return visible(); };
      window.mixed = (value) => items().some((item) => item.getClientRects().length && item.dataset.changed !== value);
      window.order = (value, key) => { const select = document.querySelector(".controls select"); select.value = value;
        select.dispatchEvent(new Event("change", { bubbles: true })); return items().map(key); }; 0""")
    changed, same, every = (browser.evaluate(f"count('{value}')") for value in ["yes", "no", "all"])
    for value in ["yes", "no"]:
        assert not browser.evaluate(f"count('{value}'), mixed('{value}')"), f"the filter {value} shows others"
    browser.evaluate("count('all')")
    assert every == browser.evaluate("items().length") > 0 and changed + same == every, (changed, same, every)
    score, gain = "(item) => Number(item.dataset.adapter)", "(item) => item.dataset.adapter - item.dataset.base"
    for name, key, down in [("best", score, True), ("worst", score, False), ("gained", gain, True), ("lost", gain, False)]:
        order = browser.evaluate(f"order('{name}', {key})")
        assert order == sorted(order, reverse=down), f"{name}: {order}"
    return changed, same


def tab(browser, *names):
    """Presses Tab and returns the element that has the focus. It must be one of `names`, visible and outlined."""
    browser.press("Tab")
    focus = browser.evaluate(FOCUS)
    assert focus and focus["name"] in names, f"Tab went to {focus}, not to one of {names}"
    assert focus["seen"] and focus["outlined"], f"the focus is not to be seen: {focus}"
    return focus["name"]


def check_keyboard(browser, page):
    browser.open(page, 1280)
    stops = []
    while browser.press("Tab") or (focus := browser.evaluate(FOCUS)):
        assert focus["seen"] and focus["outlined"], f"the focus is not to be seen: {focus}"
        stops.append(focus["name"])
        assert len(stops) < 100, f"Tab never ends: {stops}"
    if not browser.evaluate("!!document.querySelector('.controls')"):
        return len(stops)
    links = browser.evaluate("document.querySelectorAll('nav a').length")
    assert stops == ["a"] * links + ["summary", "input:show", "select:order"], stops

    browser.open(page, 1280)
    for _ in range(links):
        tab(browser, "a")
    browser.press("Enter")
    reached = browser.evaluate("Math.abs(document.querySelector(location.hash).getBoundingClientRect().bottom - innerHeight) < 200")
    assert reached, "the last link does not lead to its section"

    browser.open(page, 1280)
    while tab(browser, "a", "summary") != "summary":
        pass
    opened = "document.querySelector('details').open"
    for key, expected in [("Enter", True), (" ", False), (" ", True)]:
        browser.press(key)
        assert browser.evaluate(opened) is expected, f"{key!r} does not open or close the table"
    # An open table that may need scrolling can be focused, for the arrow keys.
    while tab(browser, "div", "input:show") != "input:show":
        pass
    shown = lambda: browser.evaluate("""[document.querySelector(".controls input:checked").value, document.querySelector("output").textContent,
      [...document.querySelectorAll(".gallery li")].filter((item) => item.getClientRects().length).length]""")
    every = shown()[2]
    counts = {}
    for key, value in [("ArrowRight", "yes"), ("ArrowRight", "no"), ("ArrowLeft", "yes"), ("ArrowLeft", "all")]:
        browser.press(key)
        chosen, words, counts[value] = shown()
        assert chosen == value and words == f"{counts[value]} of {every} shown", f"{key}: {chosen}, {words}"
    assert counts["yes"] + counts["no"] == counts["all"] == every, counts
    tab(browser, "select:order")
    browser.press("ArrowDown")
    order = browser.evaluate("[...document.querySelectorAll('.gallery li')].map((item) => Number(item.dataset.adapter))")
    assert browser.evaluate("document.activeElement.value") == "best" and order == sorted(order, reverse=True), order
    browser.press("Tab", shift=True)
    assert browser.evaluate(FOCUS)["name"] == "input:show", "Shift and Tab do not lead back"
    return len(stops)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--screenshot", type=Path, help="writes a picture of the first page's beginning")
    parser.add_argument("pages", nargs="+", type=Path)
    options = parser.parse_args()
    with Browser() as browser:
        for page in options.pages:
            for width in [1280, 390]:
                for dark in [False, True]:
                    check_window(browser, page, width, dark)
            sheets, stops = check_paper(browser, page), check_keyboard(browser, page)
            print(f"{page}: nothing too wide or faint, {sheets} sheets of paper, {stops} stops of the Tab key")
            if browser.evaluate("!!document.querySelector('.controls')"):
                print("{}: {} captions changed, {} the same".format(page, *check_filter(browser, page)))
            assert browser.messages == [], f"{page} writes to the console: {browser.messages}"
        if options.screenshot:
            browser.open(options.pages[0], 1180, 1840)
            browser.screenshot(options.screenshot)


if __name__ == "__main__":
    main()
