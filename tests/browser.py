"""Headless Chromium through its DevTools protocol: what the browser tests need of it, without another package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
  """The browser's program, None if there is none."""
  return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
  """One page. `errors` has what its console reports and what it throws, `requests` every address it asks for."""

  def __init__(self, folder: Path, size: tuple[int, int] = (1400, 850)):
    """Args:
    folder: an empty one, for the profile and downloads.
    size: (width, height) px.
    """
    from websockets.sync.client import connect

    self.errors: list[str] = []
    self.requests: list[str] = []
    self.size = size
    self.downloads = folder / "downloads"
    self.downloads.mkdir()
    # Software WebGL: there is no graphics card in CI.
    flags = (
      "--headless --no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --disable-quic --no-first-run "
      "--disable-background-networking --disable-component-update --disable-sync --mute-audio --hide-scrollbars "
      f"--remote-debugging-port=0 --user-data-dir={folder / 'profile'} --window-size={size[0]},{size[1]} about:blank"
    )
    environment = os.environ | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    self._process = subprocess.Popen(
      [find(), *flags.split()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment,
      start_new_session=True,
    )  # fmt: skip
    port_file = folder / "profile" / "DevToolsActivePort"
    deadline = time.monotonic() + 60
    while not (port_file.exists() and len(port_file.read_text().splitlines()) >= 2):
      if time.monotonic() > deadline or self._process.poll() is not None:
        raise RuntimeError("the browser did not start")
      time.sleep(0.1)
    port, path = port_file.read_text().splitlines()[:2]
    self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None)
    self._ids = itertools.count(1)
    self._session: str | None = None
    target = self._call("Target.createTarget", url="about:blank")["targetId"]
    self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    for domain in ("Page", "Runtime", "Network", "Log"):
      self._call(f"{domain}.enable")
    self._call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
    self._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

  def close(self) -> None:
    try:
      self._session = None
      self._call("Browser.close")
    except Exception:  # it may be gone already
      pass
    try:
      self._process.wait(10)
    except subprocess.TimeoutExpired:
      self._process.kill()

  def open(self, address: str) -> None:
    self._call("Page.navigate", url=address)

  def evaluate(self, script: str):
    """The value of a JavaScript expression."""
    found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    if "exceptionDetails" in found:
      raise RuntimeError(f"{script[:80]}: {found['exceptionDetails']}")
    return found["result"].get("value")

  def wait_for(self, script: str, seconds: float = 30):
    """The value of an expression once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := self.evaluate(script)):
      if time.monotonic() > deadline:
        raise TimeoutError(f"never true: {script}")
      time.sleep(0.2)
    return value

  def screenshot(self) -> bytes:
    """PNG of the page."""
    return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

  def click(self, x: float, y: float) -> None:
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
      buttons = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
      self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **buttons)

  def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
    self._call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
    for k in range(1, steps + 1):
      x, y = (a + (b - a) * k / steps for a, b in zip(start, end))
      self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
    self._call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

  def type(self, text: str) -> None:
    """Types over what the focused field has selected, and leaves it."""
    self._call("Input.insertText", text=text)
    self.key("Enter", 13)
    self.key("Tab", 9)

  def key(self, name: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
      self._call("Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code)

  def _call(self, method: str, **parameters):
    """One command; events that come meanwhile are noted."""
    number = next(self._ids)
    message = {"id": number, "method": method, "params": parameters}
    self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
    while True:
      answer = json.loads(self._socket.recv(timeout=120))
      if answer.get("id") == number:
        if "error" in answer:
          raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]
      self._note(answer)

  def _note(self, event: dict) -> None:
    method, data = event.get("method"), event.get("params", {})
    if method == "Runtime.consoleAPICalled" and data["type"] == "error":
      self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in data["args"]))
    elif method == "Runtime.exceptionThrown":
      self.errors.append(str(data["exceptionDetails"]))
    elif method == "Log.entryAdded" and data["entry"]["level"] == "error":
      self.errors.append(data["entry"]["text"])
    elif method == "Network.requestWillBeSent":
      self.requests.append(data["request"]["url"])
    elif method == "Network.webSocketCreated":
      self.requests.append(data["url"])
