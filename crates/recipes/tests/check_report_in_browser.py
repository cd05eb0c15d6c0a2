"""Opens a run's report in headless Chromium: no message on the console, filter and order work, nothing wider than the window.

    python check_report_in_browser.py runs/pokemon/report.html [SCREENSHOT.png]

Needs `chromium`, and for the screenshot nothing more. Not part of `cargo test`, which needs no browser.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CHROMIUM = """chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars --enable-logging=stderr""".split()
# Does what a reader does, and says what is seen, as the only line on the console.
PROBE = """<script>addEventListener("load", () => {
  const controls = document.querySelector(".controls"), items = () => [...document.querySelectorAll(".gallery li")];
  const visible = () => items().filter((item) => item.getClientRects().length).length;
  const count = (value) => { controls.querySelector(`input[value=${value}]`).click(); return visible(); };
  const seen = { yes: count("yes"), no: count("no"), all: count("all"), total: items().length };
  const select = controls.querySelector("select");
  const order = (value, key) => { select.value = value; select.dispatchEvent(new Event("change", { bubbles: true }));
    return items().map(key); };
  seen.best = order("best", (item) => Number(item.dataset.adapter));
  seen.worst = order("worst", (item) => Number(item.dataset.adapter));
  seen.gained = order("gained", (item) => item.dataset.adapter - item.dataset.base);
  document.querySelectorAll("details").forEach((details) => (details.open = true));
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  console.log("PROBE " + JSON.stringify(seen));
});</script>"""


def browse(page, width, height, *options):
    with tempfile.TemporaryDirectory() as profile:
        command = [*CHROMIUM, f"--user-data-dir={profile}", f"--window-size={width},{height}", *options, page.resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.findall(r'CONSOLE:\d+\] "(.*)", source', done.stderr)


def main():
    page = Path(sys.argv[1])
    for width in [1280, 500]:
        assert browse(page, width, 900, "--dump-dom") == [], "the page writes to the console"
        with tempfile.NamedTemporaryFile("w", suffix=".html") as probed:
            probed.write(page.read_text().replace("</body>", PROBE + "</body>"))
            probed.flush()
            [line] = browse(Path(probed.name), width, 900, "--dump-dom")
        seen = json.loads(line.removeprefix("PROBE "))
        assert seen["all"] == seen["total"] > 0 and seen["yes"] + seen["no"] == seen["total"], seen
        assert seen["best"] == sorted(seen["best"], reverse=True) and seen["worst"] == sorted(seen["worst"]), seen
        assert seen["gained"] == sorted(seen["gained"], reverse=True), seen
        assert seen["wide"] <= 0, seen
        print(f"{width} pixels: {seen['yes']} changed, {seen['no']} the same, console empty, nothing too wide")
    if len(sys.argv) > 2:
        browse(page, 1280, 1720, f"--screenshot={sys.argv[2]}")


if __name__ == "__main__":
    main()
