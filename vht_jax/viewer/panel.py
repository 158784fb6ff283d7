"""The controls beside the scene: viser's widgets, bound to the `Viewer` and to the sliders of `controls`."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.errors import InputError, brief
from vht_jax.results import FILE_NAME
from vht_jax.results.export import make_scene
from vht_jax.results.export.glb import to_glb
from vht_jax.types import Status
from vht_jax.video.codec import DEFAULT_FPS
from vht_jax.viewer import export
from vht_jax.viewer.editing.controls import Control, Options, frame_controls, person_controls
from vht_jax.viewer.scene import LOOKS
from vht_jax.viewer.surface import split_corners
from vht_jax.viewer.viewer import COMPARE, Viewer

_FOLLOW_EVERY = 0.5  # s between two looks at the sliders while it plays
_SEAL_AFTER = 1.0  # s without a change end a step of the history
BLEND, UNDO, REDO, RESET = "Blend", "Undo", "Redo", "As loaded"
_NOTHING = {
  BLEND: ("Nothing to blend", "Change this frame first: its latest changes are spread."),
  UNDO: ("Nothing to undo", "No change is left in the history."),
  REDO: ("Nothing to redo", "No change has been taken back."),
  RESET: ("Nothing to reset", "This frame is as it was loaded."),
}
_SPEEDS = {"1x": 1.0, "1/2": 0.5, "1/4": 0.25}


class Panel:
  """Builds the widgets and keeps them in step with what is shown."""

  def __init__(self, server, viewer: Viewer):
    self.server, self.viewer = server, viewer
    self.options = Options()
    self.sliders: list[tuple[Control, Any]] = []
    self._changed_at = self._followed_at = 0.0
    self._text = ""
    gui = server.gui
    gui.configure_theme(show_logo=False, show_share_button=False, control_width="medium")
    gui.main_panel.dock_right()  # beside the scene: a floating panel covers the image
    gui.set_panel_label(" | ".join(s.name for s in viewer.sources))
    self.status = gui.add_markdown("")
    self._playback(gui)
    self._view(gui)
    self._editing(gui)
    tabs = gui.add_tab_group()
    with tabs.add_tab("Frame"):
      self._sliders(gui, frame_controls(viewer.session, viewer.source.head, self.options))
      self.both_eyes = gui.add_checkbox("gaze: both eyes", True)
      self._bind(self.both_eyes, lambda value: setattr(self.options, "both_eyes", value))
    with tabs.add_tab("Person"):
      self.keep_size = gui.add_checkbox("focal: keep the size", True, hint="the heads move along the camera's axis")
      self._bind(self.keep_size, lambda value: setattr(self.options, "keep_size", value))
      self._sliders(gui, person_controls(viewer.session, self.options))
    with tabs.add_tab("Export"):
      self._exports(gui)
    viewer.on_drawn = self.sync
    server.on_client_connect(viewer.camera_view)

  # Widgets

  def _playback(self, gui) -> None:
    viewer = self.viewer
    # Frames have their numbers everywhere, from 1, as in frames.csv, in the result's file and on the overlay.
    numbers = viewer.source.tracked.frames
    first, last = int(numbers[0]), int(numbers[-1])
    self.frame = gui.add_slider("Frame", min=first, max=max(first + 1, last), step=1, initial_value=first)
    self._bind(self.frame, lambda value: viewer.go_to(viewer.position(int(value))))
    self.play = gui.add_button("Play")
    self.play.on_click(lambda event: viewer.play(not viewer.playing))
    self.speed = gui.add_dropdown("Speed", tuple(_SPEEDS), initial_value="1x")
    self._bind(self.speed, lambda value: viewer.set_speed(_SPEEDS[value]))
    self.doubtful = gui.add_button("Next doubtful frame", disabled=viewer.next_doubtful() is None)
    self.doubtful.on_click(self._next_doubtful)

  def _view(self, gui) -> None:
    viewer = self.viewer
    with gui.add_folder("View"):
      self.look = gui.add_dropdown("Surface", LOOKS, initial_value=viewer.view.look)
      self._bind(self.look, lambda value: viewer.look(look=value))
      self.opacity = gui.add_slider("Opacity", min=0.1, max=1.0, step=0.05, initial_value=1.0)
      self._bind(self.opacity, lambda value: viewer.look(opacity=float(value)))
      with_images = viewer.source.images is not None
      self.image = gui.add_checkbox("image", with_images, disabled=not with_images)
      self._bind(self.image, lambda value: viewer.look(image=value))
      self.landmarks = gui.add_checkbox("landmarks", False, hint="pink: of the head; green: detected")
      self._bind(self.landmarks, lambda value: viewer.look(landmarks=value))
      self.camera_view = gui.add_button("Camera view")
      self.camera_view.on_click(lambda event: self._to(event.client, viewer.camera_view))
      if len(viewer.sources) > 1:
        how = COMPARE if viewer.comparable else tuple(c for c in COMPARE if c != COMPARE[1])
        self.compare = gui.add_dropdown("Second result", how, initial_value=COMPARE[0])
        self._bind(self.compare, viewer.set_compare)
        second = gui.add_button("Camera view, second result")
        second.on_click(lambda event: self._to(event.client, lambda client: viewer.camera_view(client, 1)))
        both = gui.add_button("Both results")
        both.on_click(lambda event: self._to(event.client, viewer.both_view))

  def _editing(self, gui) -> None:
    with gui.add_folder("Edit"):
      hint = "Blend spreads the latest change of this frame over so many frames on either side"
      self.blend_frames = gui.add_number("blend over", 5, min=0, max=max(5, len(self.viewer)), step=1, hint=hint)
      self.edit = gui.add_button_group("", (BLEND, UNDO, REDO, RESET))
      self.edit.on_click(lambda event: self.act(event.target.value, event.client))
      self.file_name = gui.add_text("save as", self._free_name())
      self.save = gui.add_button("Save", hint=f"beside the result, in {self.viewer.source.path.parent}")
      self.save.on_click(lambda event: self._save(event.client))

  def _exports(self, gui) -> None:
    kinds: list[tuple[str, str, Callable[[], bytes]]] = [
      ("PLY, coloured", "ply", self.ply), ("OBJ, with texture coordinates", "obj", self.obj),
      ("Picture (PNG)", "png", self.picture), ("GLB, the whole clip", "glb", self.glb),
    ]  # fmt: skip
    self.exports = {}
    for label, suffix, make in kinds:
      self.exports[suffix] = gui.add_button(label)
      self.exports[suffix].on_click(lambda event, suffix=suffix, make=make: self._download(event.client, suffix, make))

  def _sliders(self, gui, controls: list[Control]) -> None:
    groups = list(dict.fromkeys(c.group for c in controls))
    for group in groups:
      with gui.add_folder(group, expand_by_default=group in ("Jaw and gaze", "Light", "Camera")):
        for control in (c for c in controls if c.group == group):
          value = _shown(control, self.viewer.session, 0)
          value = value if math.isfinite(value) else control.low
          slider = gui.add_slider(
            control.name, min=control.low, max=control.high, step=control.step, initial_value=value
          )
          self._bind(slider, lambda value, control=control: self.move(control, float(value)))
          self.sliders.append((control, slider))

  def _bind(self, widget, act: Callable) -> None:
    """Calls `act` with the value that somebody chose; values that `sync` writes are none."""
    widget.on_update(lambda event: act(event.target.value) if event.client_id is not None else None)

  # What the widgets do

  def move(self, control: Control, value: float) -> None:
    """A slider was moved."""
    viewer = self.viewer
    now = time.monotonic()
    with viewer.lock:
      viewer.playing = False
      if now - self._changed_at > _SEAL_AFTER:
        viewer.session.seal()
      self._changed_at = now
      control.set(viewer.session, viewer.frame, value)
    viewer.redraw()

  def act(self, what: str, client=None) -> None:
    """One of the edit buttons; what was changed is shown."""
    viewer = self.viewer
    with viewer.lock:
      viewer.playing = False
      if what == BLEND:
        done = viewer.session.blend(viewer.frame, int(self.blend_frames.value))
      elif what == RESET:
        done = viewer.session.reset(viewer.frame)
      else:
        frame = viewer.session.undo() if what == UNDO else viewer.session.redo()
        done = frame is not None
        if frame is not None and frame >= 0:
          viewer.frame = frame
    if not done:
      self._notify(client, *_NOTHING[what])
    viewer.redraw()

  def _next_doubtful(self, event) -> None:
    frame = self.viewer.next_doubtful()
    if frame is not None:
      self.viewer.go_to(frame)

  def save_as(self, name: str) -> Path:
    """Saves the edited result beside the loaded one; returns the file.

    Raises:
      InputError: not a plain file name, a file that exists, or a folder that cannot be written.
    """
    name = name.strip()
    # Whoever reaches the page may write this file: nowhere else, and over nothing that is there.
    if not re.fullmatch(r"[\w][\w .+-]*", name) or name.endswith("."):
      raise InputError(f"{name!r}: expected a plain file name such as {self._free_name()}")
    path = self.viewer.source.path.parent / (name if name.endswith(".npz") else name + ".npz")
    with self.viewer.lock:
      self.viewer.session.seal()
      self.viewer.session.save(path, self.viewer.source.arrays)
    return path

  def _save(self, client) -> None:
    try:
      path = self.save_as(self.file_name.value)
    except InputError as error:
      self._notify(client, "Not saved", brief(error))
      return
    self.file_name.value = self._free_name()
    self._notify(client, "Saved", f"{path}; vht-view {path} shows it")

  def _free_name(self) -> str:
    folder, stem = self.viewer.source.path.parent, Path(FILE_NAME).stem
    for k in range(1, 1000):
      name = f"{stem}.edited{'' if k == 1 else k}.npz"
      if not (folder / name).exists():
        return name
    return f"{stem}.edited.{int(time.time())}.npz"

  def ply(self) -> bytes:
    viewer, head = self.viewer, self.viewer.source.whole_head
    surface, vertices = viewer.surfaces[0], viewer.surfaces[0].vertices(viewer.frame)
    ids, _, uv = split_corners(np.asarray(head.faces), np.asarray(head.uv))
    colors = export.texture_at_vertices(surface.albedo, len(vertices), ids, uv)
    return export.ply(vertices, np.asarray(head.faces), colors)

  def obj(self) -> bytes:
    head = self.viewer.source.whole_head
    return export.obj(self.viewer.surfaces[0].vertices(self.viewer.frame), np.asarray(head.faces), np.asarray(head.uv))

  def glb(self) -> bytes:
    source = self.viewer.source
    fps = source.images.fps if source.images is not None else DEFAULT_FPS
    result = self.viewer.session.result(source.tracked.result)
    tracked = source.tracked
    scene = make_scene(source.whole_head, result, tracked.image_size, times=tracked.times, fps=fps)
    ((_, data),) = to_glb(scene)
    return data

  def picture(self) -> bytes:
    viewer, surface = self.viewer, self.viewer.surfaces[0]
    rgb, alpha = surface.picture(surface.vertices(viewer.frame), viewer.source.tracked.image_size)
    return export.picture(rgb, alpha, viewer.source.image(viewer.frame) if viewer.view.image else None)

  def _download(self, client, suffix: str, make: Callable[[], bytes]) -> None:
    try:
      with self.viewer.lock:
        content, number = make(), int(self.viewer.source.tracked.frames[self.viewer.frame])
    except InputError as error:
      self._notify(client, "Not exported", brief(error))
      return
    self._to(client, lambda c: c.send_file_download(f"{self.viewer.source.name}_{number:04d}.{suffix}", content,
                                                    save_immediately=True))  # fmt: skip

  def _to(self, client, act: Callable) -> None:
    """`act` for the browser that asked."""
    if client is not None:
      act(client)

  def _notify(self, client, title: str, text: str) -> None:
    self._to(client, lambda c: c.add_notification(title, text, auto_close_seconds=8.0))

  # What is shown

  def sync(self) -> None:
    """Brings the widgets to the current state; while it plays sliders less often, as there are a hundred."""
    viewer = self.viewer
    number = int(viewer.source.tracked.frames[viewer.frame])
    if self.frame.value != number:
      self.frame.value = number
    label = "Pause" if viewer.playing else "Play"
    if self.play.label != label:
      self.play.label = label
    now = time.monotonic()
    if not viewer.playing or now - self._followed_at > _FOLLOW_EVERY:
      self._followed_at = now
      for control, slider in self.sliders:
        value = _shown(control, viewer.session, viewer.frame)
        if math.isfinite(value) and slider.value != value:
          slider.value = value
    text = self.status_text()
    if text != self._text:
      self.status.content = self._text = text

  def status_text(self) -> str:
    """Some lines about the frame."""
    viewer = self.viewer
    source, session, i = viewer.source, viewer.session, viewer.frame
    result = source.tracked.result
    parts = [f"frame {int(source.tracked.frames[i])}", Status(int(result.status[i])).name.lower().replace("_", " ")]
    if session.edited[i]:
      parts.append("**edited**")
    elif result.confidence is not None:
      parts.append(f"confidence {float(result.confidence[i]):.2f}")
    if viewer.distance is not None:
      parts.append(f"vertices {viewer.distance.mean():.2f} mm apart, at most {viewer.distance.max():.2f} mm")
    error = float("nan") if viewer.playing else viewer.landmark_error()
    known = f"landmarks {error:.2f} % of the eye distance" if math.isfinite(error) else "\u00a0"
    lines = [", ".join(parts), known]  # as many while it plays: what is below stays under the pointer
    names = [s.name for s in viewer.sources]
    if len(names) > 1:
      lines.append(f"first, to edit: {names[0]}; second: {names[1]}")
    lines += [note for s in viewer.sources for note in s.notes]
    return "  \n".join(lines)


def _shown(control: Control, session, frame: int) -> float:
  """A slider's value as it is shown: within its range, to a tenth of its steps."""
  digits = 1 - math.floor(math.log10(control.step))
  return round(float(np.clip(control.get(session, frame), control.low, control.high)), digits)
