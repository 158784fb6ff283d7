"""Stages 3 and 4 by VHT's method: Adam on its energy, keyframes first, then the frames."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax.app.record import pack, unpack
from vht_jax.config import TrackConfig, Weights
from vht_jax.head import flame
from vht_jax.tracking.frames import finite_rows
from vht_jax.types import Camera, FlameModel, Identity, Observations, Pose, RawPose
from vht_jax.vht import adam, calibrate

START_MARGIN = 0.02  # poses start this far inside the joint limits, where tanh still has a slope


class AdamFit:
  """Raw poses of all frames and the identity; host side, one row per frame."""

  def __init__(self, model: FlameModel, clip, config: TrackConfig, weights: Weights, seen: np.ndarray):
    self.model = flame.without_lower_neck(model) if config.ignore_lower_neck else model
    self.clip, self.config, self.weights, self.seen = clip, config, weights, seen
    # Once: a clip makes the landmarks of all its frames anew in every call, and there is one batch per frame.
    self.landmarks, self.confidence, _ = clip.landmarks()
    self.terms: dict[str, np.ndarray] = {}

  def start(self, identity: Identity, poses: Pose) -> None:
    """From a fit of the landmarks, or from a former result."""
    self.identity = identity
    raw = jax.vmap(lambda p: flame.unlimit_pose(p, START_MARGIN))(poses)
    self.raw = jax.tree.map(lambda a: np.array(a), raw)

  def calibrate(self, keyframes: np.ndarray, known: Camera | None = None) -> None:
    """VHT's start: the neutral mean head at calibrated poses in the keyframes; elsewhere the nearest keyframe's."""
    focal = self.config.focal if known is None else float(known.focal)
    found = calibrate.calibrate(
      self.model, self.landmarks[keyframes], self.confidence[keyframes], self.clip.size, focal=focal
    )
    self.identity, raw = calibrate.neutral_start(self.model, found)
    if known is not None:
      self.identity = self.identity.replace(camera=known)
    nearest = np.argmin(np.abs(np.arange(len(self.clip))[:, None] - keyframes), axis=1)
    self.raw = jax.tree.map(lambda a: np.asarray(a)[nearest], raw)

  def fit_identity(self, keyframes: np.ndarray, progress) -> None:
    progress.stage("identity", 1)
    rows = jax.tree.map(lambda a: jnp.asarray(a[keyframes]), self.raw)
    self.identity, rows, energies = _fit_identity(
      self.model, self.observations(keyframes), self.identity, rows, self.config, self.weights
    )
    self.put(keyframes, rows)
    progress.advance(1, energy=float(energies["total"][-1, -1]))

  def fit_frames(self, progress, checkpoint) -> None:
    sequential = self.config.schedule == "sequential"
    n, size = len(self.clip), 1 if sequential else self.config.batch_size
    progress.stage("frames", n)
    # VHT's order: the first frame keeps what the keyframe stage gave it, every later one starts at its predecessor.
    first = int(np.argmax(self.seen)) + 1 if sequential else 0
    done = checkpoint.load("frames")
    if done:
      self.restore(done)
      progress.advance(int(done["next"]) - first)
      first = int(done["next"])
    for start in range(first, n, size):
      index = np.minimum(np.arange(start, start + size), n - 1)
      source = self.sound(index[0] - 1)[None] if sequential else index
      rows = jax.tree.map(lambda a: jnp.asarray(a[source]), self.raw)
      if sequential and not self.seen[start]:
        self.put(index, rows)
        progress.advance(1)
        continue
      steps = self.config.init_steps if sequential and start in self.config.cutframes else self.config.steps_per_frame
      rows, last = self.solve(index, rows, steps)
      self.put(index, rows)
      for name, values in last.items():
        self.terms.setdefault(name, np.zeros(n, np.float32))[index] = values
      progress.advance(min(size, n - start), energy=float(last["total"].mean()))
      if checkpoint.due():
        checkpoint.save("frames", {**self.state(), "next": np.asarray(start + size)})

  def solve(self, index: np.ndarray, start: RawPose, steps: int) -> tuple[RawPose, dict[str, np.ndarray]]:
    """Fits a batch of frames; those whose numbers are none afterwards once more, at a tenth of the rates."""
    observations = self.observations(index)

    def attempt(weights):
      rows, energies = _fit_frames(
        self.model, observations, self.identity, start, start.translation, self.config, weights, steps
      )
      return jax.tree.map(np.array, (rows, jax.tree.map(lambda e: e[:, -1, -1], energies)))

    found = attempt(self.weights)
    bad = ~finite_rows(*jax.tree.leaves(found[0])) & self.seen[index]
    if bad.any():
      w = self.weights
      again = attempt(w.replace(lr=w.lr * 0.1, pos_lr=w.pos_lr * 0.1, light_lr=w.light_lr * 0.1))
      found = jax.tree.map(lambda a, b: np.where(bad.reshape(-1, *[1] * (a.ndim - 1)), b, a), found, again)
    return found

  def sound(self, i: int) -> np.ndarray:
    """The last frame up to i whose numbers are numbers, so that one that diverged is nobody's start; () int."""
    leaves = jax.tree.leaves(self.raw)
    return np.int64(next((k for k in range(i, -1, -1) if all(np.isfinite(a[k]).all() for a in leaves)), i))

  def state(self) -> dict[str, np.ndarray]:
    """All that a finished stage has changed; `restore` puts it back."""
    return pack(identity=self.identity, raw=self.raw, **{f"terms.{k}": v for k, v in self.terms.items()})

  def restore(self, state: dict[str, np.ndarray]) -> None:
    self.identity = unpack(Identity, state, "identity")
    self.raw = jax.tree.map(np.array, unpack(RawPose, state, "raw"))
    self.terms = {k.removeprefix("terms."): np.array(v) for k, v in state.items() if k.startswith("terms.")}

  def observations(self, index: np.ndarray) -> Observations:
    landmarks, confidence = self.landmarks[index], self.confidence[index]
    there = confidence > 0
    return Observations(
      rgb=jnp.asarray(self.clip.images(index), jnp.float32) / 255.0,
      landmarks=jnp.asarray(np.where(there[..., None], landmarks, 0.0), jnp.float32),
      confidence=jnp.asarray(confidence, jnp.float32),
      valid=jnp.asarray(self.seen[index]),
    )

  def put(self, index: np.ndarray, rows: RawPose) -> None:
    def write(into, values):
      into[index] = np.asarray(values)
      return into

    self.raw = jax.tree.map(write, self.raw, rows)

  def poses(self) -> Pose:
    return jax.vmap(flame.limit_pose)(jax.tree.map(jnp.asarray, self.raw))


@functools.partial(jax.jit, static_argnums=4)
def _fit_identity(model, observations, identity, raw, config, weights):
  return adam.fit_identity(model, observations, identity, raw, config, weights)


@functools.partial(jax.jit, static_argnums=(5, 7))
def _fit_frames(model, observations, identity, raw, references, config, weights, n_steps):
  return adam.fit_frames(model, observations, identity, raw, references, config, weights, n_steps=n_steps)
