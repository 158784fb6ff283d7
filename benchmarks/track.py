"""Accuracy and speed of the tracker: against known truth, on real video, and against VHT's method on the same clips.

Writes build/bench/track.json: `truth.<method>` has medians over the clips under the names of summary.json,
`real.<clip>` the summaries of whole runs of the app, `ratios` how many times more seconds a frame costs with
`configs/vht.ini`. The clips are `synthetic.make_clip`'s: what the renderer does is more than what the tracker's model
knows. VHT's method takes seconds per frame, so it tracks fewer clips, rendered at the tracked size rather than at four
times that (its photometric term samples the image at projected surface points, of which more say little more). Its
seconds are measured at its own settings. `ratios.seconds_per_frame_vht_over_default` is its frame stage alone over our
whole run, `..._whole_...` whole over whole: with three keyframes, spread over the frames of the clip. `focal_z_rms`:
errors of the landmarks' focal length in units of its predicted standard deviation.

  python benchmarks/track.py [--people 8] [--frames 60] [--videos ../shared/data/videos]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the app does

import jax
import numpy as np
import synthetic

from vht_jax import results
from vht_jax.app.options.settings import Settings, make_settings, read_ini
from vht_jax.config import TrackConfig, Weights
from vht_jax.head.load import load_head
from vht_jax.option import having
from vht_jax.tracking.pipeline import track
from vht_jax.tracking.run import make_run
from vht_jax.tracking.stages.camera import adjust_camera
from vht_jax.tracking.state import TrackState
from vht_jax.types import FlameModel

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--people", type=int, default=8)
  parser.add_argument("--frames", type=int, default=60)
  parser.add_argument("--size", type=int, default=512)
  parser.add_argument("--vht_people", type=int, default=1, help="clips that VHT's method tracks too; 0: none")
  parser.add_argument("--noslide", action="store_true", help="a detector that errs at random alone")
  parser.add_argument("--focal_people", type=int, default=24, help="for the calibration of focal_sd; 0: none")
  parser.add_argument("--methods", nargs="*", default=["default", "landmarks", "joint", "crippled"])
  parser.add_argument("--videos", type=Path, default=ROOT.parent / "shared" / "data" / "videos")
  parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench" / "track.json")
  args = parser.parse_args()
  jax.config.update("jax_compilation_cache_dir", str(ROOT / "build" / "bench" / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

  model, vht = load_head(model="open"), make_settings(read_ini("vht"))
  report = {"clips": vars(args) | {"videos": None, "output": None}, "truth": {}, "real": {}, "ratios": {}}
  found: dict[str, list[dict[str, float]]] = {}
  realism = synthetic.Realism(slide=not args.noslide)
  for seed in range(args.people):
    clip = synthetic.make_clip(model, seed, args.frames, (args.size, args.size), realism)
    for method in args.methods:
      figures = measure(model, clip, **METHODS[method])
      found.setdefault(method, []).append(figures)
      show(f"{method} {seed}", figures)
    if seed < args.vht_people:
      keyframes = (0, args.frames // 2, args.frames - 1)
      config = having(vht.track, tracking_resolution=None, sampling_scale=1.0, keyframes=keyframes)
      figures = measure(model, clip, config=config, weights=vht.weights)
      found.setdefault("vht", []).append(figures)
      show(f"vht {seed}", figures)
    report["truth"] = {name: medians(rows) for name, rows in found.items()}
    write(args.output, report)

  if "vht" in found and "default" in found:
    slow, fast = report["truth"]["vht"], medians(found["default"][: args.vht_people])
    identity, slow["seconds_per_frame"] = vht_seconds(model, every(clip, -(-args.frames // 3)), vht)
    slow["seconds_per_frame_whole"] = slow["seconds_per_frame"] + identity / args.frames
    for name in ("seconds_per_frame", "seconds_per_frame_whole"):
      report["ratios"][f"{name}_vht_over_default"] = slow[name] / fast["seconds_per_frame_whole"]
    report["ratios"]["face_mm_default_over_vht"] = fast["face_mm"] / slow["face_mm"]
  if args.focal_people:
    report["truth"]["focal_z_rms"] = focal_z_rms(model, args.focal_people)
    print(f"focal_z_rms {report['truth']['focal_z_rms']:.2f}", flush=True)
  for video in sorted(args.videos.glob("*.mp4")) if args.videos.is_dir() else []:
    report["real"][video.stem] = run_app(video)
    show(video.stem, report["real"][video.stem])
    write(args.output, report)
  write(args.output, report)
  print(json.dumps(report["truth"], indent=2), args.output)


# One clip of each person is tracked by all of these.
METHODS = {
  "default": {},
  "landmarks": {"config": TrackConfig(photometric=False)},
  "joint": {"config": TrackConfig(schedule="joint")},
  "crippled": {"n_shape": 50},  # the truth has identity components that the tracker has not
}


def measure(
  model: FlameModel,
  clip: synthetic.SyntheticClip,
  config: TrackConfig = TrackConfig(),
  weights: Weights = Weights(),
  n_shape: int | None = None,
) -> dict[str, float]:
  """Errors of one clip under the names of summary.json; seconds without compilation, as stages after the first run."""
  cut = model if n_shape is None else with_components(model, n_shape)
  start = time.perf_counter()
  result = track(cut, clip, config, weights)
  seconds = time.perf_counter() - start
  truth = result.replace(identity=clip.identity, poses=clip.poses)
  face = np.asarray(model.masks["face"])
  vertices = results.posed_vertices(cut, result), results.posed_vertices(model, truth)
  focal = float(clip.identity.camera.focal)
  projected = results.projected_landmarks(cut, result, clip.size)
  seen = np.ones(len(clip), bool)
  return {
    **results.vertex_errors(*vertices, face),
    "focal_error": abs(float(result.identity.camera.focal) - focal) / focal,
    **results.pose_errors(result.poses, clip.poses),
    **results.landmark_figures(projected, clip.points, np.ones(clip.points.shape[:2]), seen),
    "seconds_total": seconds,
    "seconds_per_frame_whole": seconds / len(clip),
    "seconds_per_frame": result.timing.get("frames", result.timing.get("landmarks", np.nan)) / len(clip),
  }


def with_components(model: FlameModel, n_shape: int) -> FlameModel:
  """The head with its first identity components only."""
  full = model.shapedirs.shape[-1]
  joints = np.delete(np.asarray(model.j_shapedirs), np.s_[n_shape:full], axis=-1)
  return model.replace(shapedirs=model.shapedirs[..., :n_shape], j_shapedirs=jax.numpy.asarray(joints))


def every(clip: synthetic.SyntheticClip, step: int) -> synthetic.SyntheticClip:
  rows = slice(0, None, step)
  return dataclasses.replace(
    clip,
    poses=jax.tree.map(lambda a: a[rows], clip.poses),
    frames=clip.frames[rows],
    points=clip.points[rows],
    dense=None if clip.dense is None else clip.dense[rows],
  )


def vht_seconds(model: FlameModel, clip: synthetic.SyntheticClip, vht: Settings) -> tuple[float, float]:
  """Of VHT's method at its own settings: its identity stage on the clip's frames as keyframes, and each frame after it.

  Slopes between two numbers of steps, so compilation and detection are left out.
  """
  seconds = []
  for steps in (1, 3):
    config = having(
      vht.track, tracking_resolution=None, keyframes=tuple(range(len(clip))), init_steps=steps, steps_per_frame=steps
    )
    timing = [track(model, clip, config, vht.weights).timing for _ in range(2)][-1]
    seconds.append((timing["identity"], timing["frames"] / (len(clip) - 1)))  # the first one keeps what it has
  slopes = np.subtract(seconds[1], seconds[0]) / 2
  return float(slopes[0] * vht.track.adam.init_steps), float(slopes[1] * vht.track.adam.steps_per_frame)


def focal_z_rms(model: FlameModel, n_people: int) -> float:
  """Errors of log focal length in predicted standard deviations, from landmarks; turns of 20 to 50 degrees."""
  z = []
  for seed in range(n_people):
    rng = np.random.default_rng(1000 + seed)
    camera, poses = synthetic.animate(model, rng, 60, yaw_deg=20 + 30 * seed / max(n_people - 1, 1))
    identity = synthetic.plain_identity(model, rng, camera)
    points, dense = synthetic.detections(model, identity, poses, (512, 512), synthetic.Realism(), rng)
    clip = SimpleNamespace(
      size=(512, 512),
      landmarks=lambda points=points, dense=dense: (points, np.ones(points.shape[:2], np.float32), dense),
    )
    run = make_run(model, clip, TrackConfig(photometric=False), Weights())
    state = adjust_camera(TrackState(), run)
    z.append((float(state.shared.log_focal) - np.log(float(camera.focal))) / state.focal_sd)
  return float(np.sqrt(np.mean(np.square(z))))


def run_app(video: Path) -> dict[str, float]:
  """summary.json of the whole app on a video: decoding, detection, tracking, overlay."""
  output = ROOT / "build" / "bench" / video.stem
  subprocess.run(
    [sys.executable, "-m", "vht_jax", f"--video={video}", f"--output_path={output}", "--restart"], check=True
  )
  summary = json.loads((output / "summary.json").read_text())
  return {key: value for key, value in summary.items() if isinstance(value, int | float)}


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
  return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def show(name: str, figures: dict[str, float]) -> None:
  keys = ("vertex_mm", "face_mm", "focal_error", "rotation_deg", "jaw_deg", "gaze_deg", "nme68_median", "nme51_median",
          "iris_median", "jitter_ratio", "seconds_per_frame", "frames_per_second")  # fmt: skip
  print(f"{name:16s}", "  ".join(f"{k} {figures[k]:.3f}" for k in keys if k in figures), flush=True)


def write(path: Path, report: dict) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
  main()
