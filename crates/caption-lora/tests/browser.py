"""Headless Chromium, controlled with its DevTools protocol over a pair of pipes, so that a script can use a page like a reader.

Needs only `chromium` and Python, no driver or package.
"""

import base64
import fcntl
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe""".split()
# The protocol's names of the keys, their codes, and the characters that they write.
KEYS = {
    "Tab": (9, None),
    "Enter": (13, "\r"),
    " ": (32, " "),
    "End": (35, None),
    "Home": (36, None),
    "ArrowLeft": (37, None),
    "ArrowUp": (38, None),
    "ArrowRight": (39, None),
    "ArrowDown": (40, None),
}


class Browser:
    """A browser with one tab. `messages` has the page's output on the console and the browser's messages about the page."""

    def __init__(self):
        self.profile = tempfile.mkdtemp()
        pipes = os.pipe(), os.pipe()
        # Above the child's descriptors 3 and 4, so that neither is overwritten before it is moved.
        listen, speak = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (pipes[0][0], pipes[1][1]))
        self.commands, self.answers = os.fdopen(pipes[0][1], "wb"), os.fdopen(pipes[1][0], "rb")
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        moves = [(os.POSIX_SPAWN_DUP2, listen, 3), (os.POSIX_SPAWN_DUP2, speak, 4)]
        arguments = ["chromium", *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        self.process = os.posix_spawnp("chromium", arguments, os.environ, file_actions=null + moves)
        for end in (pipes[0][0], pipes[1][1], listen, speak):
            os.close(end)
        self.numbers, self.messages, self.events, self.rest = itertools.count(1), [], [], b""
        self.session = None
        tab = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "DOM", "Accessibility"]:
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.session = None
        self.call("Browser.close")
        os.waitpid(self.process, 0)
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method, **parameters):
        """Asks the browser to do something and waits for its answer."""
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        self.commands.write(json.dumps({"id": number, "method": method, "params": parameters, **session}).encode() + b"\0")
        self.commands.flush()
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']['message']}"
                return answer["result"]

    def receive(self):
        while b"\0" not in self.rest:
            chunk = os.read(self.answers.fileno(), 1 << 20)
            assert chunk, "the browser has gone"
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(message)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.messages.append(" ".join(str(part.get("value", part)) for part in parameters["args"]))
            case "Runtime.exceptionThrown":
                self.messages.append(parameters["exceptionDetails"]["text"])
            case "Log.entryAdded":
                self.messages.append(parameters["entry"]["text"])
            case str(name):
                self.events.append(name)
        return message

    def open(self, page, width, height=900, dark=False):
        """Opens the file `page` in a window of that many pixels, where the reader prefers a light or a dark ground."""
        self.window(width, height)
        self.media(dark)
        self.events.clear()
        self.call("Page.navigate", url=Path(page).resolve().as_uri())
        while "Page.loadEventFired" not in self.events:
            self.receive()

    def window(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, dark, medium=""):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=medium, features=[scheme])

    def evaluate(self, script):
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, shift=False):
        """Presses a key as a keyboard does; it goes to whatever has the focus."""
        code, text = KEYS[key]
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path, whole=False):
        """Writes what the window shows, or the whole page, to a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True} if whole else {}
        Path(path).write_bytes(base64.b64decode(self.call("Page.captureScreenshot", **clip)["data"]))

    def print(self, path, **options):
        """Prints the page to a PDF file, on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, **options}
        Path(path).write_bytes(base64.b64decode(self.call("Page.printToPDF", **paper)["data"]))
