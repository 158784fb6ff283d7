"""report.html: a tracked clip as one file that any browser opens from the disk, without a network.

The page's own sources are in `web/`, the libraries that it carries (three.js, uPlot) in `web/vendor/`.
`python -m vht_jax.app.report.page FOLDER` makes it again from an output folder.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import logging
import sys
from pathlib import Path
from typing import Any

from vht_jax import results
from vht_jax.app import inputs
from vht_jax.app.options import settings
from vht_jax.app.overlay import window
from vht_jax.app.record import FILES
from vht_jax.app.report.outcome import Outcome
from vht_jax.app.report.page_data import Run, page_data
from vht_jax.errors import InputError
from vht_jax.host.files import write_atomic
from vht_jax.option import having
from vht_jax.results.appearance import even_texture
from vht_jax.results.export.glb import glb_bytes
from vht_jax.types import FlameModel, TrackResult

WEB = Path(__file__).parent / "web"
SCRIPTS = (
  "data.js",
  "player.js",
  "timeline.js",
  "plots.js",
  "heatmap.js",
  "mouth.js",
  "head.js",
  "main.js",
)  # in this order
# A page of more than that is slow to open; a longer video stays beside it, and the page plays it from there.
LARGEST_VIDEO = 64 << 20  # bytes

log = logging.getLogger("vht_jax")


def write_page(path: Path, model: FlameModel, result: TrackResult, run: Run) -> None:
  """Writes the page, whole or not at all."""
  write_atomic(Path(path), make_page(model, result, run).encode())


def make_page(model: FlameModel, result: TrackResult, run: Run) -> str:
  """The page's text; the same input gives the same bytes."""
  data = page_data(model, result, run)
  try:
    texture = even_texture(model, result.identity)
    head = glb_bytes(model, result, run.size, run.times, frame_rate=run.frame_rate, texture=texture, compact=True)
  except InputError as error:  # the curves show what is wrong with such a result
    log.warning("the report has no 3D view (%s)", error)
    head = b""
  video = ""
  if run.video is not None and run.video.is_file():
    if run.video.stat().st_size <= LARGEST_VIDEO:
      video = base64.b64encode(run.video.read_bytes()).decode()
    else:
      data["videoFile"] = run.video.name
  read = lambda name: (WEB / name).read_text(encoding="utf-8").strip()
  parts = {
    "title": html.escape(run.title),
    "style": read("vendor/uplot.min.css") + "\n" + read("style.css"),
    "libraries": read("vendor/uplot.min.js") + "\n" + read("vendor/three.min.js"),
    "scripts": "\n".join(read(name) for name in SCRIPTS),
    # "<" only occurs within texts; written like this none of them can end the element.
    "data": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
    "head": base64.b64encode(gzip.compress(head, 9, mtime=0)).decode() if head else "",
    "video": video,
  }
  pieces = read("report.html").split("@@")  # text, name, text, name, ..., text
  return "".join(piece if i % 2 == 0 else parts[piece] for i, piece in enumerate(pieces)) + "\n"


def run_of(outcome: Outcome, summary: dict[str, Any]) -> Run:
  """What the page says of a run; `summary`: of summary.json."""
  landmarks, confidence, projected = outcome.points
  dataset, output = outcome.dataset, Path(outcome.output)
  return Run(
    title=output.resolve().name,
    frames=dataset.frame_ids,
    size=dataset.size,
    frame_rate=outcome.frame_rate,
    times=dataset.times,
    video_times=outcome.video_times,
    nme=results.nme(projected, landmarks, confidence, slice(0, 68)),
    summary=summary,
    settings=outcome.settings,
    advice=outcome.advice(summary),
    video=output / FILES["overlay"] if outcome.style != "none" else None,
    panels=window.panel_boxes(window.windows(projected[:, :68], dataset.size).size, outcome.style),
  )


def page_of_folder(folder: str | Path, path: str | Path | None = None) -> Path:
  """Makes report.html of a finished run again; returns where it is.

  Args:
    folder: the output folder.
    path: where to write it; by default into the folder.

  Raises:
    InputError: it is not the folder of a finished run.
  """
  folder = Path(folder)
  if not (folder / results.FILE_NAME).is_file() or not (folder / FILES["config"]).is_file():
    raise InputError(f"{folder}: expected the output folder of a finished run (config.ini, {results.FILE_NAME})")
  chosen = settings.make_settings(settings.read_ini(folder / FILES["config"]))
  if (folder / "dataset").is_dir():
    chosen = chosen._replace(app=having(chosen.app, data_path=str(folder / "dataset")))
  dataset = inputs.frames_of(chosen.app, chosen.track)
  model = inputs.load_model(chosen.app, chosen.track, dataset.detector)
  tracked = results.load_tracked(folder / results.FILE_NAME, model)
  outcome = Outcome(folder, chosen, model, dataset, results.for_frames(tracked, dataset.frame_ids))
  try:
    summary = json.loads((folder / FILES["summary"]).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise InputError(f"{folder / FILES['summary']}: expected the summary of a finished run ({error})") from None
  path = folder / FILES["report"] if path is None else Path(path)
  write_page(path, model, outcome.result, run_of(outcome, summary))
  return path


def main(argv: list[str]) -> int:
  """`python -m vht_jax.app.report.page FOLDER [FILE]`; returns the exit code."""
  if not 1 <= len(argv) <= 2 or argv[0].startswith("-"):
    usage = "usage: python -m vht_jax.app.report.page FOLDER [FILE]: makes report.html of a finished run again"
    print(usage, file=sys.stderr)
    return 0 if argv[:1] in (["-h"], ["--help"]) else 2
  try:
    print(page_of_folder(*argv))
    return 0
  except InputError as error:
    print(f"vht_jax.app.report.page: error: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
