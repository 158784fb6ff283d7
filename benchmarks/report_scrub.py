"""How long report.html takes from a wish for a frame to its picture, in headless Chromium (software WebGL).

  python benchmarks/report_scrub.py out/demo [--frames 2000]

The result of a finished run is played there and back until it is long enough. Every picture of its film has its number
in it as black and white squares, which are read from the page's canvas: what is painted counts, and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

BITS, SIDE = 12, 16  # squares of a number, px
SCRUBS = 50
PAUSE = 150  # ms between two wishes

SCRIPT = """(async () => {
  const canvas = document.getElementById('picture'), brush = canvas.getContext('2d');
  const number = () => {
    const line = brush.getImageData(0, %(middle)d, %(width)d, 1).data;
    let n = 0;
    for (let k = 0; k < %(bits)d; k++) if (line[4 * (%(side)d * k + %(middle)d)] > 128) n |= 1 << k;
    return n;
  };
  let seed = 1;
  const random = () => (seed = (seed * 16807) %% 2147483647) / 2147483647;
  const found = [], wrong = [];
  for (let i = 0; i < %(scrubs)d; i++) {
    const frame = Math.floor(random() * %(frames)d), start = performance.now();
    report.setFrame(frame);
    await report.pictureShown();
    found.push(performance.now() - start);
    if (number() !== frame) wrong.push([frame, number()]);
    await new Promise((r) => setTimeout(r, %(pause)d));
  }
  return [found, wrong];
})()"""


def make_page(folder: Path, n: int, target: Path) -> None:
  """The report of a run, with the run there and back until it has n frames."""
  import av
  import jax

  from vht_jax import results
  from vht_jax.app import inputs
  from vht_jax.app.options import settings
  from vht_jax.app.overlay import window
  from vht_jax.app.report import page
  from vht_jax.option import having
  from vht_jax.video.codec import write_video

  chosen = settings.make_settings(settings.read_ini(folder / "config.ini"))
  chosen = chosen._replace(app=having(chosen.app, data_path=str(folder / "dataset")))
  dataset = inputs.frames_of(chosen.app, chosen.track)
  model = inputs.load_model(chosen.app, chosen.track, dataset.detector)
  result = results.load_tracked(folder / results.FILE_NAME, model).result
  length = len(np.asarray(result.status))
  rows = np.abs((np.arange(n) + length - 1) % (2 * length - 2) - (length - 1))
  per_frame = ("poses", "energies", "status", "confidence", "pose_sd", "visible", "region_confidence", "misplaced")
  repeated = {
    name: jax.tree.map(lambda x: np.asarray(x)[rows], value)
    for name in per_frame
    if (value := getattr(result, name)) is not None
  }
  with av.open(str(folder / "overlay.mp4")) as container:
    pictures = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
  height, width = pictures[0].shape[:2]
  boxes = window.panel_boxes(dataset.size)
  left, top = next((round(x * width), round(y * height)) for name, x, y, *_ in boxes if name == "overlay")

  def numbered():
    for i in range(n):
      picture = pictures[rows[i]].copy()
      for k in range(BITS):
        picture[top : top + SIDE, left + SIDE * k : left + SIDE * (k + 1)] = 255 * (i >> k & 1)
      yield picture

  film = target.with_suffix(".mp4")
  write_video(film, numbered(), 24.0)
  page.LARGEST_VIDEO = 1 << 30
  run = page.Run(
    f"{n} frames", np.arange(1, n + 1), dataset.size, 24.0, settings=chosen, video=film, panels=boxes,
    nme=np.full(n, 1.0),
  )  # fmt: skip
  page.write_page(target, model, result.replace(**repeated), run)


def measure(address: str, frames: int) -> None:
  import browser

  values = dict(bits=BITS, side=SIDE, width=BITS * SIDE, middle=SIDE // 2, scrubs=SCRUBS, frames=frames, pause=PAUSE)
  with tempfile.TemporaryDirectory() as folder:
    page = browser.Browser(Path(folder), (1280, 1000))
    try:
      start = time.monotonic()
      page.open(address)
      page.wait_for("!!(window.report && report.head3d.ready)", 120)
      print(f"opened in {time.monotonic() - start:.1f} s")
      time.sleep(3)
      for name, head in (("with the head", True), ("head scrolled away", False)):
        page.evaluate(f"head3d.visible = {str(head).lower()}")
        found, wrong = page.evaluate(SCRIPT % values)
        print(f"{name}: median {np.median(found):.0f} ms, 90 % {np.quantile(found, 0.9):.0f}, worst {max(found):.0f}; "
              f"{len(wrong)} of {len(found)} pictures wrong")  # fmt: skip
    finally:
      page.close()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("folder", type=Path)
  parser.add_argument("--frames", type=int, default=2000)
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / "report.html"
    make_page(options.folder, options.frames, target)
    print(f"page of {target.stat().st_size / 1e6:.1f} MB")
    measure(target.as_uri(), options.frames)


if __name__ == "__main__":
  main()
