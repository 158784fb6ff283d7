"""A compiled tracker in one file: `jax.export` of the landmark fits, to be loaded where vht_jax is not installed.

  export_tracker("tracker.bin", model, config, weights, size=(720, 1280))

  from jax import export                                # anywhere else
  tracker = export.deserialize(open("tracker.bin", "rb").read())
  out = tracker.call({"landmarks": landmarks, "confidence": confidence})

Arguments and results are dictionaries of plain arrays and the number of frames is symbolic, so a file serves clips of
any length. It holds StableHLO for several platforms and what the fit needs of the head: 70 points and 5 joints with
their blendshapes. (With FLAME's model that is FLAME's data, under FLAME's licence.) JAX promises that a file can be
loaded for half a year; `vjp_order=1` lets `jax.grad` pass through it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import export
from jaxtyping import Shaped

from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit.solvers.adjoint import Implicit
from vht_jax.tracking.pure import fit_frames, landmarks_only, track_fn
from vht_jax.types import Array, Camera, FlameModel, Identity, Observations, TrackResult

PLATFORMS = ("cpu", "cuda", "tpu")


def export_tracker(
  path: str | Path,
  model: FlameModel,
  config: TrackConfig = TrackConfig(photometric=False),
  weights: Weights = Weights(),
  *,
  size: tuple[int, int],
  known_identity: bool = False,
  platforms: tuple[str, ...] = PLATFORMS,
  vjp_order: int = 1,
) -> export.Exported:
  """Writes a landmark tracker for images of `size` = (H, W) px.

  Args:
    path: of the file to write.
    model, config, weights: frozen into the program.
    known_identity: whether camera and identity are arguments (every frame by itself, real time) or come from the clip.
    platforms: that the program is lowered for.
    vjp_order: how often the loaded program can be differentiated in reverse mode.

  The program takes {"landmarks": (T, 70, 2) px, "confidence": (T, 70)}, float32, and with `known_identity` also what
  it would return: "shape" (S,), "focal" (), "principal" (2,), "lmk_offset" (70, 3). It returns the fields of `Pose`
  (T, ...), these four, "energy" (T,) and "status" (T,).

  Raises:
    InputError: the configuration looks at images.
  """
  if config.photometric:
    raise InputError("export_tracker: only the fit of landmarks is exported; use photometric=False")
  frames = export.symbolic_shape("frames")[0]
  shapes = {"landmarks": (frames, 70, 2), "confidence": (frames, 70)}
  if known_identity:
    shapes |= {"shape": (model.shapedirs.shape[-1],), "focal": (), "principal": (2,), "lmk_offset": (70, 3)}
  arguments = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
  run = jax.jit(exportable(landmarks_only(model, dense=False), config, weights, size))
  exported = export.export(run, platforms=platforms)(arguments)
  Path(path).write_bytes(exported.serialize(vjp_order=vjp_order))
  return exported


def exportable(model: FlameModel, config: TrackConfig, weights: Weights, size: tuple[int, int]) -> Callable:
  """The function that `export_tracker` writes: dictionaries of arrays in and out."""
  adjoint = Implicit()

  def run(inputs: dict[str, Array]) -> dict[str, Array]:
    no_images: Any = None  # and they are not looked at
    observations = Observations(
      rgb=no_images,
      landmarks=inputs["landmarks"],
      confidence=inputs["confidence"],
      valid=jnp.any(inputs["confidence"] > 0, axis=-1),
    )
    if "shape" in inputs:
      identity = _identity(model, inputs)
      poses, energies = fit_frames(model, observations, identity, config, weights, size=size, adjoint=adjoint)
      return _flat(identity, poses, energies, jnp.where(observations.valid, 0, 2))
    result: TrackResult = track_fn(model, observations, config, weights, size=size, adjoint=adjoint)
    return _flat(result.identity, result.poses, result.energies, result.status)

  return run


def load_tracker(
  path: str | Path,
) -> Callable[[dict[str, Shaped[Array, "*shape"]]], dict[str, Shaped[Array, "*shape"]]]:
  """The program of a file of `export_tracker`; nothing but JAX is needed to do the same."""
  program = export.deserialize(bytearray(Path(path).read_bytes()))
  return cast(Callable[[dict[str, Array]], dict[str, Array]], program.call)


def _identity(model: FlameModel, inputs: dict[str, Array]) -> Identity:
  camera: Camera = make_camera(inputs["focal"], inputs["principal"])
  return Identity(
    shape=inputs["shape"],
    texture=jnp.zeros(model.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)),
    camera=camera,
    lmk_offset=inputs["lmk_offset"],
  )


def _flat(identity: Identity, poses, energies, status) -> dict[str, Array]:
  return {
    **{name: getattr(poses, name) for name in ("expr", "rotation", "translation", "neck", "jaw", "eyes")},
    "shape": identity.shape,
    "focal": identity.camera.focal,
    "principal": identity.camera.principal,
    "lmk_offset": identity.lmk_offset,
    "energy": energies["landmarks"],
    "status": status.astype(jnp.int32),
  }
