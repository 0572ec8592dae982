"""Invented results in a directory, and a browser to look at pages."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import subprocess

import pytest

from detox_jax.report import report
from tests.conftest import draw_few_files
from tests.evaluation import results_made


@pytest.fixture
def fake(tmp_path):
    """The path of a written `results.json`, with everything beside it."""
    return results_made.write(tmp_path / "evaluation", results_made.made_results())


@pytest.fixture
def all_pictures():
    """Asked for by a test that looks at the PNG and PDF of pictures."""


@pytest.fixture(autouse=True)
def _few_pictures(request, monkeypatch):
    if "all_pictures" not in request.fixturenames:
        draw_few_files(monkeypatch)


@pytest.fixture
def without_files_of_charts(monkeypatch):
    """Asked for by a test that looks at tables alone; the page draws the same charts."""
    monkeypatch.setattr(report, "charts", lambda evaluation: [])


# --- browser ----------------------------------------------------------------------------------


class Browser:
    """Chromium, led over its pipe by the DevTools protocol."""

    def __init__(self, profile):
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        if binary is None:
            pytest.skip("no Chromium is installed")
        # The protocol reads from descriptor 3 and writes to 4; the pipes lie above, out of the way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (*os.pipe(), *os.pipe())]
        to_read, self._write, self._read, to_write = ends
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe"
        quiet = "--disable-background-networking --disable-component-update --disable-sync"
        self._process = subprocess.Popen(
            [binary, *flags.split(), *quiet.split(), f"--user-data-dir={profile}"],
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=lambda: (os.dup2(to_read, 3), os.dup2(to_write, 4)),
        )
        os.close(to_read)
        os.close(to_write)
        self._ids = itertools.count(1)
        self._buffer = b""
        self._session = None
        self.events = []

    @contextlib.contextmanager
    def tab(self):
        """A tab of its own, empty, and without what the last one said."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session, self.events = attached["sessionId"], []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        yield self
        self._session = None
        self.call("Target.closeTarget", targetId=target)

    def call(self, method, **parameters):
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _next(self):
        while b"\0" not in self._buffer:
            chunk = os.read(self._read, 1 << 20)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, file, width=1280, media="screen", scheme="light"):
        self.events = [e for e in self.events if e.get("method") != "Page.loadEventFired"]
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url=f"file://{file}")
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._next())

    def run(self, expression):
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return answer["result"].get("value")

    def press(self, key, text=""):
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        fields = {"key": key, "code": key.replace(" ", "Space"), "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **fields)
        self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def problems(self):
        """What the console said."""
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [event for event in self.events if event.get("method") in kinds]

    def close(self):
        self._session = None
        os.write(self._write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        self._process.wait(30)
        os.close(self._write)
        os.close(self._read)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    running = Browser(tmp_path_factory.mktemp("chromium") / "profile")
    yield running
    running.close()


@pytest.fixture
def browser(chromium):
    with chromium.tab() as tab:
        yield tab
