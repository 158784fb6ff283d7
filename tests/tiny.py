"""A head, a clip and a compiler small enough to differentiate the whole tracker in a test."""

import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras, rotation
from vht_jax.fit import observed
from vht_jax.head import flame
from vht_jax.types import Identity, Observations, TrackResult

SIZE = (120, 100)  # H, W px

# Gradients of a tracker are long programs that run for milliseconds here: nearly all of the time is compilation.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def quick_jit(fun, **kwargs):
  return jax.jit(fun, compiler_options=QUICK, **kwargs)


# As one program: of its hundred operations each would be compiled alone.
landmark_model = quick_jit(observed.landmark_model, static_argnums=2)


def tiny_head(head, n_shape=3, n_expr=5, n_texture=2, dtype=np.float32):
  """The head cut to a few components, without the lower neck."""
  n = head.shapedirs.shape[-1]
  head = flame.without_lower_neck(head).replace(
    shapedirs=head.shapedirs[..., :n_shape],
    exprdirs=head.exprdirs[..., :n_expr],
    j_shapedirs=jnp.concatenate([head.j_shapedirs[..., :n_shape], head.j_shapedirs[..., n : n + n_expr]], -1),
    texture_basis=head.texture_basis[..., :n_texture],
    expr_names=(),
  )
  return cast(head, dtype)


def cast(tree, dtype):
  """Floating-point leaves in another precision."""
  is_float = lambda a: jnp.issubdtype(jnp.asarray(a).dtype, jnp.floating)
  return jax.tree.map(lambda a: jnp.asarray(a, dtype) if is_float(a) else a, tree)


def clip(head, n_frames=3, seed=0, noise_px=0.15, yaw=0.0):
  """(observations without images, truth) of a head that turns about yaw (radians); one point is missing, one is an
  outlier."""
  rng = np.random.default_rng(seed)
  dtype = head.v_template.dtype
  n_shape, n_expr = head.shapedirs.shape[-1], head.exprdirs.shape[-1]
  draw = lambda *shape: rng.standard_normal(shape).astype(dtype)
  turn, expr = 0.25 * draw(n_frames, 3), 0.3 * np.abs(draw(n_frames, n_expr))
  shape, texture = 0.5 * draw(n_shape), 0.3 * draw(head.texture_basis.shape[-1])
  offset, noise = 2e-4 * draw(70, 3), noise_px * draw(n_frames, 70, 2)
  confidence = rng.uniform(0.5, 1.0, (n_frames, 70)).astype(dtype)
  aside = rotation.axis_angle_to_matrix(jnp.array([0.0, yaw, 0.0], dtype)) if yaw else None
  return _clip(head, turn, expr, shape, texture, offset, noise, confidence, aside)


@quick_jit
def _clip(head, turn, expr, shape, texture, offset, noise, confidence, aside):
  """`clip` of its draws: one program, where some 200 operations would each be one."""
  n_frames, dtype = len(turn), head.v_template.dtype
  neutral = flame.neutral_pose(head)
  turned = lambda a: rotation.matrix_to_axis_angle(aside @ rotation.axis_angle_to_matrix(a))
  poses = jax.vmap(lambda _: neutral)(jnp.arange(n_frames)).replace(
    rotation=neutral.rotation[None] + turn if aside is None else jax.vmap(turned)(neutral.rotation[None] + turn),
    expr=expr,
    jaw=jnp.broadcast_to(jnp.array([[0.1, 0.0, 0.0]], dtype), (n_frames, 3)),
  )
  identity = Identity(
    shape=shape,
    texture=texture,
    light=jnp.zeros((9, 3), dtype).at[0].set(3.5).at[1].set(0.3),
    camera=cast(cameras.make_camera(1.8), dtype),
    lmk_offset=offset,
  )

  def landmarks(pose):
    return cameras.project(identity.camera, flame.landmarks(head, flame.skin(head, identity.shape, pose)), SIZE)[:, :2]

  observations = Observations(
    rgb=None,
    landmarks=(jax.vmap(landmarks)(poses) + noise).at[-1, 3].add(6.0),
    confidence=confidence.at[0, 10].set(0.0),
    valid=jnp.ones(n_frames, bool),
  )
  truth = TrackResult(identity=identity, poses=poses, energies={}, status=jnp.zeros(n_frames, jnp.int32))
  return observations, truth


def weigh(tree, seed=5):
  """A scalar that depends on every number of a pytree."""
  rng = np.random.default_rng(seed)
  return sum(jnp.sum(jnp.asarray(rng.standard_normal(a.shape), a.dtype) * a) for a in jax.tree.leaves(tree))


NO_JUDGE = 0.01  # of a difference, by which several disagree where the function jumps


def _slope(along, largest):
  """The slope of `along` at 0 by central differences, and how far those that agree best disagree; see `slopes`."""
  central, extrapolated = [], []
  numeric, best = np.array(np.nan), np.array(np.inf)
  for step in largest * 0.25 ** np.arange(16):
    central.append((along(step) - along(-step)) / (2 * step))
    extrapolated.append(central[-1] if len(central) == 1 else (16 * central[-1] - central[-2]) / 15)
    if len(central) < 3:
      continue
    spread = np.ptp([central[-1], *extrapolated[-2:]], axis=0)
    spread = np.where(np.isnan(spread), np.inf, spread)  # so far away the fit may not be one: a step says nothing then
    numeric, best = np.where(spread < best, extrapolated[-1], numeric), np.minimum(spread, best)
    if (best <= 1e-6 * np.abs(numeric)).all():
      break
  return numeric, best


def _unsure(numeric, apart):
  return np.where(np.isnan(numeric), np.inf, apart / np.maximum(np.abs(numeric), 1e-300))


def slopes(fun, gradient, inputs, largest=1.0, seed=9, n_frames=0, judge=NO_JUDGE):
  """A gradient beside central differences, along one random direction per leaf of `inputs`, or another if need be.

  Which step of the differences counts is decided by the differences alone: kinks spoil large ones and rounding (or a
  solver that stops) small ones, and where extrapolated differences of three steps agree best neither does. So a wrong
  gradient has no choice of steps to hide behind.

  Args:
    fun: inputs -> scalar.
    gradient: its gradient at `inputs`, same structure.
    inputs: pytree; every leaf is moved by itself, only where it is not 0 if it has zeros (confidences).
    largest: step to begin with, relative to the leaf; every further one is a quarter of it.
    judge: of a difference; where several disagree by more, another direction may do better: the function jumps along
      this one, or a small slope drowns in rounding.
    n_frames: `fun` gives a number for each of so many frames, and `gradient` is that of their sum. A frame depends on
      no other, so that all are moved at once, and each has steps of its own: a jump in one spoils no other. Leaves
      without their axis move the sum.

  Returns:
    {path of the leaf: (slope by the gradient, slope by differences, how far the differences disagree)}; of each frame
    where leaves have them.
  """
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree_util.tree_flatten_with_path(inputs)
  out = {}
  for i, ((path, leaf), slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
    leaf = np.asarray(leaf)
    scale = np.abs(leaf).mean() or 1e-3
    by_frame = bool(n_frames) and leaf.shape[:1] == (n_frames,)
    values = [x for _, x in leaves]
    best = None
    for draws in (rng, np.random.default_rng([seed, i])):
      direction = scale * draws.standard_normal(leaf.shape)
      if "confidence" in jax.tree_util.keystr(path):
        direction = direction * (leaf != 0)

      def along(step):
        values[i] = jnp.asarray(leaf + step * direction)
        found = np.asarray(fun(jax.tree_util.tree_unflatten(tree, values)), np.float64)
        return found if by_frame else np.sum(found)

      exact = np.sum(np.asarray(slope) * direction, axis=tuple(range(int(by_frame), leaf.ndim)))
      numeric, apart = _slope(along, largest)
      if best is not None:  # each frame by the direction that says more
        worse = _unsure(numeric, apart) > _unsure(*best[1:])
        exact, numeric, apart = (np.where(worse, *pair) for pair in zip(best, (exact, numeric, apart)))
      best = exact, numeric, apart
      if (exact == 0.0).all() or (apart <= judge * np.abs(numeric)).all():
        break
    out[jax.tree_util.keystr(path, simple=True, separator=".")] = best
  return out
