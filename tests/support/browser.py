"""A Chromium without windows that opens pages and tells what they asked for, said and show.

The program is Debian's, unpacked by dev/setup.sh. It is told what to do through a pipe, in the DevTools protocol. It
reaches no host, and so a page that asks for something is told on and gets nothing.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.server import LOCAL
from shop import PATIENCE_SECONDS

TREE = LOCAL / "chromium"
WIDTH, HEIGHT = 1000, 800
SETTLE_SECONDS = 0.3  # what a page starts after it was loaded

# How many pixels of a picture have each colour, as {"r,g,b": count}.
COLOURS = """
(async () => {
    const image = new Image();
    image.src = "data:image/png;base64,%s";
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, image.width, image.height).data, colours = {};
    for (let at = 0; at < pixels.length; at += 4) {
        const colour = pixels.slice(at, at + 3).join();
        colours[colour] = (colours[colour] || 0) + 1;
    }
    return colours;
})()
"""


class Chromium:
    """`open` gives a page that has been loaded."""

    def __init__(self, process, to_browser, from_browser):
        self.process, self._to, self._from = process, to_browser, from_browser
        self._numbers, self._rest, self._pages = itertools.count(1), b"", {}

    def open(self, path):
        page = self._page(path.as_uri())
        answer = self.call("Page.navigate", page.session, url=page.url)
        assert "errorText" not in answer, answer
        self._read(lambda _: page.is_loaded, f"{page.url} is loaded")
        self._read(lambda _: False, None, SETTLE_SECONDS)
        return page

    def call(self, method, session=None, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._read(lambda message: message.get("id") == number, f"an answer to {method}")
        assert "error" not in answer, (method, answer)
        return answer["result"]

    def colours(self, picture):
        """{(red, green, blue): how many pixels}"""
        found = self._page("about:blank").evaluate(COLOURS % base64.b64encode(picture).decode())
        return {tuple(map(int, colour.split(","))): count for colour, count in found.items()}

    def _page(self, url):
        target = self.call("Target.createTarget", url="about:blank", width=WIDTH, height=HEIGHT)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session, url)
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable", session)
        return page

    def _read(self, wanted, what, seconds=PATIENCE_SECONDS):
        """Takes messages until one is wanted; where `what` is None, for so long."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            message = self._next()
            if not message:
                continue
            page = self._pages.get(message.get("sessionId"))
            if page and "method" in message:
                page.notice(message["method"], message["params"])
            if wanted(message):
                return message
        assert what is None, f"never happened: {what}"

    def _next(self):
        while b"\0" not in self._rest:
            assert self.process.poll() is None, "Chromium came to an end"
            try:
                self._rest += os.read(self._from, 1 << 20)
            except BlockingIOError:
                time.sleep(0.005)
                return None
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)


@dataclass
class Page:
    chromium: Chromium
    session: str
    url: str
    is_loaded: bool = False
    requests: list = field(default_factory=list)  # but for the page itself and what it carries
    said: list = field(default_factory=list)  # on the console, by an exception or in a dialog

    def notice(self, method, parameters):
        if method == "Page.loadEventFired":
            self.is_loaded = True
        elif method == "Network.requestWillBeSent" and parameters["request"]["url"] != self.url:
            asked = parameters["request"]["url"]
            self.requests += [] if asked.startswith("data:") else [asked]
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.said.append(parameters)
        elif method == "Page.javascriptDialogOpening":
            self.said.append(parameters["message"])
            self.chromium.call("Page.handleJavaScriptDialog", self.session, accept=True)

    def evaluate(self, expression):
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.chromium.call("Runtime.evaluate", self.session, expression=expression, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, selector="html", number=0):
        """A picture of an element, as a PNG."""
        box = self.evaluate(f"document.querySelectorAll({json.dumps(selector)})[{number}].getBoundingClientRect()"
                            ".toJSON()")  # fmt: skip
        clip = {key: box[key] for key in ("x", "y", "width", "height")} | {"scale": 1}
        options = {"clip": clip, "captureBeyondViewport": True}
        return base64.b64decode(self.chromium.call("Page.captureScreenshot", self.session, **options)["data"])


@contextmanager
def chromium():
    """A browser that runs during the block."""
    program = TREE / "usr/lib/chromium/chromium-headless-shell"
    assert program.exists(), "Chromium is missing: get it with: dev/setup.sh chromium"
    libraries = [*TREE.glob("usr/lib/*-linux-gnu"), *TREE.glob("lib/*-linux-gnu")]
    libraries += TREE.glob("usr/lib/*-linux-gnu/pulseaudio")
    with tempfile.TemporaryDirectory(prefix="inventory_ext-chromium-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)), "FONTCONFIG_FILE": str(TREE / "fonts.conf"),
            "HOME": folder,
        }  # fmt: skip
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        options += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder}/profile"]
        with open(Path(folder, "output"), "wb") as output, _pipes() as (mine, its):
            # The protocol is spoken on the descriptors 3 and 4.
            command = [program, "--remote-debugging-pipe", *options]
            process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{its[0]} 4>&{its[1]}', "bash", *command],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=its,
                start_new_session=True,
            )  # fmt: skip
            try:
                yield Chromium(process, *mine)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def _pipes():
    """((to write to, to read from), and their other ends)"""
    ends = [*os.pipe(), *os.pipe()]
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends]
    for end in ends:
        os.close(end)
    its_in, mine_out, mine_in, its_out = high
    os.set_blocking(mine_in, False)
    try:
        yield (mine_out, mine_in), (its_in, its_out)
    finally:
        for end in high:
            os.close(end)
