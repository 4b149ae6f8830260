"""A page in headless Chromium, driven over the DevTools protocol: scripts, clicks, keys, pictures, what went wrong."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync remote-allow-origins=* remote-debugging-port=0 hide-scrollbars disable-dev-shm-usage"
)


def browser() -> str:
    """The browser's command; skips where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("needs chromium or chrome on the PATH")
    return found


class Tab:
    """One tab. `faults` are errors of scripts and of the console, `requests` the addresses that were asked for."""

    def __init__(self, address: str) -> None:
        websocket = pytest.importorskip("websocket", reason="needs websocket-client")
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0
        self.faults: list[str] = []
        self.requests: list[str] = []
        self._events: list[dict[str, Any]] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, told = message.get("method"), message.get("params", {})
        self._events.append({"method": method, **told})
        if method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.faults.append(" ".join(str(a.get("value", a.get("description"))) for a in told["args"]))
        elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.faults.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.faults.append(f"dialog: {told['message']}")

    def close(self) -> None:
        """Let go of the tab."""
        self._socket.close()

    def run(self, script: str) -> Any:
        """Return what an expression gives, awaited."""
        told = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in told:
            details = told["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return told["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> Any:
        """Wait for an expression to be true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(f"(v => v instanceof Node ? true : v)({script})")
            if value:
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; {self.faults}")

    def open(self, path: Path, width: int = 1366, height: int = 800, *, dark: bool = False) -> None:
        """Open a file and wait until its script is ready."""
        phone = width < 600
        self.ask("Page.navigate", url="about:blank")  # what the page before still asks for is not this one's
        self.until("location.href === 'about:blank'")
        self.faults.clear()
        self.requests.clear()
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.absolute().as_uri())
        self.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")

    def click(self, x: float, y: float) -> None:
        """Press and let go of the mouse."""
        where = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.ask("Input.dispatchMouseEvent", type="mousePressed", **where)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", **where)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag with the mouse."""
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self.ask("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        for share in (0.3, 0.7, 1.0):
            x, y = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.ask("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def key(self, name: str, text: str = "") -> None:
        """Press a key."""
        code = {"Escape": 27, "Enter": 13, "Tab": 9}.get(name, 0)
        text = text or (name if len(name) == 1 else "")
        kind = "keyDown" if text else "rawKeyDown"
        self.ask("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code, text=text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def box(self, selector: str) -> list[float]:
        """Return left, top, width and height of an element, scrolled to the middle of the screen."""
        return self.run(
            f"(() => {{const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center', "
            "behavior: 'instant'}); const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height];})()"
        )

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save a screenshot."""
        told = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(told["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Tab]:
    """Start the browser with a profile of its own; yields its tab."""
    process = subprocess.Popen(
        [browser(), *(f"--{flag}" for flag in _FLAGS.split()), f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        place = profile / "DevToolsActivePort"
        for _ in range(600):
            if place.is_file() and place.read_text().count("\n"):
                break
            assert process.poll() is None, "the browser ended at once"
            time.sleep(0.05)
        tab = Tab(_tab_of(place.read_text().splitlines()[0]))
        try:
            yield tab
        finally:
            tab.close()
    finally:
        process.terminate()
        process.wait(20)


def _tab_of(port: str) -> str:
    from urllib.request import urlopen

    for _ in range(100):
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=10) as answer:
            tabs = [one for one in json.loads(answer.read()) if one["type"] == "page"]
        if tabs:
            return tabs[0]["webSocketDebuggerUrl"]
        time.sleep(0.05)
    raise AssertionError("the browser has no tab")
