"""VHT's optimiser: Adam on the energy, first on the keyframes and the identity, then on one frame after the other.

A *step* blurs the frames (less from step to step), rasterises once, and then makes `sub_steps` updates with what is
visible held fixed. Adam's state starts anew in every call. Both functions are pure and contain no `jit`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vht_jax.config import TrackConfig, Weights
from vht_jax.fit.solvers.adjoint import Unrolled, scan
from vht_jax.head import flame
from vht_jax.render.image import gaussian_blur
from vht_jax.render.shade import sample_texture
from vht_jax.types import Array, Camera, FlameModel, Identity, Observations, RawPose
from vht_jax.vht.energy import Pixels, energy, visible_pixels

_GOLDEN = 0.6180339887498949  # low-discrepancy sequence: which pixels of a budget a step looks at


def fit_identity(
  model: FlameModel,
  observations: Observations,
  identity: Identity,
  raw: RawPose,
  config: TrackConfig,
  weights: Weights,
  *,
  adjoint: Unrolled | None = None,
) -> tuple[Identity, RawPose, dict[str, Array]]:
  """VHT's first stage: shape, texture, light and camera of a clip, together with the poses of its keyframes.

  Args:
    model: the head, without the faces that are to be ignored.
    observations: the keyframes, leading axis F.
    identity: where to start; `camera.R`, `camera.T` and `lmk_offset` stay as they are, and so does the camera as a
      whole if it is calibrated (`config.camera.calibrated`), its focal length if that is given (`config.camera.focal`).
    raw: where to start, leading axis F.
    config: static; `init_steps` steps. The blur follows `steps_per_frame`, as in VHT.
    weights: traced.
    adjoint: derivatives of the result by everything traced; None: there are none, which is faster.

  Returns:
    Identity, poses (leading axis F), and per term of `energy.TERMS` and for "total" the energies before each update
    (init_steps, sub_steps).
  """
  rates = _identity_rates(identity, config, weights), _pose_rates(raw, weights)
  (identity, raw), energies = _descend(
    model,
    observations,
    (identity, raw),
    lambda variables: variables,
    rates,
    config.adam.init_steps,
    config,
    weights,
    adjoint=adjoint,
  )
  return identity, raw, energies


def fit_frame(
  model: FlameModel, observation: Observations, identity: Identity, raw: RawPose, reference: Array,
  config: TrackConfig, weights: Weights, *, n_steps: int | None = None, adjoint: Unrolled | None = None,
) -> tuple[RawPose, dict[str, Array]]:  # fmt: skip
  """VHT's second stage: the pose of one frame, with the identity fixed.

  Args:
    model: the head, without the faces that are to be ignored.
    observation: the frame. If it is not valid, or as far as it lacks landmarks, the image alone counts.
    identity: of the clip.
    raw: where to start: the previous frame's pose.
    reference: (3,) translation that the frame is drawn to, world, m: the previous frame's.
    config: static.
    weights: traced.
    n_steps: static; defaults to `config.adam.steps_per_frame` (VHT takes `init_steps` for the first frame of a shot).
    adjoint: as for `fit_identity`.

  Returns:
    The pose, and the energies before each update (n_steps, sub_steps) as for `fit_identity`.
  """
  model = flame.with_identity(model, identity.shape)
  texture = flame.albedo(model, identity.texture, identity.texture_layer)
  raw, energies = _descend(
    model,
    _batch_of_one(observation),
    _batch_of_one(raw),
    lambda raw: (identity, raw),
    _pose_rates(raw, weights),
    config.adam.steps_per_frame if n_steps is None else n_steps,
    config,
    weights,
    reference=reference,
    texture=texture,
    adjoint=adjoint,
  )
  return jax.tree.map(lambda x: x[0], raw), energies


def fit_frames(
  model: FlameModel, observations: Observations, identity: Identity, raw: RawPose, references: Array,
  config: TrackConfig, weights: Weights, *, n_steps: int | None = None,
) -> tuple[RawPose, dict[str, Array]]:  # fmt: skip
  """`fit_frame` for frames side by side: leading axis F on observations, raw, references (F, 3) and the results."""

  def fit(observation, raw, reference):
    return fit_frame(model, observation, identity, raw, reference, config, weights, n_steps=n_steps)

  return jax.vmap(fit)(observations, raw, references)


def evaluate(
  model: FlameModel, observations: Observations, identity: Identity, raw: RawPose, references: Array,
  config: TrackConfig, weights: Weights,
) -> dict[str, Array]:  # fmt: skip
  """The terms of each frame by itself, and "total", at a solution: rasterised anew, without blur.

  Args:
    observations, raw, references: leading axis F, as for `fit_frames`.

  Returns:
    name -> (F,).
  """
  size = observations.rgb.shape[1], observations.rgb.shape[2]

  def frame(observation, raw, reference):
    pose = flame.limit_pose(raw)
    adam = config.adam
    pixels = visible_pixels(model, identity, pose, size, scale=adam.sampling_scale, budget=adam.pixel_budget)
    raw, observation, pixels = _batch_of_one((raw, observation, pixels))
    total, terms = energy(model, identity, raw, observation, observation.rgb, pixels, weights, reference=reference)
    return terms | {"total": total}

  return jax.vmap(frame)(observations, raw, references)


def blur_schedule(blur_sigma: tuple[float, float], decay_steps: int, n_steps: int) -> np.ndarray:
  """(n_steps,) f32 standard deviations of the blur, px: geometric from start to end in `decay_steps`, then the end.

  Computed on the host, in Python floats like VHT's. A kernel has floor(6 sigma / 2) taps on either side: where float32
  would round sigma across such a border (step 2 of VHT's defaults is just under 1) it is rounded the other way.
  """
  start, end = blur_sigma
  factor = (end / (start + 1e-14)) ** (1.0 / max(decay_steps, 1))
  sigmas = []
  for step in range(n_steps):
    sigma = start * factor**step if step < decay_steps else end
    radius, rounded = 6.0 * sigma // 2, np.float32(sigma)
    while np.floor(np.float32(3.0) * rounded) > radius:
      rounded = np.nextafter(rounded, np.float32(0.0))
    while np.floor(np.float32(3.0) * rounded) < radius:
      rounded = np.nextafter(rounded, np.float32(np.inf))
    sigmas.append(rounded)
  return np.array(sigmas, np.float32)


def _descend(
  model: FlameModel, observations: Observations, variables: Any, split: Callable[[Any], tuple[Identity, RawPose]],
  rates: Any, n_steps: int, config: TrackConfig, weights: Weights, *, reference: Array | None = None,
  texture: Array | None = None, adjoint: Unrolled | None = None,
) -> tuple[Any, dict[str, Array]]:  # fmt: skip
  """Minimises the energy of a batch of frames.

  Args:
    variables: what is optimised, any pytree.
    split: variables -> identity, raw poses (leading axis F).
    rates: learning rates, one per leaf of `variables`.
    texture: (Ht, Wt, 3) albedo if it is not optimised: its lookup then happens once per step.
  """
  size = observations.rgb.shape[1], observations.rgb.shape[2]
  # The second epsilon gives the root a derivative where a gradient is 0; the update does not notice it.
  adam = optax.scale_by_adam(eps_root=1e-30)
  plain = adjoint is not None
  # VHT's first update after rasterising does not know where the surface points are seen (docs/parity.md).
  screen_gradients = jnp.where(jnp.arange(config.adam.sub_steps) == 0, 0.0, 1.0).astype(jnp.float32)

  def see(variables, phase) -> Pixels:
    identity, raw = split(variables)

    def frame(raw):
      pose = flame.limit_pose(raw)
      pixels = visible_pixels(
        model,
        identity,
        pose,
        size,
        scale=config.adam.sampling_scale,
        budget=config.adam.pixel_budget,
        phase=phase,
        frozen=not plain,
      )
      if texture is None:
        return pixels
      return pixels.replace(albedo=sample_texture(texture, pixels.uv, forward_mode=plain))

    return jax.vmap(frame)(raw)

  def step(state, schedule):
    sigma, phase = schedule
    blurred = jax.vmap(lambda rgb: gaussian_blur(rgb, sigma))
    # The kernel of a sigma below 1/3 is a single tap.
    targets = jax.lax.cond(sigma < 1.0 / 3.0, lambda rgb: rgb, blurred, observations.rgb)
    pixels = see(state[0], phase)

    def update(state, screen_gradient):
      variables, memory = state

      def loss(variables):
        identity, raw = split(variables)
        return energy(
          model,
          identity,
          raw,
          observations,
          targets,
          pixels,
          weights,
          reference=reference,
          screen_gradient=screen_gradient,
          forward_mode=plain,
        )

      (total, terms), gradient = jax.value_and_grad(loss, has_aux=True)(variables)
      with jax.numpy_dtype_promotion("standard"):  # optax raises a float to the power of its int32 step count
        direction, memory = adam.update(gradient, memory)
      variables = jax.tree.map(lambda x, d, rate: x - rate * d, variables, direction, rates)
      return (variables, memory), terms | {"total": total}

    return jax.lax.scan(update, state, screen_gradients)

  sigmas = blur_schedule(config.adam.blur_sigma, config.adam.steps_per_frame, n_steps)
  phases = np.mod(0.5 + _GOLDEN * np.arange(n_steps), 1.0).astype(np.float32)
  start = variables, adam.init(variables)
  schedule = jnp.asarray(sigmas), jnp.asarray(phases)
  (variables, _), energies = scan(step, start, schedule, n_steps, adjoint.checkpoint if plain else 0)
  return variables, energies


def _batch_of_one(tree: Any) -> Any:
  return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def _pose_rates(raw: RawPose, weights: Weights) -> RawPose:
  return jax.tree.map(lambda _: weights.lr, raw).replace(translation=weights.pos_lr)


def _identity_rates(identity: Identity, config: TrackConfig, weights: Weights) -> Identity:
  fixed: Any = 0.0  # rates are numbers in the places of arrays
  lr: Any = weights.lr
  light_lr: Any = weights.light_lr
  cam_lr: Any = 0.0 if config.camera.calibrated else weights.cam_lr
  return Identity(
    shape=lr,
    texture=lr,
    light=light_lr,
    camera=Camera(focal=fixed if config.camera.focal else cam_lr, principal=cam_lr, R=fixed, T=fixed),
    lmk_offset=fixed,
    texture_layer=None if identity.texture_layer is None else fixed,
  )
