"""The numbers behind report.html, as the plain dictionary that its scripts read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vht_jax.app.options.lens import fov_of
from vht_jax.app.report.advice import DOUBTFUL, doubtful_frames, spans
from vht_jax.head import mouth
from vht_jax.landmarks.regions import REGIONS
from vht_jax.option import get, options, title
from vht_jax.results.appearance import eyeballs, relative_light
from vht_jax.results.export.motion import opengl_view
from vht_jax.results.plain import frame_numbers, number_sds
from vht_jax.types import FlameModel, Status, TrackResult

_DIGITS = 4  # decimals of a number in the page
# Fields of `TrackResult` that the page knows; whatever else has a number per frame is plotted under its name.
_TITLES = {
  "region_confidence": ("Confidence by region", ""),
  "visible": ("Regions visible", ""),
  "misplaced": ("Landmarks beside the face", "eye distances"),
}
_KNOWN = {"identity", "poses", "energies", "status", "confidence", "pose_sd", "focal_sd", "shape_information", "timing"}
_MOST_COLUMNS = 12  # series in one plot


@dataclasses.dataclass(frozen=True)
class Run:
  """What the page tells of a run beside its result."""

  title: str
  frames: np.ndarray  # (T,) ids: the numbers of the frames' folders
  size: tuple[int, int]  # (H, W) of the tracked images, px
  frame_rate: float  # of the overlay video, frames per second
  times: np.ndarray | None = None  # (T,) s, the source's own times; None: evenly, at the frame rate
  video_times: np.ndarray | None = None  # (T,) s, when the overlay shows each frame; None: evenly, at the frame rate
  nme: np.ndarray | None = None  # (T,) distance of the landmarks, % of the eye distance; NaN without a face
  summary: dict[str, Any] = dataclasses.field(default_factory=dict)  # summary.json
  settings: Any = None  # `settings.Settings`
  advice: Sequence[dict[str, str]] = ()  # of `advice.advice`
  video: Path | None = None  # overlay.mp4
  # Pictures in the video: name -> left, top, width, height as shares of it.
  panels: Sequence[tuple[str, float, float, float, float]] = ()


def page_data(model: FlameModel, result: TrackResult, run: Run) -> dict[str, Any]:
  """Everything but the video, the head and the libraries."""
  times = np.arange(len(run.frames)) / run.frame_rate if run.times is None else np.asarray(run.times, np.float64)
  numbers, sds = frame_numbers(model, result), number_sds(result)
  doubtful = doubtful_frames(result)
  confidence = np.ones(len(times)) if result.confidence is None else np.asarray(result.confidence)
  return {
    "title": run.title,
    "frames": [int(f) for f in run.frames],
    "times": _rounded(times - times[0]),
    "frameRate": float(run.frame_rate),
    "videoTimes": None if run.video_times is None else _rounded(run.video_times - run.video_times[0]),
    "size": [int(x) for x in run.size],
    "status": [int(s) for s in np.asarray(result.status)],
    "statusNames": [s.name.lower().replace("_", " ") for s in Status],
    "confidence": _rounded(confidence),
    "doubtfulBelow": DOUBTFUL,
    "doubtful": [
      {"first": a, "last": b, "worst": a + int(np.argmin(confidence[a : b + 1]))} for a, b in spans(doubtful)
    ],
    "plots": plots(result, run, numbers, sds, confidence),
    "units": units(model, result),
    "panels": [{"name": name, "box": [round(x, 6) for x in box]} for name, *box in run.panels],
    "figures": figures(result, run, int(doubtful.sum())),
    "advice": [{**a, "text": a["text"].replace("+-", "±")} for a in run.advice],
    "stages": {k: round(v, 2) for k, v in run.summary.get("stage_seconds", {}).items() if v is not None},
    "facts": facts(model, result, run, numbers),
    "settings": settings_table(run.settings),
    "camera": camera_view(result, run.size),
    "light": _rounded(relative_light(result.identity)),
    "mouth": mouth_data(model),
    "eyeballs": np.flatnonzero(eyeballs(model)).tolist(),
    "lightFrame": _rounded(opengl_view(result.identity.camera)[0]),
    "neckRest": _rounded(_neck_rest(model, result)),
  }


def plots(
  result: TrackResult, run: Run, numbers: dict[str, np.ndarray], sds: dict[str, np.ndarray], confidence: np.ndarray
) -> list[dict[str, Any]]:
  """The curves: [{title, unit, range, series: [{name, values, sd}]}]."""
  show = lambda key, name: {
    "name": name,
    "values": _rounded(numbers[key], 2),
    **({"sd": _rounded(sds[key], 2)} if key in sds else {}),
  }
  found: list[dict[str, Any]] = []
  if result.confidence is not None:
    series = [{"name": "confidence", "values": _rounded(confidence, 3)}]
    found.append({"title": "Confidence", "unit": "", "range": [0, 1], "series": series})
  if run.nme is not None:
    series = [{"name": "68 points", "values": _rounded(run.nme, 3)}]
    found.append({"title": "Landmark misfit", "unit": "%", "range": [0, None], "series": series})
  percent = lambda eye: {"name": eye, "values": _rounded(100.0 * numbers[f"blink_{eye}"], 1)}
  side = [show("gaze_side", "to the left"), show("gaze_up", "up")]
  head = [show("turn", "turn left"), show("nod", "nod up"), show("tilt", "tilt left")]
  found += [
    {"title": "Head", "unit": "°", "series": head},
    {"title": "Jaw open", "unit": "°", "series": [show("jaw", "jaw")]},
    {"title": "Gaze", "unit": "°", "series": side},
    {"title": "Eyes closed", "unit": "%", "series": [percent("left"), percent("right")]},
  ]
  for name, values in result.energies.items():
    if name in ("photometric_l1", "photo") and np.isfinite(values).any():
      series = [{"name": "mean difference", "values": _rounded(values)}]
      found.append({"title": "Image misfit", "unit": "of 1", "range": [0, None], "series": series})
  return [*found, *extra_plots(result)]


def extra_plots(result: TrackResult) -> list[dict[str, Any]]:
  """One plot for every further field of the result that has one or a few numbers per frame."""
  n, found = len(np.asarray(result.status)), []
  for field in dataclasses.fields(result):
    value = getattr(result, field.name)
    if field.name in _KNOWN or value is None:
      continue
    if not isinstance(value, dict):
      array = np.asarray(value)
      columns = array.T if array.ndim == 2 else array[None]
      names = REGIONS if len(columns) == len(REGIONS) else [str(i + 1) for i in range(len(columns))]
      value = dict(zip([field.name] if len(columns) == 1 else names, columns))
    series = [
      {"name": name.replace("_", " "), "values": _rounded(column, 3)}
      for name, column in value.items()
      if np.shape(column) == (n,) and np.asarray(column).dtype.kind in "fiub"
    ]
    if 0 < len(series) <= _MOST_COLUMNS:
      title, unit = _TITLES.get(field.name, (field.name.replace("_", " ").capitalize(), ""))
      found.append({"title": title, "unit": unit, "series": series})
  return found


def units(model: FlameModel, result: TrackResult) -> dict[str, Any]:
  """The expression as rows of a heat map: names and values per unit."""
  expr = np.asarray(result.poses.expr, np.float64).T
  names = list(model.expr_names) or [f"expression {i + 1}" for i in range(len(expr))]
  return {
    "names": names,
    "values": [_rounded(row, 3) for row in expr],
  }


def figures(result: TrackResult, run: Run, n_doubtful: int) -> list[dict[str, str]]:
  """The handful of numbers at the top: [{label, value, detail, level}]."""
  n = len(run.frames)
  tracked = int((np.asarray(result.status) == Status.TRACKED).sum())
  focal = float(result.identity.camera.focal)
  sd = None if result.focal_sd is None else float(result.focal_sd)
  surety = "" if sd is None or not math.isfinite(sd) or sd == 0 else f"± {100 * sd:.0f} %, "
  found = [
    {
      "label": "Tracked", "value": f"{tracked}", "detail": f"of {n} frames",
      "level": "good" if tracked == n else "bad",
    },
    {
      "label": "Doubtful", "value": f"{n_doubtful}", "detail": "frames worth a look" if n_doubtful else "frames",
      "level": "good" if n_doubtful == 0 else "warning",
    },
  ]  # fmt: skip
  if (nme := run.summary.get("nme68_median")) is not None and math.isfinite(nme):
    found.append({"label": "Landmark misfit", "value": f"{nme:.2f} %", "detail": "of eye distance"})
  if (vertex := run.summary.get("vertex_mm")) is not None and math.isfinite(vertex):
    found.append({"label": "Against the truth", "value": f"{vertex:.2f} mm", "detail": "mean of all vertices"})
  found.append({"label": "Focal length", "value": f"{focal:.2f}", "detail": f"{surety}× the longer side"})
  if (seconds := run.summary.get("seconds_total")) is not None:
    found.append({"label": "Time", "value": _duration(seconds), "detail": f"{n / seconds:.1f} frames/s"})
  return found


def facts(model: FlameModel, result: TrackResult, run: Run, numbers: dict[str, np.ndarray]) -> list[tuple[str, str]]:
  """Head and camera: (name, value) in plain units."""
  camera = result.identity.camera
  height, width = run.size
  focal = float(camera.focal)
  sd = None if result.focal_sd is None else float(result.focal_sd)
  distance = numbers["distance"]
  near, far = np.percentile(distance, [0, 100])
  turn = numbers["turn"]
  return [
    ("Head", model.name or "unnamed"),
    ("Vertices", f"{len(model.v_template)}, {len(model.faces)} triangles"),
    ("Identity, expression", f"{model.shapedirs.shape[-1]} and {model.exprdirs.shape[-1]} components"),
    ("Images", f"{width} × {height} px, {run.frame_rate:g} frames/s"),
    ("Focal length", f"{focal * max(run.size):.0f} px, field of view {fov_of(focal):.1f}° along the longer side"),
    *([("Its standard deviation", "given" if sd == 0 else f"{100 * sd:.1f} %")] if sd is not None else []),
    ("Principal point", f"{float(camera.principal[0]) * width:.1f}, {float(camera.principal[1]) * height:.1f} px"),
    ("Distance", f"{near:.2f} to {far:.2f} m, if the head has the average size"),
    ("Head turns", f"from {turn.min():.0f}° to {turn.max():.0f}° (to the subject's left is positive)"),
  ]


def settings_table(settings: Any) -> list[dict[str, Any]]:
  """Every setting with what it means, and whether it differs from the default."""
  if settings is None:
    return []
  return [
    {
      "name": key,
      "value": _text(value := get(part, key)),
      "changed": value != option.default,
      "help": f"{title(option.method)}: {option.text}",
    }
    for part in settings
    for key, option in options(type(part)).items()
  ]


def camera_view(result: TrackResult, size: tuple[int, int]) -> dict[str, float]:
  """The filming camera in pixels."""
  camera = result.identity.camera
  height, width = size
  return {
    "focal": round(float(camera.focal) * max(size), 4),
    "cx": round(float(camera.principal[0]) * width, 4),
    "cy": round(float(camera.principal[1]) * height, 4),
  }


def mouth_data(model: FlameModel) -> dict[str, Any]:
  """What the page's light in the mouth (`head.mouth`) needs: vertices inside, inner lips as corners and weights, m."""
  corners, bary = np.asarray(model.lmk_vertices)[mouth.INNER_LIPS], np.asarray(model.lmk_bary)[mouth.INNER_LIPS]
  return {
    "inside": np.flatnonzero(mouth.inside_mouth(model)).tolist(),
    "lips": [[c.tolist(), _rounded(b)] for c, b in zip(corners, bary)],
    "behind": mouth.TEETH_BEHIND,
    "closed": mouth.CLOSED,
  }


def _neck_rest(model: FlameModel, result: TrackResult) -> np.ndarray:
  """(3,) where the head's origin is, seen from the neck joint at rest: what the page's camera looks at."""
  n_shape = model.shapedirs.shape[-1]
  dirs = np.asarray(model.j_shapedirs, np.float64)[1, :, :n_shape]
  return -(np.asarray(model.j_template, np.float64)[1] + dirs @ np.asarray(result.identity.shape, np.float64))


def _duration(seconds: float) -> str:
  return f"{seconds:.0f} s" if seconds < 120 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _text(value: Any) -> str:
  if isinstance(value, bool):
    return "yes" if value else "no"
  if isinstance(value, tuple):
    return ", ".join(map(str, value)) or "none"
  return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _rounded(values: Any, digits: int = _DIGITS) -> list:
  """Nested lists of finite numbers with few decimals; null for the others, as JSON has none of them."""
  array = np.asarray(values, np.float64)
  if array.ndim > 1:
    return [_rounded(row, digits) for row in array]
  return [round(float(v), digits) + 0.0 if math.isfinite(v) else None for v in array]
