"""Headless Chromium over its DevTools pipe: pages opened, asked and listened to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from axe_core_python.base import AXE_SCRIPT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


class Browser:
    """A Chromium with one tab; use it in a ``with`` block.

    Args:
        profile: an empty folder for what the browser keeps.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        words = f'exec "$0" "$@" 3<&{theirs} 4>&{back}'
        self._process = subprocess.Popen(
            [
                *("bash", "-c", words, CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(theirs, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._rest = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.messages: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._from)

    def call(self, method: str, **parameters: Any) -> Any:
        """The result of a command; what the page says meanwhile is kept in `messages`."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                return said["result"]

    def _next(self) -> Any:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        said = json.loads(first)
        if said.get("method") in (
            *("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"),
        ):
            self.messages.append(json.dumps(said["params"]))
        return said

    def open(self, page: Path, width: int, *, dark: bool = False, media: str = "") -> None:
        """Open a file at a width in CSS pixels, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, or of the promise in it, as JSON carries it."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def axe(self) -> tuple[list[str], list[str]]:
        """The faults that axe-core finds on the page, and what it cannot decide."""
        self.ask(f"{AXE_SCRIPT}; 0")
        kinds = ("violations", "incomplete")
        found = self.ask(f"axe.run(document, {{resultTypes: {json.dumps(kinds)}}})")
        faults, undecided = (
            [
                f"{rule['id']}: {node['html'][:200]}"
                for rule in found[kind]
                for node in rule["nodes"]
            ]
            for kind in kinds
        )
        return faults, undecided
