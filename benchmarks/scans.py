"""The tracker on clips of heads with a full truth: `make bench-scans DIR=...`, or

  python benchmarks/scans.py DIR [--runs RUNS] [--only NAME ...] [--variants default focal ...] [--datasets FOLDER]

DIR has clips as `truth_clips.py` makes them, or of scanned heads in the same format (NAME.mp4, NAME.truth.npz,
SCAN.npz, SCAN.surface.npz). Each is tracked by the app as a user would (unless RUNS has the result), and measured.
Writes RUNS/scans.json and RUNS/scans.md.

Of a rotation the mean and the largest error after one constant rotation; gains: tracked over true yaw and pitch.
z: error of log focal over its stated sd. Direction: of the middle of the eyes from the camera. Depth: rms of its ratio
to the truth, after one scale. Geometry: from the scan to the mesh, mm, within 70 and 95 mm of the nose's tip.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import scan_figures

from vht_jax import results
from vht_jax.head.load import load_head

ROOT = Path(__file__).resolve().parent.parent
# Flags of each variant; {focal} is the clip's true one.
VARIANTS = {
  "default": (),
  "focal": ("--focal={focal}",),
  "landmarks": ("--nophotometric",),
  "landmarks_focal": ("--nophotometric", "--focal={focal}"),
  "notracks": ("--notracks",),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("dir", type=Path)
  parser.add_argument("--runs", type=Path, default=ROOT / "build" / "bench" / "scans")
  parser.add_argument("--only", nargs="*", help="names of clips")
  parser.add_argument("--variants", nargs="*", default=["default"], choices=sorted(VARIANTS))
  parser.add_argument("--datasets", type=Path, help="FOLDER/NAME are datasets of the clips: nothing is detected again")
  parser.add_argument("--flags", nargs="*", default=[], help="more flags of the tracker, without their dashes")
  args = parser.parse_args()
  names = args.only or sorted(p.name.removesuffix(".truth.npz") for p in args.dir.glob("*.truth.npz"))
  if not names:
    sys.exit(f"{args.dir}: no *.truth.npz; benchmarks/truth_clips.py makes some")
  model, rows = load_head(model="open"), []
  for name in names:
    for variant in args.variants:
      output = args.runs / f"{name}.{variant}"
      data = dataset(args, name)
      if not (output / results.FILE_NAME).is_file() and not run(args, name, variant, output, data):
        continue
      row = {"variant": variant, **scan_figures.measure(model, args.dir, name, output, data or output / "dataset")}
      summary = output / "summary.json"
      if summary.is_file():
        row["summary"] = json.loads(summary.read_text())
      rows.append(row)
      print(line(row), flush=True)
  args.runs.mkdir(parents=True, exist_ok=True)
  (args.runs / "scans.json").write_text(json.dumps(rows, indent=1) + "\n")
  text = report(rows)
  (args.runs / "scans.md").write_text(text)
  print(text)


def dataset(args, name: str) -> Path | None:
  """The clip's frames and landmarks, if they are there already; every variant has the same."""
  folders = [args.runs / f"{name}.{variant}" / "dataset" for variant in VARIANTS]
  folders += [args.datasets / name] if args.datasets else []
  return next((folder for folder in folders if (folder / "landmarks.json").is_file()), None)


def run(args, name: str, variant: str, output: Path, data: Path | None) -> bool:
  """Whether the clip was tracked."""
  focal = float(np.load(args.dir / f"{name}.truth.npz")["focal"])
  flags = [flag.format(focal=focal) for flag in VARIANTS[variant]] + [f"--{flag}" for flag in args.flags]
  source = f"--data_path={data.resolve()}" if data else f"--video={(args.dir / name).resolve()}.mp4"
  command = [sys.executable, "-m", "vht_jax", source, f"--output_path={output.resolve()}", "--nooverlay", *flags]
  output.parent.mkdir(parents=True, exist_ok=True)
  environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
  with open(output.with_name(output.name + ".log"), "w") as log:
    done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)
  if done.returncode:
    print(f"{name} {variant}: exit code {done.returncode}, see {output}.log", flush=True)
  return done.returncode == 0


def line(row: dict) -> str:
  focal = f"{row['focal']:.2f} / {row['focal_true']:.2f}"
  return f"{row['clip']} {row['variant']}: focal {focal}, rotation {row['rotation_mean']:.2f} deg"


def report(rows: list[dict]) -> str:
  """Markdown."""
  z = lambda row: "given" if row["focal_z"] is None else f"{row['focal_z']:+.1f}"
  table = [
    ("clip", lambda r: r["clip"]),
    ("variant", lambda r: r["variant"]),
    ("focal / true", lambda r: f"{r['focal']:.2f} / {r['focal_true']:.2f}"),
    ("error (stated sd)", lambda r: f"{100 * r['focal_error']:+.0f} % ({100 * r['focal_sd']:.0f})"),
    ("z", z),
    ("rotation mean / max", lambda r: f"{r['rotation_mean']:.2f} / {r['rotation_max']:.1f}"),
    ("yaw gain", lambda r: f"{r['yaw_gain']:.3f}"),
    ("pitch gain", lambda r: f"{r['pitch_gain']:.3f}"),
    ("direction", lambda r: f"{r['direction_mean']:.2f}"),
    ("depth rms %", lambda r: f"{100 * r['depth_rms']:.1f}"),
    *(
      (f"{head}, {radius} mm", _distance(head, radius))
      for radius in scan_figures.RADII
      for head in ("tracked", "mean head")
    ),
    ("tracked", lambda r: f"{100 * r['tracked']:.0f} %"),
  ]
  out = [_markdown(table, rows), ""]
  for variant in dict.fromkeys(row["variant"] for row in rows):
    out.append(_summary(variant, [row for row in rows if row["variant"] == variant]))
  moving = [row for row in rows if "expression" in row]
  if moving:
    curves = list(moving[0]["expression"])
    cell = lambda c: lambda r: _curve(r["expression"].get(c))
    head = [("clip", lambda r: r["clip"]), ("variant", lambda r: r["variant"])]
    out += [
      "",
      "Expression over time: r (found range; true range)",
      "",
      _markdown(head + [(c, cell(c)) for c in curves], moving),
    ]
  return "\n".join(out) + "\n"


def _distance(head: str, radius: int):
  return lambda r: "{median:.2f} / {mean:.2f}".format(**r[f"{head} {radius}"])


def _curve(figures: dict | None) -> str:
  if figures is None or figures["r"] is None:
    return ""
  (a, b), (c, d) = figures["found"], figures["true"]
  return f"{figures['r']:.2f} ({a:.2f} .. {b:.2f}; {c:.2f} .. {d:.2f})"


def _markdown(columns, rows: list[dict]) -> str:
  lines = [" | ".join(name for name, _ in columns), "|".join("---" for _ in columns)]
  lines += [" | ".join(cell(row) for _, cell in columns) for row in rows]
  return "\n".join(f"| {text} |" for text in lines)


def _summary(variant: str, rows: list[dict]) -> str:
  median = lambda key: float(np.median([row[key] for row in rows]))
  text = f"{variant}, {len(rows)} clips, medians: rotation {median('rotation_mean'):.2f} deg, "
  text += f"yaw gain {median('yaw_gain'):.3f}, "
  text += f"direction {median('direction_mean'):.2f} deg, depth {100 * median('depth_rms'):.1f} %, "
  text += f"focal {100 * float(np.median([abs(row['focal_error']) for row in rows])):.0f} %"
  scores = [row["focal_z"] for row in rows if row["focal_z"] is not None]
  return text + (f", z rms {float(np.sqrt(np.mean(np.square(scores)))):.1f}" if scores else "")


if __name__ == "__main__":
  main()
