"""The tracker as pure functions: what other JAX programs call, differentiate, batch, shard and export.

  with_identity   once per clip: a head with its shape folded in            (`flame.with_identity`)
  with_pose       once per frame: vertices, joints and landmarks
  residuals       of the landmarks of one frame, in standard deviations
  fit_identity    camera, identity and start poses from a clip
  fit_frame       the pose of one frame; `fit_frames` of many
  track_fn        a whole clip

Nothing here looks at values, talks to the host or keeps state. Two methods are offered, chosen by `TrackConfig`:

  photometric=False                   landmarks, Levenberg-Marquardt; adjoints `Implicit` (default) and `Unrolled`
  photometric=True, solver='adam'     VHT's energy on images, Adam; adjoint `Unrolled`

Photometric Gauss-Newton (`photometric`, what the app does by default) has no adjoint and is refused here: its image
slopes are not the derivatives of the image lookup, so its result is no stationary point of any cost. What else cannot
be differentiated is refused as well (`check_adjoint`, `used_weights`).
"""

from __future__ import annotations

import math

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vht_jax.cameras import make_camera
from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.fit import bundle
from vht_jax.fit.adjoint import Implicit, Unrolled, no_derivative, scan
from vht_jax.fit.bundle import LandmarkModel, Tracks
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.head.points import Shared
from vht_jax.tracking import gaps
from vht_jax.types import Array, Camera, FlameModel, Identity, Observations, Pose, RawPose, Status, TrackResult
from vht_jax.vht import adam

MIN_YAW_SPAN = math.radians(15.0)  # below this a clip does not determine the focal length
START_MARGIN = 0.02  # Adam starts this far inside the joint limits, where tanh still has a slope
LEARNING_RATES = ("lr", "pos_lr", "light_lr", "cam_lr")
ENERGY_WEIGHTS = (
  "w_lmk", "w_eyes_lmk", "w_eyes_sym", "w_photo", "w_shape_reg", "w_expr_reg", "w_tex_reg",
  "w_pos_neck", "w_pos_jaw", "w_pos_eyes", "w_pos_trans",
)  # fmt: skip


@flax.struct.dataclass
class PosedHead:
  """A head in one frame."""

  vertices: Array  # (V, 3) world, m
  joints: Array  # (5, 3) world, m
  landmarks: Array  # (70, 3) world, m


def with_pose(person: FlameModel, pose: Pose) -> PosedHead:
  """Poses a head whose identity is folded in (`with_identity`).

  `with_pose(with_identity(model, shape), pose).vertices == skin(model, shape, pose)` up to rounding.
  """
  shape = jnp.zeros(person.shapedirs.shape[-1], pose.expr.dtype)
  vertices, joints = flame.skin_head(person, shape, pose.expr, flame.pose_matrices(pose))
  move = (pose.translation - joints[0])[None]
  return PosedHead(vertices + move, joints + move, flame.landmarks(person, vertices + move))


def track_fn(
  model: FlameModel,
  observations: Observations,
  config: TrackConfig,
  weights: Weights,
  init: TrackResult | None = None,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
) -> TrackResult:
  """Tracks a clip of T frames: pure, traceable and differentiable. `vmap` it over clips.

  Args:
    model: the head, cut to the components to fit; for Adam without the faces that are to be ignored
      (`flame.without_lower_neck`).
    observations: leading axis T. `rgb` may be None for landmarks only. Missing landmarks have confidence 0, frames
      without a face are not `valid`.
    config: static. `keyframes` are Adam's (empty: all frames); the camera and identity come from all valid frames.
    weights: traced; new values do not recompile.
    init: identity and poses to start from; its identity is kept. None: both are estimated, from the landmarks first.
    size: (H, W) px of the images; static; None: that of `observations.rgb`.
    adjoint: how derivatives pass; None: `Implicit()` for landmarks, `Unrolled()` for Adam.

  Returns:
    Identity, poses (T, ...), energies (T,), status (T,). Differentiable with respect to landmarks, confidences,
    images, weights, learning rates, the arrays of the head and `init`, as far as the method reads them: images have
    no influence on a fit of landmarks, and neither have, with `Implicit`, the start poses.

  Raises:
    InputError: a method without derivatives, an adjoint that does not fit the method, or a derivative with respect to
      a weight that the method does not know.
  """
  size = _image_size(observations, size)
  adjoint = check_adjoint(config, adjoint)
  weights = used_weights(weights, config)
  seen = frames_with_face(observations)
  if init is None:
    identity, start, energies = fit_identity(model, observations, config, weights, size=size, adjoint=adjoint)
  else:
    identity, start, energies = init.identity, init.poses, None
  if init is not None or config.photometric:
    fit = fit_frames_in_turn if config.schedule == "sequential" else fit_frames
    start, energies = fit(model, observations, identity, config, weights, start, size=size, adjoint=adjoint)
  good = jnp.all(jnp.isfinite(start.rotation), -1) & jnp.all(jnp.isfinite(start.expr), -1)
  poses, status = bridge(start, seen, good)
  return TrackResult(identity=identity, poses=poses, energies=energies, status=status)


def fit_identity(
  model: FlameModel,
  observations: Observations,
  config: TrackConfig,
  weights: Weights,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
) -> tuple[Identity, Pose, dict[str, Array]]:
  """Camera and identity of a clip with the poses that go with them; arguments as for `track_fn`.

  Landmarks: bundle adjustment of all frames, after which the poses are final. Adam starts there and goes on with the
  images of the keyframes.

  Returns:
    Identity, poses (T, ...), and {"landmarks": (T,) cost of each frame's landmarks and priors}.
  """
  size = _image_size(observations, size)
  adjoint = check_adjoint(config, adjoint)
  lm, tracks = landmark_problem(model, observations, config, weights, size)
  yaw = lax.stop_gradient(jax.vmap(lambda t: bundle.initial_unknowns(lm, t)[-pts.N_POSE + 1])(tracks))
  seen = frames_with_face(observations)
  span = jnp.max(jnp.where(seen, yaw, -jnp.inf)) - jnp.min(jnp.where(seen, yaw, jnp.inf))
  # Without parallax the landmarks say little about the focal length: lean on one that is common for portraits.
  focal_sd = bundle.LOG_FOCAL_SD * jnp.where(span > MIN_YAW_SPAN, 1.0, 0.25)
  if config.calibrated and not config.focal:
    raise InputError("calibrated: the focal length must be given (config.focal), or a result with its camera (init)")
  found = bundle.bundle_adjust(
    lm, tracks, weights, focal=config.focal or None, focal_sd=focal_sd.astype(yaw.dtype),
    principal=jnp.zeros(2, yaw.dtype) if config.calibrated else None, adjoint=adjoint,
  )  # fmt: skip
  identity = _identity(model, found.shared, size)
  to_pose = lambda x: pts.to_pose(lm.points, x, found.shared.shape, identity.camera, found.shared.principal)
  poses = jax.vmap(to_pose)(found.xs)
  person, shared = bundle.with_identity(lm, found.shared)
  cost = jax.vmap(lambda x, t: bundle.frame_normal(person, x, shared, t, weights).cost)(found.xs, tracks)
  if config.photometric:
    index = jnp.array(config.keyframes) if config.keyframes else jnp.arange(seen.shape[0])
    pick = lambda tree: jax.tree.map(lambda a: a[index], tree)
    raw = jax.vmap(to_raw)(poses)
    identity, key, _ = adam.fit_identity(
      model, pick(observations), identity, pick(raw), config, weights, adjoint=adjoint
    )
    raw = jax.tree.map(lambda a, b: a.at[index].set(b), raw, key)
    poses = jax.vmap(flame.limit_pose)(raw)
  return identity, poses, {"landmarks": cost}


def fit_frame(
  model: FlameModel,
  observation: Observations,
  identity: Identity,
  config: TrackConfig,
  weights: Weights,
  start: Pose | None = None,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
) -> tuple[Pose, dict[str, Array]]:
  """The pose of one frame whose identity is known; other arguments as for `track_fn`.

  Args:
    observation: one frame, no leading axis.
    start: where to begin; None: the affine camera that brings the neutral head closest to the landmarks. Adam also
      draws the head towards the start's translation (`w_pos_trans`), as VHT does.

  Returns:
    The pose; energies () at it: {"landmarks": cost in squared standard deviations}, or VHT's terms and "total".
  """
  size = _image_size(observation, size)
  adjoint = check_adjoint(config, adjoint)
  if config.photometric and start is not None:
    raw, energies = adam.fit_frame(
      model, observation, identity, to_raw(start), start.translation, config, weights, adjoint=adjoint
    )
    return flame.limit_pose(raw), {name: value[-1, -1] for name, value in energies.items()}
  lm, tracks = landmark_problem(model, jax.tree.map(lambda a: a[None], observation), config, weights, size)
  tracks = jax.tree.map(lambda a: a[0], tracks)
  shared = _shared(lm, identity, size)
  person, folded = bundle.with_identity(lm, shared)
  x0 = None if start is None else pts.from_pose(lm.points, start, shared.shape, identity.camera, shared.principal)
  found = bundle.fit_frame(person, tracks, folded, weights, x0, adjoint=adjoint)
  pose = pts.to_pose(lm.points, found.x, shared.shape, identity.camera, shared.principal)
  if config.photometric:
    return fit_frame(model, observation, identity, config, weights, pose, size=size, adjoint=adjoint)
  return pose, {"landmarks": found.normal.cost}


def fit_frames(
  model: FlameModel,
  observations: Observations,
  identity: Identity,
  config: TrackConfig,
  weights: Weights,
  start: Pose | None = None,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
) -> tuple[Pose, dict[str, Array]]:
  """`fit_frame` for frames side by side: leading axis T on observations, start and the results."""

  def one(observation, start):
    return fit_frame(model, observation, identity, config, weights, start, size=size, adjoint=adjoint)

  return jax.vmap(one)(observations, start)


def fit_frames_in_turn(
  model: FlameModel,
  observations: Observations,
  identity: Identity,
  config: TrackConfig,
  weights: Weights,
  start: Pose,
  *,
  size: tuple[int, int] | None = None,
  adjoint: Implicit | Unrolled | None = None,
) -> tuple[Pose, dict[str, Array]]:
  """`fit_frames` where every frame starts at its predecessor's pose (schedule='sequential'), the first at `start[0]`.

  A frame without a face keeps its predecessor's pose.
  """
  adjoint = check_adjoint(config, adjoint)
  seen = frames_with_face(observations)

  def one(previous, frame):
    observation, seen = frame
    pose, energies = fit_frame(model, observation, identity, config, weights, previous, size=size, adjoint=adjoint)
    pose = jax.tree.map(lambda a, b: jnp.where(seen, a, b), pose, previous)
    return pose, (pose, energies)

  first = jax.tree.map(lambda a: a[0], start)
  groups = adjoint.checkpoint if isinstance(adjoint, Unrolled) else 0
  _, (poses, energies) = scan(one, first, (observations, seen), seen.shape[0], groups)
  return poses, energies


def residuals(
  model: FlameModel,
  identity: Identity,
  pose: Pose,
  observation: Observations,
  weights: Weights,
  *,
  size: tuple[int, int] | None = None,
) -> Array:
  """(70, 2) landmark residuals of one frame, predicted minus observed, in standard deviations; 0 for missing points.

  These are what the fits of landmarks square and sum (beyond 2.5 linearly), without the priors and without the openings
  of lids and lips (`bundle`).
  """
  size = _image_size(observation, size)
  one = jax.tree.map(lambda a: a[None], observation)
  lm, tracks = landmark_problem(model, one, TrackConfig(dense_landmarks=False), weights, size)
  tracks = jax.tree.map(lambda a: a[0], tracks)
  shared = _shared(lm, identity, size)
  x = pts.from_pose(lm.points, pose, shared.shape, identity.camera, shared.principal)
  return (pts.predict(lm.points, x, shared, tracks.bias_scale) - tracks.uv) * tracks.inverse_sd[:, None]


# --- what a request may be -------------------------------------------------------------------------------------------


def check_adjoint(config: TrackConfig, adjoint: Implicit | Unrolled | None) -> Implicit | Unrolled:
  """The adjoint for a method; raises `InputError` where there is none or another one is needed."""
  if config.photometric and config.solver != "adam":
    raise InputError(
      "track_fn: photometric Gauss-Newton cannot be differentiated; use photometric=False (landmarks) or"
      " solver='adam', or vht_jax.tracking.pipeline.track, which has no derivatives"
    )
  if not config.photometric:
    return Implicit() if adjoint is None else adjoint
  if config.init != "landmarks":
    raise InputError("track_fn: init='calibration' runs on the host; use init='landmarks' or give `init`")
  if config.cutframes:
    raise InputError("track_fn: cutframes are not supported; call it once per shot")
  if isinstance(adjoint, Implicit):
    raise InputError(
      "track_fn: the implicit adjoint needs a converged least-squares solution, which solver='adam' does not give;"
      " use Unrolled()"
    )
  return Unrolled() if adjoint is None else adjoint


def used_weights(weights: Weights, config: TrackConfig) -> Weights:
  """The weights, of which those that the method does not read refuse to be differentiated.

  Such a derivative would be zero and look like an answer. Differentiate with respect to the weights that you mean:
  `jax.grad(lambda sd: loss(weights.replace(sd_landmark=sd)))`.
  """
  if config.photometric:
    return weights
  fields = {}
  for name in (*LEARNING_RATES, *ENERGY_WEIGHTS):
    kind = "Levenberg-Marquardt has no learning rate" if name in LEARNING_RATES else "it belongs to solver='adam'"
    message = f"track_fn: no derivative with respect to weights.{name}: {kind}"
    fields[name] = no_derivative(getattr(weights, name), f"{message}, and a fit of landmarks does not read it")
  return weights.replace(**fields)


def frames_with_face(observations: Observations) -> Array:
  """(T,) bool: frames that are valid and show at least one of the 68 landmarks."""
  return observations.valid & jnp.any(observations.confidence[..., :68] > 0, axis=-1)


def landmarks_only(model: FlameModel, *, dense: bool = True) -> FlameModel:
  """The head reduced to the corners of the landmarks' triangles: all that a fit of landmarks reads. Host side.

  A fifth of the vertices, or a thirtieth without the dense landmarks, and neither faces nor texture: cheaper to
  differentiate, to send and to bake into an export.
  """
  if not dense:
    keep = lambda a: a[:0]
    model = model.replace(
      dense_vertices=keep(model.dense_vertices), dense_bary=keep(model.dense_bary), dense_index=keep(model.dense_index)
    )
  corners = np.concatenate([np.asarray(model.lmk_vertices), np.asarray(model.dense_vertices)])
  kept, new = np.unique(corners, return_inverse=True)
  new = new.reshape(corners.shape).astype(np.int32)
  n_vertices, n_landmarks = model.v_template.shape[0], len(model.lmk_vertices)
  return model.replace(
    v_template=model.v_template[kept],
    shapedirs=model.shapedirs[kept],
    exprdirs=model.exprdirs[kept],
    posedirs=model.posedirs.reshape(-1, n_vertices, 3)[:, kept].reshape(-1, 3 * len(kept)),
    lbs_weights=model.lbs_weights[kept],
    faces=model.faces[:0],
    uv=model.uv[:0],
    texture_mean=model.texture_mean[:1, :1],
    texture_basis=model.texture_basis[:1, :1],
    lmk_vertices=jax.device_put(new[:n_landmarks]),
    dense_vertices=jax.device_put(new[n_landmarks:]),
    masks={},
  )


# --- pieces ----------------------------------------------------------------------------------------------------------


def landmark_problem(
  model: FlameModel, observations: Observations, config: TrackConfig, weights: Weights, size: tuple[int, int]
) -> tuple[LandmarkModel, Tracks]:
  """The points of the head and what is seen of them (leading axis T); dense points if they are there and wanted."""
  dense = observations.dense if config.dense_landmarks else None
  step = 3 if dense is not None and model.dense_index.shape[0] else 0
  lm = bundle.landmark_model(model, weights, step)
  points, confidence = observations.landmarks, observations.confidence
  if step:
    extra = dense[:, model.dense_index[::step]]
    points = jnp.concatenate([points, extra], axis=1)
    confidence = jnp.concatenate([confidence, jnp.ones(extra.shape[:2], confidence.dtype)], axis=1)
  there = jnp.all(jnp.isfinite(points), -1) & observations.valid[:, None]
  confidence = jnp.where(there, confidence, 0.0)
  points = jnp.where((confidence > 0)[..., None], points, 0.0)
  return lm, jax.vmap(lambda p, c: bundle.make_tracks(lm, p, c, size))(points, confidence)


def to_raw(pose: Pose) -> RawPose:
  return flame.unlimit_pose(pose, START_MARGIN)


def _image_size(observations: Observations, size: tuple[int, int] | None) -> tuple[int, int]:
  if size is not None:
    return size
  if observations.rgb is None:
    raise InputError("track_fn: observations without images do not say how large the image is: give size=(H, W)")
  return observations.rgb.shape[-3:-1]


def _shared(lm: LandmarkModel, identity: Identity, size: tuple[int, int]) -> Shared:
  """The identity in the landmark fit's terms; points beyond the 70 have no offset."""
  height, width = size
  side = max(height, width)
  scale = jnp.array([width / side, height / side], identity.shape.dtype)
  n_extra = lm.points.template.shape[0] - identity.lmk_offset.shape[0]
  return Shared(
    shape=identity.shape,
    log_focal=jnp.log(identity.camera.focal),
    principal=(identity.camera.principal - 0.5) * scale,
    offset=jnp.pad(identity.lmk_offset, ((0, n_extra), (0, 0))),
  )


def _identity(model: FlameModel, shared: Shared, size: tuple[int, int]) -> Identity:
  """The landmark fit's shared unknowns as an identity of mean texture under white light."""
  height, width = size
  side, dtype = max(height, width), shared.shape.dtype
  default = jax.tree.map(lambda a: a.astype(dtype), make_camera(1.0))
  camera = Camera(
    focal=jnp.exp(shared.log_focal),
    principal=0.5 + shared.principal * jnp.array([side / width, side / height], dtype),
    R=default.R,
    T=default.T,
  )
  return Identity(
    shape=shared.shape,
    texture=jnp.zeros(model.texture_basis.shape[-1], dtype),
    light=jnp.zeros((9, 3), dtype).at[0].set(math.sqrt(4 * math.pi)),
    camera=camera,
    lmk_offset=shared.offset[:70],
  )


def bridge(poses: Pose, seen: Array, good: Array) -> tuple[Pose, Array]:
  """Fills frames without a face, or whose fit is not `good`, from their neighbours.

  Between two tracked frames every parameter goes on with the speed it has at both (`gaps.fill`); before the first and
  after the last one it stays as it is there. The clip is one shot.

  Args:
    poses: leading axis T.
    seen, good: (T,) bool.

  Returns:
    Poses, and the `Status` (T,) of every frame.
  """
  known = seen & good
  filled = gaps.fill(poses, known, jnp.zeros(len(seen), jnp.int32))
  some = jnp.any(known)
  missing = jnp.where(some, Status.INTERPOLATED.value, Status.NO_FACE.value)
  tracked = jnp.where(good, Status.TRACKED.value, Status.DIVERGED.value)
  return filled, jnp.where(seen, tracked, missing).astype(jnp.int32)
