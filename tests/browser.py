"""Headless Chromium for tests, over its DevTools protocol on a pipe: no port, no driver, no package."""

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 60  # seconds
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]


class Browser:
    """A page in a browser.

    Attributes:
        errors: what its console said of errors, and exceptions of scripts.
        requests: addresses that were asked of the network.
    """

    def __init__(self, writing: int, reading: int) -> None:
        self.writing, self.reading = writing, reading
        self.numbers = itertools.count(1)
        self.buffer = b""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """The result of a command; events that come before it are noted."""
        number = next(self.numbers)
        command = {"id": number, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.writing, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != number:
            self._note(message)
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def _receive(self, seconds: float = 60) -> dict:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.reading], [], [], seconds)
            assert ready, "the browser does not answer"
            self.buffer += os.read(self.reading, 1 << 20)
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert"):
                self.errors.append(json.dumps(params["args"])[:500])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.errors.append(params["entry"]["text"][:500])
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("data:", "file:")):
                self.requests.append(params["request"]["url"])

    def open(self, path: Path, width: int = 1280, height: int = 900) -> None:
        """Open a file in a window of this size, and wait until it is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.loaded = False
        self.call("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while not self.loaded:
            assert time.monotonic() < end, f"never loaded: {path}"
            self._note(self._receive())
        self.ask("document.fonts.ready.then(() => true)")

    def ask(self, expression: str, frame: str = ""):
        """Value of an expression of JavaScript, a promise's when it is kept; of the page, or of a frame in it."""
        where = {}
        if frame:
            where["contextId"] = self.call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, **where)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def frame(self) -> str:
        """The frame in the page, once it is loaded."""
        self.wait("document.querySelector('iframe')")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            frames = self.call("Page.getFrameTree")["frameTree"].get("childFrames", [])
            filled = (
                "document.readyState == 'complete' && document.body.childElementCount > 0"  # not the blank one before
            )
            with contextlib.suppress(AssertionError):  # what was asked may be gone when the answer is made
                if frames and self.ask(filled, frames[0]["frame"]["id"]):
                    return frames[0]["frame"]["id"]
            time.sleep(0.05)
        raise AssertionError("the frame was never loaded")

    def wait(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(f"Boolean({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def picture(self) -> bytes:
        """The window as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


def missing() -> str:
    """Why there is no browser; empty if there is one."""
    return "" if any(map(shutil.which, PROGRAMS)) else f"none of {', '.join(PROGRAMS)} is installed"


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in an empty folder."""
    program = next(filter(None, map(shutil.which, PROGRAMS)))
    (commands_out, commands_in), (answers_out, answers_in) = os.pipe(), os.pipe()
    line = [program, *OPTIONS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(  # it reads from 3 and writes to 4
        ["bash", "-c", f'exec "$@" 3<&{commands_out} 4>&{answers_in}', "bash", *line],
        pass_fds=[commands_out, answers_in],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(commands_out)
    os.close(answers_in)
    try:
        yield Browser(commands_in, answers_out)
    finally:
        process.terminate()
        process.wait(30)
        os.close(commands_in)
        os.close(answers_out)
