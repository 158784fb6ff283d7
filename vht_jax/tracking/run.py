"""What is constant while a clip is tracked, made once and handed to every stage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import observed
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.terms.priors import HELD_SD, Near
from vht_jax.fit.terms.skin import N_COMMON, ObservedSkin, Skin
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import N_LANDMARKS, Shared, principal_of
from vht_jax.head import flame, view_bias
from vht_jax.head import points as pts
from vht_jax.host import machine
from vht_jax.host.programs import in_chunks, namespace, rows_of, stored
from vht_jax.texture_tracks.rounds import N_POINTS
from vht_jax.tracking.camera_knowledge import placed
from vht_jax.tracking.evidence.examine import Weighed
from vht_jax.tracking.keyframes import frame_times
from vht_jax.tracking.protocols import Checkpoint, Clip, NoCheckpoint, NoProgress, Progress
from vht_jax.types import AnyArray, Camera, FlameModel, TrackResult

LANDMARK_CHUNK = 128  # frames per call of what is done with landmarks
CPU_BATCH, BATCH = 8, 64  # frames with images: more at once do not help a CPU; an H200 (docs/benchmarks.md)
# Of a frame on a device while it is fitted: bytes, and bytes for each px that is looked at. Gauss-Newton at 256 and 512
# px a side, VHT's Adam at 256, on an H200 (docs/benchmarks.md).
FRAME_BYTES = {"gn": (4_200_000, 72), "adam": (0, 510)}
ROOM = 0.5  # of a device's memory, for a batch: the head, the stages that look at keyframes and the programs want some

UNKNOWN = 1e6  # the standard deviation of what is not held
DENSE_STEP = 3  # every third of MediaPipe's 468 points: all cost 2.4 times the time, add little (docs/method.md)


@dataclasses.dataclass(frozen=True)
class Run:
  """A clip of T frames to be tracked with a head; arrays are host side."""

  model: FlameModel
  colored: FlameModel  # the head without the faces whose colours are to be ignored
  clip: Clip
  config: TrackConfig
  weights: Weights
  no_skin: Skin | None  # in place of texture tracks in clips without; None: they are not wanted
  lm: LandmarkModel  # the points of the head that the landmarks are compared with
  observed: ObservedLandmarks  # the landmarks in the units of the fit, leading axis T
  settled: ObservedLandmarks  # the same for a frame's own fit, `evidence.examine.settled`
  landmarks: np.ndarray  # (T, 70, 2) px
  confidence: np.ndarray  # (T, 70), 0 for what is missing
  seen: np.ndarray  # (T,) bool, frames with a face
  sure: np.ndarray  # (T,) bool, those of them that say something of what all frames share
  times: np.ndarray | None  # (T,) of `frame_times`
  init: TrackResult | None  # a former result to go on from
  held: Camera | None  # a camera that is known and not estimated
  shape: np.ndarray | None  # (S,) the person's, if that is known and not estimated
  place: Camera | None  # a camera whose R and T place the world; None: the default ones
  progress: Progress
  checkpoint: Checkpoint

  @property
  def n_frames(self) -> int:
    return len(self.seen)

  @functools.cached_property
  def batch(self) -> int:
    """How many frames a device optimises at once."""
    config, (height, width) = self.config, self.size
    if config.batch_size or jax.default_backend() == "cpu":
      return config.batch_size or CPU_BATCH
    pixels = height * width if config.solver == "adam" else config.gauss_newton.crop_size**2
    return batch_within(machine.memory(), pixels, config.solver)

  @property
  def size(self) -> tuple[int, int]:
    """(H, W) px of the images."""
    return self.clip.size

  @functools.cached_property
  def groups(self) -> np.ndarray:
    """(N,) of `view_bias.groups_of`, of the landmarks of `lm`."""
    groups = view_bias.groups_of(self.model)
    return np.concatenate([groups[:N_LANDMARKS], groups[N_LANDMARKS:][::DENSE_STEP]])[: len(self.lm.relative_sd)]

  def per_frame(self, solve: Callable[[np.ndarray], Any], shares: int = 1) -> Any:
    """`solve(index)` of all frames, chunk by chunk; host side.

    Args:
      shares: of devices among which the program of `solve` spreads a chunk.
    """
    return in_chunks(solve, self.n_frames, LANDMARK_CHUNK * shares)

  def summed(self, solve: Callable[[np.ndarray, np.ndarray], Any], counted: np.ndarray) -> Any:
    """`solve(index, weight)` of all frames chunk by chunk, added up in float64.

    Args:
      solve: the sum over the frames `index` (n,) with `weight` (n,) f32.
      counted: (T,) bool, frames that weigh 1.
    """
    total = None

    def add(index):
      nonlocal total
      first = np.append(True, np.diff(index) > 0)  # the last chunk repeats its last frame
      found = solve(index, (counted[index] & first).astype(np.float32))
      found = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
      total = found if total is None else jax.tree.map(np.add, total, found)
      return index

    self.per_frame(add)
    return total

  def observed_of(self, index: np.ndarray) -> ObservedLandmarks:
    return rows_of(self.observed, index)

  def settled_of(self, index: np.ndarray) -> ObservedLandmarks:
    """`observed_of` for a frame's own fit, once what frames share is settled."""
    return rows_of(self.settled, index)

  def given(self) -> tuple[np.float32 | None, np.ndarray | None]:
    """Focal length and principal point (as in `Shared`) that are known."""
    if self.held is not None:
      return np.float32(self.held.focal), np.asarray(principal_of(jax.tree.map(np.asarray, self.held), self.size))
    return (np.float32(self.config.camera.focal) if self.config.camera.focal > 0 else None), None

  def held_shape(self, shape: AnyArray | None) -> Entry:
    """What holds a shape (S,); None: the same program, in which nothing does."""
    n_shape = self.lm.points.shapedirs.shape[-1]
    mean, sd = (np.zeros(n_shape), UNKNOWN) if shape is None else (shape, HELD_SD[0])
    return Near("shape", np.asarray(mean, np.float32), np.asarray(sd, np.float32)), None

  def with_held(self, shared: Shared) -> Shared:
    """`shared` with a known camera and a known shape put back exactly where the solver held them by stiff priors."""
    if self.shape is not None:
      shared = shared.replace(shape=self.shape)
    if self.held is None:
      return shared
    focal, principal = self.given()
    return shared if focal is None else shared.replace(log_focal=np.log(focal), principal=principal)


def batch_within(memory: int | None, pixels: int, solver: str) -> int:
  """How many frames are to be optimised at once on an accelerator: a power of two, `BATCH` at most.

  Args:
    memory: bytes that the device has for us; None: it does not say.
    pixels: that are looked at in a frame.
    solver: as `TrackConfig.solver`.
  """
  fixed, each = FRAME_BYTES[solver]
  most = BATCH if memory is None else int(ROOM * memory / (fixed + each * pixels))
  return min(1 << max(most, 1).bit_length() - 1, BATCH)


def make_run(
  model: FlameModel, clip: Clip, config: TrackConfig, weights: Weights, *, init: TrackResult | None = None,
  held: Camera | None = None, shape: AnyArray | None = None, progress: Progress | None = None,
  checkpoint: Checkpoint | None = None,
) -> Run:  # fmt: skip
  """Looks at a clip's landmarks; arguments as in `Run`."""
  landmarks, confidence, dense = clip.landmarks()
  step = DENSE_STEP if config.landmarks.dense_landmarks and dense is not None and np.isfinite(dense).any() else 0
  weights = weights.of(np.float32)
  lm = _landmark_model(model, weights, step)
  f32 = lambda a: np.asarray(a, np.float32)
  dense = None if dense is None else f32(dense)
  points, weight = fitted_points(model, f32(landmarks), f32(confidence), dense, step)
  observe = lambda points, weight, touch=False: in_chunks(
    lambda index: _observe(lm, points[index], weight[index], clip.size, touch), len(points), LANDMARK_CHUNK
  )
  own = whole = observe(points, weight)
  if isinstance(clip, Weighed):
    own_points, own_weight, share = clip.settled()
    own_points, own_weight = fitted_points(model, f32(own_points), f32(own_weight), dense, step)
    dense_share = share[:, np.asarray(model.dense_index)[:: step or 1]]
    own_weight[:, N_LANDMARKS:] *= dense_share[:, : own_weight.shape[1] - N_LANDMARKS]
    if (own_points != points).any() or (own_weight != weight).any():
      own = observe(own_points, own_weight, touch=True)
  seen = np.any(weight[:, :68] > 0, axis=1)
  doubted = clip.evidence.in_doubt if isinstance(clip, Weighed) else None
  sure = seen if doubted is None else seen & ~doubted
  return Run(
    model=model,
    colored=flame.without_lower_neck(model) if config.photometric and config.components.ignore_lower_neck else model,
    clip=clip,
    config=config,
    weights=weights,
    no_skin=nowhere(model, len(points)) if config.tracks and init is None else None,
    lm=lm,
    observed=whole,
    settled=own,
    landmarks=landmarks,
    confidence=confidence,
    seen=seen,
    sure=sure,
    times=frame_times(clip),
    init=init,
    held=held,
    shape=None if shape is None else f32(shape),
    place=placed(held if init is None else init.identity.camera),
    progress=progress or NoProgress(),
    checkpoint=checkpoint or NoCheckpoint(),
  )


def nowhere(model: FlameModel, n_frames: int) -> Skin:
  """As many points as tracks have, none of them seen."""
  points = _points(model, np.zeros((N_POINTS, 3), np.int32), np.full((N_POINTS, 3), 1 / 3, np.float32))
  zeros = lambda *shape: np.zeros(shape, np.float32)
  observed = ObservedSkin(zeros(n_frames, N_POINTS, 2), zeros(n_frames, N_POINTS))
  n_shape = model.shapedirs.shape[-1]
  return Skin(
    points=points, fields=zeros(N_POINTS, 3, N_COMMON), observed=observed, by_shape=zeros(N_POINTS, n_shape),
    place=zeros(N_POINTS), by_common=zeros(N_POINTS, N_COMMON), belief=zeros(N_POINTS),
  )  # fmt: skip


def fitted_points(
  model: FlameModel, landmarks: AnyArray, confidence: AnyArray, dense: AnyArray | None, step: int
) -> tuple[Any, Any]:
  """What is observed of the points of `observed.landmark_model`; host side or traced.

  Args:
    model: the head.
    landmarks, confidence: (T, 70, 2) px, (T, 70).
    dense: (T, 478, 2) px; they have no confidence.
    step: every so many of the head's dense points are fitted; 0: none.

  Returns:
    Points (T, N, 2) px, and their confidence (T, N): 0 and a point of 0 for what is missing or not finite.
  """
  xp = namespace(landmarks)
  if step and dense is not None and model.dense_index.shape[0]:
    extra = dense[:, xp.asarray(model.dense_index)[::step]]
    landmarks = xp.concatenate([landmarks, extra], axis=1)
    confidence = xp.concatenate([confidence, xp.ones(extra.shape[:2], confidence.dtype)], axis=1)
  there = xp.all(xp.isfinite(landmarks), axis=-1)
  return xp.where(there[..., None], landmarks, 0.0), xp.where(there, confidence, 0.0)


@functools.partial(stored, static_argnames=("dense_step",), rough=True)
def _landmark_model(model, weights, dense_step):
  return observed.landmark_model(model, weights, dense_step)


@functools.partial(stored, static_argnames=("size", "touch"), rough=True)
def _observe(model, points, confidence, size, touch):
  return jax.vmap(lambda p, c: observed.observe_landmarks(model, p, c, size, touch))(points, confidence)


@functools.partial(stored, rough=True)
def _points(model, vertices, bary):
  points = pts.surface_points(model, vertices, bary)
  return pts.fold_shape(points, jnp.zeros(points.shapedirs.shape[-1], points.template.dtype))
