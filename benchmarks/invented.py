"""Invented landmarks: what the tracker makes of detections that were tampered with, on clips whose truth is known.

Landmarks of some frames are scaled, shifted, mirrored, turned upside down, exchanged for another person's or frozen.
None of these frames may come out wrong with high confidence, and the frames beside them have to stay where they are.

  python benchmarks/invented.py --n 200
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

KINDS = ("scaled", "shifted", "mirrored", "turned", "another", "frozen")
MARGIN = 6  # frames between two corruptions and at the ends of a clip, at least
SURE, WRONG_PERCENT, NEAR_PERCENT = 0.9, 5.0, 1.0  # what a suite fails by: confidence, per cent of the eye distance
BESIDE = 3  # frames on both sides of a corrupted run that have to stay
# Mirror images of the 68 points.
MIRROR68 = np.array(
  [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31]
  + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
  + [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip


@dataclasses.dataclass
class Tampered:
  """A clip with other landmarks; implements `track.Clip`."""

  clip: object
  points: np.ndarray  # (T, 70, 2) px
  dense: np.ndarray | None  # (T, 478, 2) px
  runs: list[tuple[str, int, int]]  # kind, first frame, frame after the last

  @property
  def size(self):
    return self.clip.size

  def __len__(self):
    return len(self.clip)

  def landmarks(self):
    return self.points, self.clip.landmarks()[1], self.dense

  def images(self, indices):
    return self.clip.images(indices)


class Absent(Tampered):
  """The same clip as if nobody had seen a face in the tampered frames."""

  def landmarks(self):
    points, confidence, dense = (None if a is None else np.array(a) for a in super().landmarks())
    for _, start, stop in self.runs:
      confidence[start:stop] = 0.0
      if dense is not None:
        dense[start:stop] = np.nan
    return points, confidence, dense


def tamper(clip, other_points, seed: int, n_runs: int = 4) -> Tampered:
  """`n_runs` corruptions of a clip, of 1 to 6 frames (frozen: 3 to 15), as far as they fit.

  Args:
    clip: a `track.Clip`.
    other_points: landmarks and dense points of another person, (T', 70, 2), (T', 478, 2) or None.
    seed: of everything that is drawn.
    n_runs: how many.
  """
  rng = np.random.default_rng(seed)
  points, _, dense = clip.landmarks()
  points, dense = np.array(points), None if dense is None else np.array(dense)
  runs, start = [], MARGIN + int(rng.integers(4))
  for _ in range(n_runs):
    kind = str(rng.choice(KINDS))
    length = int(rng.integers(3, 16) if kind == "frozen" else rng.integers(1, 7))
    if start + length + MARGIN > len(points):
      break
    change = _draw(kind, rng, clip.size)
    for i in range(start, start + length):
      if kind == "frozen":
        points[i] = points[start - 1]
        if dense is not None:
          dense[i] = dense[start - 1]
      elif kind == "another":
        k = (seed + i) % len(other_points[0])
        fit = _similarity(other_points[0][k], points[i])
        points[i] = fit(other_points[0][k])
        if dense is not None:
          dense[i] = fit(other_points[1][k]) if other_points[1] is not None else np.nan
      else:
        points[i], new = change(points[i], None if dense is None else dense[i])
        if dense is not None:
          dense[i] = new
    runs.append((kind, start, start + length))
    start += length + MARGIN + int(rng.integers(6))
  return Tampered(clip, points.astype(np.float32), None if dense is None else dense.astype(np.float32), runs)


def _draw(kind: str, rng, size):
  """A function of (points (70, 2), dense (478, 2) or None) that gives the corrupted ones."""
  from vht_jax.landmarks.mirror import MIRROR

  factor = float(np.exp(rng.choice([-1, 1]) * rng.uniform(np.log(1.1), np.log(1.6))))
  angle, away = rng.uniform(0, 2 * np.pi), float(np.exp(rng.uniform(np.log(0.06), np.log(1.5))))
  whole_image = bool(rng.random() < 0.5)

  def change(points, dense):
    middle = points[:68].mean(axis=0)
    eye = np.linalg.norm(points[36] - points[45])
    if kind == "scaled":
      move = lambda p: middle + factor * (p - middle)
    elif kind == "shifted":
      move = lambda p: p + away * eye * np.array([np.cos(angle), np.sin(angle)])
    elif kind == "turned":
      move = lambda p: 2 * middle - p
    else:
      axis = size[1] / 2 if whole_image else middle[0]
      move = lambda p: np.stack([2 * axis - p[..., 0], p[..., 1]], axis=-1)
      points = points[np.concatenate([MIRROR68, [69, 68]])]
      dense = None if dense is None else dense[MIRROR]
    return move(points), None if dense is None else move(dense)

  return change


def _similarity(source, target):
  """The similarity that brings the landmarks (70, 2) of one face nearest to another's, for any points."""
  a, b = (p[:68, 0] + 1j * p[:68, 1] for p in (source.astype(np.float64), target.astype(np.float64)))
  turn = np.vdot(a - a.mean(), b - b.mean()) / np.vdot(a - a.mean(), a - a.mean()).real

  def move(p):
    z = turn * (p[..., 0] + 1j * p[..., 1] - a.mean()) + b.mean()
    return np.stack([z.real, z.imag], axis=-1)

  return move


def track_and_judge(model, clip, config, weights):
  """Projected landmarks (T, 68, 2) px and confidence (T,) of a clip."""
  from vht_jax import results
  from vht_jax.tracking.pipeline import track

  found = results.judged(model, clip, track(model, clip, config, weights))
  return results.projected_landmarks(model, found, clip.size)[:, :68], np.asarray(found.confidence)


def truth_of(model, clip) -> np.ndarray:
  """(T, 68, 2) px: the true landmarks of a `synthetic.SyntheticClip`."""
  from vht_jax import results
  from vht_jax.types import TrackResult

  truth = TrackResult(identity=clip.identity, poses=clip.poses, energies={}, status=np.zeros(len(clip), np.int32))
  return results.projected_landmarks(model, truth, clip.size)[:, :68]


def eye_distance(points: np.ndarray) -> np.ndarray:
  """(T,) px of (T, 68, 2): between the outer eye corners as if seen from the front (0.8 of nose bridge to chin)."""
  return np.maximum(
    np.linalg.norm(points[:, 36] - points[:, 45], axis=-1), 0.8 * np.linalg.norm(points[:, 27] - points[:, 8], axis=-1)
  )


def verdict(tampered: Tampered, found, trust, clean, truth) -> list[dict]:
  """Per corruption: kind, frames that are surely wrong, the largest error among sure frames, shift of the neighbours.

  Neighbours are frames up to `BESIDE` from a corrupted run that are not corrupted themselves.

  Args:
    tampered: the clip.
    found, trust: `track_and_judge` of it.
    clean: landmarks (T, 68, 2) px that the clip without corruption gave.
    truth: (T, 68, 2) px.
  """
  percent = lambda a, b: 100 * np.linalg.norm(a - b, axis=-1).mean(axis=-1) / eye_distance(truth)
  error, moved = percent(found, truth), percent(found, clean)
  changed = np.zeros(len(found), bool)
  for _, start, stop in tampered.runs:
    changed[start:stop] = True
  rows = []
  for kind, start, stop in tampered.runs:
    inside = np.arange(start, stop)
    beside = np.r_[start - BESIDE : start, stop : stop + BESIDE]
    beside = beside[(beside >= 0) & (beside < len(found))]
    beside = beside[~changed[beside]]
    around = np.r_[inside, beside]
    sure = around[trust[around] > SURE]
    rows.append(
      {
        "kind": kind,
        "frames": f"{start}-{stop - 1}",
        "surely_wrong": int((error[sure] > WRONG_PERCENT).sum()),
        "error_of_sure": float(error[sure].max(initial=0.0)),
        "confidence": float(trust[inside].max()),
        "beside": float(moved[beside].max()),
        "sure_beside": float((trust[beside] > SURE).mean()),
      }
    )
  return rows


def main() -> None:
  from synthetic import Realism, make_clip

  from vht_jax.config import TrackConfig, Weights
  from vht_jax.head.load import load_head

  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--n", type=int, default=200, help="corruptions")
  parser.add_argument("--people", type=int, default=3, help="clips")
  parser.add_argument("--person", type=int, default=304, help="seed of the first; others were looked at before")
  parser.add_argument("--seed", type=int, default=400, help="of the first corruptions")
  parser.add_argument("--photometric", action="store_true", help="with the images")
  parser.add_argument("--slide", action="store_true", help="of a detector that slides over the face as well")
  parser.add_argument("--notracks", action="store_true", help="without the skin's texture")
  parser.add_argument("--absent", action="store_true", help="neighbours against the clip without these frames")
  parser.add_argument("--frames", type=int, default=72)
  parser.add_argument("--size", type=int, default=320)
  options = parser.parse_args()
  model = load_head(model="open", n_shape=50, n_texture=20)
  config, weights = TrackConfig(photometric=options.photometric, tracks=not options.notracks), Weights()
  size, realism = (options.size,) * 2, Realism(slide=options.slide)
  clips = [make_clip(model, options.person + k, options.frames, size, realism) for k in range(options.people)]
  rows = run(model, clips, config, weights, options.n, options.seed, options.absent)
  for kind in KINDS:
    of = [r for r in rows if r["kind"] == kind]
    if of:
      worst = {k: max(r[k] for r in of) for k in ("error_of_sure", "confidence", "beside")}
      kept = np.mean([r["sure_beside"] for r in of])
      print(f"{kind:9s} n {len(of):3d}  surely wrong {sum(r['surely_wrong'] for r in of)}  worst error of a sure frame "
            f"{worst['error_of_sure']:.2f} %  confidence inside <= {worst['confidence']:.2f}  neighbours moved by "
            f"<= {worst['beside']:.2f} %, {kept:.0%} of them sure")  # fmt: skip


def run(model, clips, config, weights, n: int, seed: int = 0, absent: bool = False) -> list[dict]:
  """`verdict` of n corruptions, some per run, over the clips in turn, from a seed on; prints those that fail.

  With `absent` the neighbours are compared with those of the same clip without landmarks in the tampered frames: what
  is left is what the wrong landmarks do, without what the lack of right ones does.
  """
  truth = [truth_of(model, clip) for clip in clips]
  clean = [track_and_judge(model, clip, config, weights)[0] for clip in clips]
  rows = []
  while len(rows) < n:
    k = seed % len(clips)
    other = clips[(k + 1) % len(clips)]
    tampered = tamper(clips[k], (other.landmarks()[0], other.landmarks()[2]), seed, n_runs=min(4, n - len(rows)))
    found, trust = track_and_judge(model, tampered, config, weights)
    beside = track_and_judge(model, Absent(**vars(tampered)), config, weights)[0] if absent else clean[k]
    new = verdict(tampered, found, trust, beside, truth[k])
    for row in new:
      if row["surely_wrong"] or row["beside"] > NEAR_PERCENT:
        print(f"seed {seed}: {row}", flush=True)
    rows += new
    seed += 1
  return rows


if __name__ == "__main__":
  main()
