"""A headless Chromium, driven by its own protocol over a pair of pipes: no driver program, no package.

Protocol: https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

# A bound of what hangs, not of what is slow.
PATIENCE = 300


class Browser:
    """One page in a browser of its own. Keeps what the console said and what was asked of the network."""

    def __init__(self, program):
        self.profile = tempfile.mkdtemp()
        # The browser reads from descriptor 3 and writes to 4.
        commands, self.commands = os.pipe()
        self.events, events = os.pipe()
        line = [program, "--headless", "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "--no-first-run"]
        # Its sandbox needs user namespaces, which root in a container has not; the page is our own.
        line += ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        shell = ["sh", "-c", f'exec "$@" 3<&{commands} 4>&{events}', "sh", *line]
        self.process = subprocess.Popen(shell, pass_fds=(commands, events), stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(events)
        self.rest = b""
        self.number = 0
        self.session = None
        self.console, self.requests, self.told = [], [], set()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Network", "Log", "DOM"]:
            self.call(f"{domain}.enable")

    def close(self):
        self.session = None
        try:
            self.call("Browser.close")
            self.process.wait(PATIENCE)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method, **parameters):
        """One command and its result; events on the way are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.commands, data) :]
        while True:
            answer = self.next()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def next(self):
        while b"\0" not in self.rest:
            read = os.read(self.events, 1 << 16)
            assert read, "the browser has ended"
            self.rest += read
        message, self.rest = self.rest.split(b"\0", 1)
        message = json.loads(message)
        self.told.add(message.get("method"))
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.console.append(json.dumps(message["params"]["args"]))
            case "Runtime.exceptionThrown":
                self.console.append(json.dumps(message["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                entry = message["params"]["entry"]
                self.console.append(f"{entry['text']} ({entry.get('url')})")
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return message

    def evaluate(self, expression):
        """A JavaScript expression's value; promises are awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait_for(self, expression):
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} never came; {self.console}"
            time.sleep(0.02)

    def wait_until_told(self, event):
        """Until the browser has told of such an event."""
        end = time.monotonic() + PATIENCE
        while event not in self.told:
            assert time.monotonic() < end, f"{event} never came"
            self.evaluate("0")

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.wait_for(f"document.readyState === 'complete' && location.href === '{url}'")

    def resize(self, width, height, touch=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def prefer(self, scheme):
        """Light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def choose(self, selector, path):
        """Sets the file of an input, as the dialogue would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[os.path.abspath(path)])

    def press(self, key):
        """A key that writes something, or one by its name."""
        text = key if len(key) == 1 else ""
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text if kind == "keyDown" else "")

    def screenshot(self, path):
        """The whole page, however long."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture))
