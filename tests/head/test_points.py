"""Posed surface points against the full mesh, and their analytic derivatives against forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import cameras, rotation
from vht_jax.fit import unknowns as layout
from vht_jax.fit.unknowns import Shared
from vht_jax.head import flame, motion
from vht_jax.head import points as pts
from vht_jax.types import POSE_FIELDS

SIZE = (480, 640)
N_DENSE = 12
VERTICES = np.arange(0, 6000, 600, dtype=np.int32)


def unknowns(rng, n_expr: int) -> np.ndarray:
  """Plausible unknowns of a frame: moderate expression, a turned head, an open mouth, a gaze."""
  return np.concatenate(
    [
      rng.uniform(0, 0.5, n_expr),
      rng.uniform(-0.5, 0.5, 3),
      rng.uniform(-0.1, 0.1, 2),
      rng.uniform(0.8, 1.2, 1),
      rng.uniform(-0.1, 0.1, 3),
      rng.uniform(-1.2, 0.0, 1),
      rng.uniform(-0.3, 0.3, 4),
    ]
  ).astype(np.float32)


@pytest.fixture(scope="module")
def points(small_head):
  """70 landmarks, a few dense ones, and a few vertices."""
  step = len(small_head.dense_index) // N_DENSE
  corners = jnp.stack([jnp.asarray(VERTICES)] * 3, axis=-1)
  vertices = jnp.concatenate([small_head.lmk_vertices, small_head.dense_vertices[::step], corners])
  bary = jnp.concatenate([small_head.lmk_bary, small_head.dense_bary[::step], jnp.full(corners.shape, 1.0 / 3)])
  return jax.jit(pts.surface_points)(small_head, vertices, bary)


@pytest.fixture(scope="module")
def shared(points):
  """Identity, camera off centre, and a displacement of every point with the head."""
  rng = np.random.default_rng(1)
  n, _, s = points.shapedirs.shape
  return Shared(
    shape=jnp.asarray(rng.standard_normal(s), jnp.float32),
    log_focal=jnp.asarray(np.log(1.9), jnp.float32),
    principal=jnp.array([0.02, -0.03]),
    offset=jnp.asarray(1e-3 * rng.standard_normal((n, 3)), jnp.float32),
  )


@pytest.fixture(scope="module")
def xs(points):
  rng = np.random.default_rng(0)
  return jnp.asarray(np.stack([unknowns(rng, points.exprdirs.shape[-1]) for _ in range(3)]))


@pytest.fixture(scope="module")
def cam(shared):
  """The camera of `shared`, displaced and turned: the unknowns live in camera coordinates, poses in the world."""
  height, width = SIZE
  principal = 0.5 + np.asarray(shared.principal) * max(SIZE) / np.array([width, height])
  turn = np.array(rotation.axis_angle_to_matrix(jnp.array([0.1, -0.4, 0.2])))
  R = turn @ np.array(cameras.WORLD_TO_OPENCV)
  return cameras.make_camera(jnp.exp(shared.log_focal), principal, R, (0.1, -0.2, 0.3))


def displaced(points, x, shared):
  """`pts.locate` of points that are moved with the head by `shared.offset`."""
  focal = jnp.exp(shared.log_focal)
  shaped, joints = pts.shaped_points(points, shared.shape, x[: -pts.N_POSE])
  X, (_, R) = pts.camera_points(points, shaped, joints, x[-pts.N_POSE :], focal, shared.principal)
  return pts.project(X + jnp.matmul(shared.offset, R.T, precision="highest"), focal, shared.principal)


def displaced_and_jacobian(points, x, shared):
  shaped, joints = pts.shaped_points(points, shared.shape, x[: -pts.N_POSE])
  placed = pts.place(points, shaped, x[-pts.N_POSE :], shared, joints)
  return pts.seen(points, pts.displaced(placed, shared.offset), shared)


@pytest.fixture(scope="module")
def functions():
  return {
    "locate": jax.jit(pts.locate),
    "displaced": jax.jit(displaced),
    "jacobian": jax.jit(displaced_and_jacobian),
    "to_pose": jax.jit(layout.to_pose),
    "from_pose": jax.jit(layout.from_pose),
  }


def test_a_small_head_in_a_large_picture_keeps_its_digits(points, shared, xs, functions):
  """Forty times smaller than the picture and at its edge, in single precision against double, by the head's size."""
  parts = layout.split(xs[0])
  x = layout.join(**{**parts, "place": parts["place"] + jnp.array([0.4, -0.35, -3.2])})
  with jax.enable_x64(True):
    exact = lambda tree: jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), tree)
    uv = np.asarray(jax.jit(displaced)(exact(points), exact(x), exact(shared)))
  observed = uv.astype(np.float32)
  size = np.ptp(uv[:68], axis=0).max()
  assert size < 0.025
  seen = functions["jacobian"](points, x, shared)
  np.testing.assert_allclose(seen.off(jnp.asarray(observed)), uv - observed, atol=3e-7 * size)
  assert np.abs(np.asarray(seen.uv) - observed - (uv - observed)).max() > 6e-7 * size


def test_split_names_every_unknown(points):
  n = layout.n_unknowns(points)
  parts = layout.split(jnp.arange(float(n)))
  assert {k: v.size for k, v in parts.items()} == {
    "expr": n - 14, "rotation": 3, "place": 3, "neck": 3, "jaw": 1, "eyes": 4,
  }  # fmt: skip
  names = ("expr", "rotation", "place", "neck", "jaw", "eyes")
  order = np.concatenate([np.asarray(parts[k]).reshape(-1) for k in names])
  np.testing.assert_array_equal(order, np.arange(n))


def test_points_are_the_skinned_mesh_projected(small_head, points, shared, xs, cam, functions):
  """Exact at vertices, else within the pseudo-vertex approximation: 0.1 mm."""

  @jax.jit
  def mesh_points(pose):
    vertices = flame.skin(small_head, shared.shape, pose)
    dense = flame.dense_landmarks(small_head, vertices)[:: len(small_head.dense_index) // N_DENSE]
    on_mesh = jnp.concatenate([flame.landmarks(small_head, vertices), dense, vertices[VERTICES]])
    return cameras.project(cam, on_mesh, SIZE)[:, :2]

  for x in xs:
    pose = functions["to_pose"](points, x, shared.shape, cam, shared.principal)
    expected = (np.asarray(mesh_points(pose)) - np.array([SIZE[1] / 2, SIZE[0] / 2])) / max(SIZE)
    uv = functions["locate"](points, x, shared)
    error_mm = np.linalg.norm(uv - expected, axis=-1) / np.exp(x[-9]) * 1e3
    assert error_mm.max() < 0.15
    assert np.median(error_mm) < 0.01
    assert error_mm[-len(VERTICES) :].max() < 0.002


def test_pose_round_trip(points, shared, xs, cam, functions):
  for x in xs:
    pose = functions["to_pose"](points, x, shared.shape, cam, shared.principal)
    back = functions["from_pose"](points, pose, shared.shape, cam, shared.principal)
    np.testing.assert_allclose(back, x, atol=3e-5)
    again = functions["to_pose"](points, back, shared.shape, cam, shared.principal)
    for name in POSE_FIELDS:
      np.testing.assert_allclose(getattr(again, name), getattr(pose, name), atol=3e-5, err_msg=name)


def test_the_frontal_neutral_pose_is_the_origin_of_the_unknowns(small_head, points, shared, functions):
  """Rotation 0 is the frontal view, where axis-angles of the world sit at |r| = pi."""
  cam = cameras.make_camera(2.0)
  x = functions["from_pose"](points, flame.neutral_pose(small_head), shared.shape, cam, jnp.zeros(2))
  parts = layout.split(x)
  np.testing.assert_allclose(parts["rotation"], 0, atol=1e-5)
  np.testing.assert_allclose(motion.jaw_angle(parts["jaw"]), 0, atol=1e-5)
  assert np.all(np.abs(parts["place"][:2]) < 0.15)
  np.testing.assert_allclose(np.exp(parts["place"][2]), 2.0 / 1.0, rtol=0.15)  # focal / a metre


def test_to_pose_clamps_to_the_joint_limits(points, shared, xs, cam, functions):
  wild = xs[0].at[-8:-5].set(4.0).at[-5].set(9.0).at[-4:].set(-5.0)
  pose = functions["to_pose"](points, wild, shared.shape, cam, shared.principal)
  for name, value in (("neck", pose.neck), ("jaw", pose.jaw), ("eyes", pose.eyes[0]), ("eyes", pose.eyes[1])):
    lower, upper = flame.JOINT_LIMITS[name]
    assert np.all(value >= lower - 1e-6) and np.all(value <= upper + 1e-6), name


def test_place_is_where_the_pivot_appears(points, shared, xs, functions):
  """(u, v) of the pivot is place[:2], independent of rotation, scale and focal length."""
  x = xs[1]
  place = layout.split(x)["place"]
  for focal in (1.0, 4.0):
    R, t = pts.rigid(layout.split(x), jnp.float32(focal), shared.principal)
    np.testing.assert_allclose(pts.project(t[None], jnp.float32(focal), shared.principal)[0], place[:2], atol=1e-6)
    np.testing.assert_allclose(jnp.log(focal / t[2]), place[2], atol=1e-6)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-6)


@pytest.mark.differentiable
def test_jacobians_equal_forward_mode(points, shared, xs, functions):
  """All blocks, with principal point, displacements and dense points."""
  n_expr, n_shape, n_points = points.exprdirs.shape[-1], shared.shape.shape[0], len(shared.offset)
  blocks = {
    "expr": n_expr, "rotation": 3, "place": 3, "neck": 3, "jaw": 1, "eyes": 4,
    "shape": n_shape, "log_focal": 1, "principal": 2, "offset": 5,
  }  # fmt: skip
  rng = np.random.default_rng(3)
  offsets = jnp.asarray(rng.standard_normal((blocks["offset"], n_points, 3)), jnp.float32)  # random directions
  unit = jnp.eye(sum(blocks.values()) - blocks["offset"])
  unit = jnp.pad(unit, ((0, blocks["offset"]), (0, 0)))
  n_x = layout.n_unknowns(points)

  @jax.jit
  def forward(x, shared):
    def column(d, d_offset):
      d_shared = Shared(d[n_x : n_x + n_shape], d[n_x + n_shape], d[n_x + n_shape + 1 :], d_offset)
      return jax.jvp(lambda x, s: displaced(points, x, s), (x, shared), (d[:n_x], d_shared))[1]

    return jax.vmap(column)(unit, jnp.pad(offsets, ((len(unit) - len(offsets), 0), (0, 0), (0, 0))))

  for x in xs[:2]:
    seen = functions["jacobian"](points, x, shared)
    d_shared = [seen.d_shared[name] for name in ("shape", "log_focal", "principal")]
    np.testing.assert_allclose(seen.uv, functions["displaced"](points, x, shared), atol=1e-6)
    by_offset = np.einsum("nij,knj->kni", seen.by_head, offsets)
    analytic = np.concatenate([np.moveaxis(np.concatenate([seen.d_x, *d_shared], -1), -1, 0), by_offset])
    expected = np.asarray(forward(x, shared))
    start = 0
    for name, size in blocks.items():
      a, b = analytic[start : start + size], expected[start : start + size]
      assert np.abs(a - b).max() < 1e-4 * np.abs(b).max(), name
      start += size


@pytest.mark.differentiable
def test_jacobian_at_the_frontal_pose_is_finite(points, shared, functions):
  x = jnp.zeros(layout.n_unknowns(points)).at[-9].set(1.0)
  for block in jax.tree.leaves(functions["jacobian"](points, x, shared)):
    assert np.isfinite(block).all()


def test_with_identity_changes_nothing(points, shared, xs, cam, functions):
  folded = jax.jit(pts.fold_shape)(points, shared.shape)
  empty = shared.replace(shape=shared.shape[:0])
  assert folded.shapedirs.shape[-1] == 0
  uv = [functions["displaced"](p, xs[2], s) for p, s in ((points, shared), (folded, empty))]
  np.testing.assert_allclose(*uv, atol=1e-6)
  poses = [
    functions["to_pose"](p, xs[2], s.shape, cam, shared.principal) for p, s in ((points, shared), (folded, empty))
  ]
  np.testing.assert_allclose(poses[1].translation, poses[0].translation, atol=1e-6)
