"""What is shown now, and the one thread that draws it.

Callbacks of the browser only note what they want; `Viewer.run` draws the latest of it when the browsers have taken in
what came before (`pace`), so that a fast drag of a slider or a slow connection never builds a queue of old pictures.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time

import numpy as np

from vht_jax import results
from vht_jax.app.report.advice import DOUBTFUL
from vht_jax.app.result.source import Source
from vht_jax.types import Status
from vht_jax.video.codec import DEFAULT_FPS
from vht_jax.viewer.editing.session import EDITED, Session
from vht_jax.viewer.pace import Pace
from vht_jax.viewer.scene import DIFFERENCE, HeadScene, View, camera_place, distance_colors, field_of_view
from vht_jax.viewer.surface import Surface

log = logging.getLogger("vht_jax")

COMPARE = ("side by side", DIFFERENCE, "hidden")
MAX_RATE = 30.0  # pictures per second that are sent at most
# A phone: windows so narrow (width / height; pixels of fine screens are smaller) have viser's controls in a sheet over
# this part of their height, from below.
NARROW, SHEET = 0.75, 0.6
_GAP = 1.04  # distance of two results side by side, in widths of the image plane


class Viewer:
  """One or two results in a viser server; the first one can be edited."""

  def __init__(self, server, sources: list[Source]):
    self.server, self.sources = server, sources
    self.sessions = [Session(s.tracked.result, s.shots) for s in sources]
    self.surfaces = [Surface(s.head, session, s.tracked.result.identity) for s, session in zip(sources, self.sessions)]
    self.scenes = [HeadScene(server, f"result_{i}", s, self.surfaces[i]) for i, s in enumerate(sources)]
    self.frame, self.view = 0, View()
    self.compare = COMPARE[0]
    self.speed, self.playing = 1.0, False
    self.pace = Pace(server)
    self.lock = threading.RLock()  # around the sessions and what is shown
    self.on_drawn = lambda: None  # told after every picture (the panel)
    self.drawn = 0  # pictures so far
    self._wanted, self._ended = threading.Event(), threading.Event()
    self._start: tuple[float, int] = (0.0, 0)
    self._partner = self._partners()
    self.comparable = len(sources) > 1 and len(sources[0].head.v_template) == len(sources[1].head.v_template)
    self.distance: np.ndarray | None = None  # (V,) mm to the second result, when that is shown

  @property
  def source(self) -> Source:
    return self.sources[0]

  @property
  def session(self) -> Session:
    return self.sessions[0]

  def __len__(self) -> int:
    return len(self.session)

  # What may be asked for, from any thread

  def redraw(self) -> None:
    self._wanted.set()

  def go_to(self, frame: int) -> None:
    """Shows the frame at a position and ends playing."""
    with self.lock:
      self.playing = False
      self.session.seal()
      self.frame = int(np.clip(frame, 0, len(self) - 1))
    self.redraw()

  def position(self, number: int) -> int:
    """Of the frame with a number, or of the last one before it."""
    return int(np.searchsorted(self.source.tracked.frames, number, side="right")) - 1

  def play(self, on: bool) -> None:
    with self.lock:
      if on and self.frame >= len(self) - 1:
        self.frame = 0
      self.playing, self._start = on, (time.monotonic(), self.frame)
    self.redraw()

  def set_speed(self, speed: float) -> None:
    with self.lock:
      self.speed, self._start = speed, (time.monotonic(), self.frame)

  def look(self, **changes) -> None:
    """Changes fields of the `View`."""
    with self.lock:
      self.view = dataclasses.replace(self.view, **changes)
    self.redraw()

  def set_compare(self, how: str) -> None:
    with self.lock:
      self.compare = how
    self.redraw()

  def next_doubtful(self) -> int | None:
    """Position of the next frame worth a look, from the start again after the last; None if there is none."""
    result = self.source.tracked.result
    doubtful = np.asarray(result.status) != Status.TRACKED
    if result.confidence is not None:
      doubtful = doubtful | (np.asarray(result.confidence) < DOUBTFUL)
    # What a person has corrected is not listed again.
    doubtful = doubtful & ~np.asarray(self.source.arrays.get(EDITED, np.zeros(len(self), bool)), bool)
    found = np.flatnonzero(doubtful & ~self.session.edited)
    if not len(found):
      return None
    later = found[found > self.frame]
    return int(later[0] if len(later) else found[0])

  def camera_view(self, client, which: int = 0) -> None:
    """Puts a browser's camera where the tracking camera is, so that the head lies over the image."""
    with self.lock:
      camera, scene = self.sessions[which].edited_camera, self.scenes[which]
      offset = np.asarray(scene.root.position, np.float64)
      position, ahead, up = camera_place(camera)
      aspect = client.camera.aspect or 1.0
      fov = field_of_view(camera, scene.size, aspect)
    # A camera that turns where it stands goes on seeing the head over the image: above the sheet.
    lower = SHEET * np.tan(0.5 * fov) if aspect < NARROW else 0.0
    with client.atomic():
      client.camera.up_direction = up
      client.camera.position = position + offset
      # What the mouse turns the camera about: the point of the axis beside the head.
      client.camera.look_at = position + offset + scene.head_distance * (ahead - position - lower * up)
      client.camera.fov = fov

  def both_view(self, client) -> None:
    """A browser's camera so far back that both results are seen."""
    with self.lock:
      camera, scene = self.session.edited_camera, self.scenes[0]
      position, ahead, up = camera_place(camera)
      aspect = client.camera.aspect or 1.0
      fov = field_of_view(camera, scene.size, aspect)
      width = abs(float(self.scenes[-1].root.position[0])) + scene.width
      away = max(scene.distance, 0.5 * width / (aspect * np.tan(0.5 * fov)))
      middle = position + 0.5 * np.asarray(self.scenes[-1].root.position, np.float64)
    with client.atomic():
      client.camera.up_direction = up
      client.camera.position = middle + (scene.distance - away) * (ahead - position)
      client.camera.look_at = middle + scene.distance * (ahead - position)
      client.camera.fov = fov

  def landmark_error(self) -> float:
    """Percent of the eye distance between the head's and the detected 68 landmarks now; NaN if there are none."""
    points = self.scenes[0].landmark_pixels(self.surfaces[0].vertices(self.frame), self.frame)
    if points is None:
      return float("nan")
    model, detected, confidence = (x[None] for x in points)
    return float(results.nme(model, detected, confidence, slice(0, 68))[0])

  # The thread

  def start(self) -> threading.Thread:
    thread = threading.Thread(target=self.run, name="viewer", daemon=True)
    thread.start()
    self.redraw()
    return thread

  def stop(self) -> None:
    self._ended.set()
    self._wanted.set()

  def run(self) -> None:
    """Draws until `stop`."""
    while not self._ended.is_set():
      # While it plays the next picture is due without being asked for.
      self._wanted.wait(1.0 / MAX_RATE if self.playing else None)
      if self._ended.is_set():
        return
      asked = self._wanted.is_set()
      self._wanted.clear()
      begun = time.monotonic()
      try:
        with self.lock:
          due = (self.playing and self._advance(begun)) or asked
          if due:
            self.draw()
        if due:
          self.pace.wait()
          with self.lock:
            for scene in self.scenes:
              scene.settle()
            self.on_drawn()
      except Exception:
        log.exception("the viewer could not draw frame %d", self.frame)
        self.playing = False
      spent = time.monotonic() - begun
      if spent < 1.0 / MAX_RATE:
        self._ended.wait(1.0 / MAX_RATE - spent)

  def draw(self) -> None:
    """Draws the current frame of both results. Called by the thread, or instead of it in tests."""
    compared = len(self.sources) > 1 and self.compare != "hidden"
    partner = int(self._partner[self.frame]) if compared else -1
    side = compared and self.compare == COMPARE[0]
    difference = compared and self.compare == DIFFERENCE and self.comparable and partner >= 0
    colors, self.distance = None, None
    if difference:
      a, b = self.surfaces[0].vertices(self.frame), self.surfaces[1].vertices(partner)
      self.distance, colors = distance_colors(a, b)
    self.scenes[0].show(self.frame, self.view, colors)
    if len(self.scenes) > 1:
      self.scenes[1].hide(not side or partner < 0)
      if side and partner >= 0:
        self.scenes[1].place((-_GAP * 0.5 * (self.scenes[0].width + self.scenes[1].width), 0.0, 0.0))
        self.scenes[1].show(partner, self.view)
    self.drawn += 1

  def _advance(self, now: float) -> bool:
    """Moves on to the frame that is due; whether it is another one. The clip starts again at its end."""
    fps = self.source.images.fps if self.source.images is not None else DEFAULT_FPS
    since, first = self._start
    due = first + int((now - since) * fps * self.speed)
    if due >= len(self):
      due, self._start = 0, (now, 0)
    moved = due != self.frame
    self.frame = due
    return moved

  def _partners(self) -> np.ndarray:
    """(T,) position in the second result of each frame of the first, by their numbers; -1: none."""
    if len(self.sources) < 2:
      return np.full(len(self), -1)
    position = {int(f): i for i, f in enumerate(self.sources[1].tracked.frames)}
    return np.array([position.get(int(f), -1) for f in self.source.tracked.frames])
