"""The head: golden values of the original tracker and of FLAME, invariances, derivatives."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from parity import parity_file, parity_model

from vht_jax import rotation
from vht_jax.head import flame
from vht_jax.head.load import flame_model_from_arrays
from vht_jax.types import Pose, RawPose

limit_pose, pose_matrices, skin, skin_head = map(
  jax.jit, (flame.limit_pose, flame.pose_matrices, flame.skin, flame.skin_head)
)
many_matrices = jax.jit(jax.vmap(flame.pose_matrices))


@pytest.fixture(scope="module")
def golden(shared_data):
  return parity_file(shared_data, "parity_flame.npz")


@pytest.fixture(scope="module")
def model(shared_data):
  return parity_model(shared_data)


@pytest.fixture(scope="module")
def raw_poses(golden):
  return RawPose(
    expr=jnp.asarray(golden["expr"]),
    rotation=jnp.asarray(golden["rotation"]),
    translation=jnp.asarray(golden["translation"]),
    neck=jnp.asarray(golden["neck_pose"]),
    jaw=jnp.asarray(golden["jaw_pose"]),
    eyes=jnp.asarray(golden["eyes_pose"]).reshape(-1, 2, 3),
  )


def random_pose(model, seed=0, scale=0.3):
  """A pose inside the limits with every parameter away from 0."""
  rng = np.random.default_rng(seed)

  def draw(*shape):
    return np.asarray(rng.normal(size=shape) * scale, np.float32)

  n_expr = model.exprdirs.shape[-1]
  raw = RawPose(expr=draw(n_expr), rotation=draw(3), translation=draw(3), neck=draw(3), jaw=draw(3), eyes=draw(2, 3))
  return limit_pose(raw), jnp.asarray(draw(model.shapedirs.shape[-1]))


# Golden values: the original's own code (tolerances: the pack's recommendation)


def test_limits_and_matrices_equal_the_originals(golden, raw_poses):
  poses = limit_pose(raw_poses)
  np.testing.assert_allclose(poses.neck, golden["neck_limited"], atol=1e-6)
  np.testing.assert_allclose(poses.jaw, golden["jaw_limited"], atol=1e-6)
  np.testing.assert_allclose(poses.eyes.reshape(-1, 6), golden["eyes_limited"], atol=1e-6)
  full = jnp.concatenate([poses.rotation, poses.neck, poses.jaw, poses.eyes.reshape(-1, 6)], axis=1)
  np.testing.assert_allclose(full, golden["full_pose"], atol=1e-6)
  np.testing.assert_allclose(many_matrices(poses), golden["rot_mats"], atol=1e-6)
  for name, key in (("neck", "neck_limits"), ("jaw", "jaw_limits"), ("eyes", "eye_limits")):
    np.testing.assert_allclose(np.stack(flame.JOINT_LIMITS[name], -1), golden[key], atol=1e-6)


def test_neutral_pose_equals_the_originals(model, golden):
  raw = flame.unlimit_pose(flame.neutral_pose(model))
  np.testing.assert_allclose(raw.neck, golden["neutral_neck"], atol=1e-6)
  np.testing.assert_allclose(raw.jaw, golden["neutral_jaw"], atol=1e-5)
  np.testing.assert_allclose(raw.eyes[0], golden["neutral_eyes"], atol=1e-6)
  pose = flame.neutral_pose(model, jnp.zeros(3)).replace(rotation=jnp.zeros(3))
  vertices = skin(model, jnp.zeros(40), pose)
  np.testing.assert_allclose(vertices, golden["neutral_vertices"][0], atol=1e-6)
  np.testing.assert_allclose(flame.landmarks(model, vertices), golden["neutral_landmarks"][0], atol=1e-6)


def test_vertices_and_landmarks_equal_the_originals(model, golden, raw_poses):
  shape = jnp.asarray(golden["shape"])
  poses = limit_pose(raw_poses)
  vertices = jax.jit(jax.vmap(flame.skin, (None, None, 0)))(model, shape, poses)
  np.testing.assert_allclose(vertices, golden["vertices"], atol=1e-6)
  landmarks = jax.jit(jax.vmap(lambda v: flame.landmarks(model, v)))(vertices)
  np.testing.assert_allclose(landmarks, golden["landmarks"], atol=1e-6)
  of_expr = jax.jit(jax.vmap(lambda expr, matrices: flame.skin_head(model, shape, expr, matrices)))
  vertices, joints = of_expr(poses.expr, many_matrices(poses))
  np.testing.assert_allclose(vertices, golden["lbs_vertices"], atol=1e-6)
  np.testing.assert_allclose(joints, golden["lbs_joints"], atol=1e-6)


def test_gradients_equal_the_originals(model, golden, raw_poses):
  v, k, b = np.arange(5023)[:, None], np.arange(3)[None], np.arange(3)[:, None, None]
  cotangent = jnp.asarray(np.cos(0.37 * v + 1.3 * k + 0.7 * b).astype(np.float32))

  def objective(shape, raw, c):
    return jnp.sum(flame.skin(model, shape, flame.limit_pose(raw)) * c)

  shape = jnp.asarray(golden["shape"])
  of_shape, of_raw = jax.jit(jax.vmap(jax.grad(objective, (0, 1)), (None, 0, 0)))(shape, raw_poses, cotangent)
  close = partial(np.testing.assert_allclose, atol=2e-5, rtol=2e-6)
  close(of_shape, golden["vjp_shape"])
  close(of_raw.expr, golden["vjp_expr"])
  close(of_raw.rotation, golden["vjp_rotation"])
  close(of_raw.neck, golden["vjp_neck_pose"])
  close(of_raw.jaw, golden["vjp_jaw_pose"])
  close(of_raw.eyes.reshape(-1, 6), golden["vjp_eyes_pose"])
  close(of_raw.translation, golden["vjp_translation"])


def test_texture_and_uv_equal_the_originals(model, golden, shared_data):
  shading = parity_file(shared_data, "parity_shading.npz")
  for code, key in ((shading["texture"], "albedo"), (np.zeros(6, np.float32), "albedo_zero_code")):
    albedo = flame.albedo(model, jnp.asarray(code))
    np.testing.assert_allclose(albedo, shading[key][0].transpose(1, 2, 0), atol=1e-6)
  theirs = golden["face_uvcoords"]  # grid_sample's coordinates: -1..1, v down
  np.testing.assert_allclose(model.uv, np.stack([theirs[..., 0], -theirs[..., 1]], -1) / 2 + 0.5, atol=1e-6)


def test_vertex_normals_equal_the_originals(model, golden, shared_data):
  shading = parity_file(shared_data, "parity_shading.npz")
  vertices = jnp.asarray(golden["vertices"])
  for faces, key in ((flame.without_lower_neck(model).faces, "r0_verts_normals"), (model.faces, "r3_verts_normals")):
    normals = jax.jit(jax.vmap(lambda v, faces=faces: flame.vertex_normals(v, faces)))(vertices)
    np.testing.assert_allclose(normals, shading[key], atol=3e-4)


def test_lower_neck_drops_exactly_the_listed_faces(model, shared_data):
  data = parity_file(shared_data, "parity_model.npz")
  kept = flame.without_lower_neck(model)
  np.testing.assert_array_equal(kept.faces, np.delete(data["faces"], data["lower_neck_face_idcs"], axis=0))
  np.testing.assert_array_equal(kept.uv, np.delete(np.asarray(model.uv), data["lower_neck_face_idcs"], axis=0))
  assert flame.without_lower_neck(kept).faces.shape == kept.faces.shape


def test_skinning_equals_flame_2023(shared_data):
  folder = shared_data / "flame2023_open"
  if not (folder / "golden_lbs.npz").is_file():
    pytest.skip(f"golden file not present ({folder})")
  with np.load(folder / "flame2023_open_partial.npz") as data:
    model = flame_model_from_arrays(
      v_template=data["v_template"], faces=data["f"], shapedirs=data["shapedirs60"], posedirs=data["posedirs"],
      weights=data["weights"], J_regressor=data["J_regressor"], kintree_table=data["kintree_table"],
    )  # fmt: skip
  with np.load(folder / "golden_lbs.npz") as golden:
    for betas, angles, vertices, joints in zip(*(golden[k] for k in ("betas", "pose", "vertices", "joints"))):
      matrices = jax.vmap(rotation.axis_angle_to_matrix)(jnp.asarray(angles))
      found = skin_head(model, jnp.asarray(betas), jnp.zeros(0), matrices)
      np.testing.assert_allclose(found[0], vertices, atol=1e-6)
      np.testing.assert_allclose(found[1], joints, atol=1e-6)


# Invariances, on the open head


def test_root_joint_lies_at_the_translation(open_head):
  pose, shape = random_pose(open_head)
  vertices, joints = skin_head(open_head, shape, pose.expr, pose_matrices(pose))
  moved = skin(open_head, shape, pose)
  np.testing.assert_allclose(moved, vertices + (pose.translation - joints[0])[None], atol=1e-6)
  np.testing.assert_allclose(joints[0], flame.joints(open_head, shape, pose.expr)[0], atol=1e-7)


def test_rotation_is_rigid_about_the_root_joint(open_head):
  pose, shape = random_pose(open_head)
  turned = skin(open_head, shape, pose)
  straight = skin(open_head, shape, pose.replace(rotation=jnp.zeros(3)))
  R = rotation.axis_angle_to_matrix(pose.rotation)
  np.testing.assert_allclose(turned - pose.translation[None], (straight - pose.translation[None]) @ R.T, atol=2e-6)


def test_rest_pose_is_the_blendshape_head(open_head):
  pose, shape = random_pose(open_head)
  matrices = jnp.broadcast_to(jnp.eye(3), (5, 3, 3))
  vertices, joints = skin_head(open_head, shape, pose.expr, matrices)
  np.testing.assert_allclose(vertices, flame.shape_blend(open_head, shape, pose.expr), atol=1e-6)
  np.testing.assert_allclose(joints, flame.joints(open_head, shape, pose.expr), atol=1e-6)


def skin_shape(model, pose, shape):
  return flame.skin(model, shape, pose)


def test_folded_identity_gives_the_same_head(open_head):
  pose, shape = random_pose(open_head, seed=3)
  folded = flame.with_identity(open_head, shape)
  assert folded.shapedirs.shape == (*open_head.v_template.shape, 0)
  expected = skin(open_head, shape, pose)
  np.testing.assert_allclose(skin(folded, jnp.zeros(0), pose), expected, atol=1e-6)

  def folded_skin(shape):
    return flame.skin(flame.with_identity(open_head, shape), jnp.zeros(0), pose)

  # the identity stays differentiable through the fold
  slopes = [
    jax.jit(lambda shape, f=f: jax.jvp(f, (shape,), (jnp.ones_like(shape),))[1])(shape)
    for f in (folded_skin, partial(skin_shape, open_head, pose))
  ]
  np.testing.assert_allclose(*slopes, atol=1e-5)


def test_frames_in_a_batch_equal_single_frames(open_head):
  poses, shapes = zip(*(random_pose(open_head, seed) for seed in range(3)))
  batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *poses)
  skin = jax.jit(flame.skin)
  many = jax.jit(jax.vmap(flame.skin, (None, None, 0)))(open_head, shapes[0], batch)
  for k in range(3):
    np.testing.assert_allclose(many[k], skin(open_head, shapes[0], poses[k]), atol=1e-6)


def test_limits_round_trip(open_head):
  pose, _ = random_pose(open_head, scale=1.0)
  again = flame.limit_pose(flame.unlimit_pose(pose))
  for a, b in zip(jax.tree.leaves(pose), jax.tree.leaves(again)):
    np.testing.assert_allclose(a, b, atol=1e-5)
  beyond = pose.replace(jaw=jnp.array([2.0, -1.0, 1.0]), neck=jnp.full(3, 9.0))
  raw = flame.unlimit_pose(beyond)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(raw))
  np.testing.assert_allclose(flame.limit_pose(raw).jaw, [math.radians(d) for d in (60, -0.1, 0.1)], atol=1e-5)


# What the open head's parts are for


@jax.jit
def neutral_identity_landmarks(model, pose):
  return flame.landmarks(model, flame.skin(model, jnp.zeros(model.shapedirs.shape[-1]), pose))


def test_neutral_head_looks_into_the_camera(open_head):
  points = neutral_identity_landmarks(open_head, flame.neutral_pose(open_head))
  nose, chin, ear_to_ear = points[30], points[8], points[16] - points[0]
  assert nose[2] < points[0, 2] < 1.1, "the nose is nearer to the camera than the ears"
  assert chin[1] < nose[1], "world y is up"
  assert ear_to_ear[0] < -0.1, "world x is left: landmark 0 (subject's right) is on the image's left"
  assert points[68, 0] > 0 > points[69, 0]
  assert abs(float(points[:, 0].mean())) < 1e-3


def test_jaw_opens_the_mouth_and_lids_close_the_eyes(open_head):
  rest = flame.neutral_pose(open_head)

  def gap(pose, a, b):
    points = np.asarray(neutral_identity_landmarks(open_head, pose))
    return np.linalg.norm(points[a] - points[b])

  opened = rest.replace(jaw=jnp.array([math.radians(24.11), 0.0, 0.0]))
  assert gap(opened, 62, 66) > gap(rest, 62, 66) + 0.02
  for name, upper, lower, other_upper, other_lower in (("eyelidRight", 37, 41, 44, 46), ("eyelidLeft", 44, 46, 37, 41)):
    closed = rest.replace(expr=rest.expr.at[open_head.expr_names.index(name)].set(1.0))
    assert gap(closed, upper, lower) < 0.5 * gap(rest, upper, lower)
    assert abs(gap(closed, other_upper, other_lower) - gap(rest, other_upper, other_lower)) < 1e-5


def test_gaze_turns_the_eyes_named(open_head):
  rest = flame.neutral_pose(open_head, jnp.zeros(3)).replace(rotation=jnp.zeros(3))
  turned = rest.replace(eyes=rest.eyes.at[0, 1].set(0.3))  # joint 3, about +y: towards +x
  shift = neutral_identity_landmarks(open_head, turned) - neutral_identity_landmarks(open_head, rest)
  assert shift[69, 0] > 2e-3 and abs(float(shift[68, 0])) < 1e-6


# Normals and albedo


def test_normals_of_a_ball():
  trimesh = pytest.importorskip("trimesh")
  ball = trimesh.creation.icosphere(subdivisions=3, radius=0.1)
  vertices, faces = jnp.asarray(ball.vertices, jnp.float32), jnp.asarray(ball.faces, jnp.int32)
  normals_of = jax.jit(flame.vertex_normals)
  normals = np.asarray(normals_of(vertices, faces))
  np.testing.assert_allclose(normals, ball.vertices / 0.1, atol=0.015)
  np.testing.assert_allclose(normals, ball.vertex_normals * 1.0, atol=0.05)
  np.testing.assert_allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=1e-6)
  np.testing.assert_allclose(normals_of(vertices, faces[:, ::-1]), -normals, atol=1e-6)
  # area weights: cutting a face in many leaves the normals of its corners
  fan = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0]])
  whole = normals_of(fan, jnp.array([[0, 1, 2], [0, 2, 3]]))
  cut = normals_of(fan, jnp.array([[0, 1, 4], [0, 4, 2], [0, 2, 3]]))
  np.testing.assert_allclose(whole[0], cut[0], atol=1e-6)


def test_normals_of_nothing_are_zero_with_finite_gradients():
  vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [5, 5, 5]])
  faces = jnp.array([[0, 1, 2], [0, 0, 3]])  # a line and a point pair; vertex 4 is in no face
  np.testing.assert_array_equal(jax.jit(flame.vertex_normals)(vertices, faces), np.zeros((5, 3)))
  gradient = jax.jit(jax.grad(lambda v: jnp.sum(flame.vertex_normals(v, faces) * 3.0)))(vertices)
  assert np.isfinite(gradient).all()


def test_albedo_is_linear_inside_and_clipped_outside(open_head):
  zero = jnp.zeros(open_head.texture_basis.shape[-1])
  code = zero.at[1].set(1.0)
  mean, one, half = (flame.albedo(open_head, c) for c in (zero, code, 0.5 * code))
  np.testing.assert_allclose(mean, open_head.texture_mean)
  np.testing.assert_allclose(half - mean, (one - mean) / 2, atol=1e-6)
  extreme = flame.albedo(open_head, zero + 50.0)
  assert float(extreme.min()) >= 0 and float(extreme.max()) <= 1


# Derivatives against finite differences, in double precision


def reduced(model, n_components=3):
  """A few vertices of every kind and a few components of a head, in double precision: finite differences need it."""
  weights = np.asarray(model.lbs_weights)
  some = np.unique([np.argsort(weights[:, joint])[k] for joint in range(5) for k in (-1, -40)])
  first = slice(0, n_components)
  posedirs = model.posedirs.reshape(36, -1, 3)[:, some].reshape(36, -1)
  n_shape = model.shapedirs.shape[-1]
  j_shapedirs = jnp.concatenate([model.j_shapedirs[..., first], model.j_shapedirs[..., n_shape:][..., first]], -1)
  small = model.replace(
    v_template=model.v_template[some], shapedirs=model.shapedirs[some, :, first], posedirs=posedirs,
    exprdirs=model.exprdirs[some, :, first], j_shapedirs=j_shapedirs, lbs_weights=model.lbs_weights[some],
  )  # fmt: skip
  return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, small)


def test_derivatives_of_skinning(open_head):
  with jax.enable_x64(True):
    small = reduced(open_head)
    rng = np.random.default_rng(5)
    weights = jnp.asarray(rng.normal(size=small.v_template.shape))

    def objective(x):  # of every input: shape, expr, rotation, neck, jaw, eyes, translation
      shape, expr, turn, neck, jaw, left, right, translation = x
      pose = Pose(expr, turn, translation, neck, jaw, jnp.stack([left, right]))
      return jnp.sum(jnp.square(flame.skin(small, shape, pose)) * weights)

    gradient = jax.jit(jax.grad(objective))
    forward = jax.jit(lambda x, d: (jax.jvp(objective, (x,), (d,))[1], jax.jvp(jax.grad(objective), (x,), (d,))[1]))
    objective, step = jax.jit(objective), 1e-4
    for scale in (0.0, 0.4, 2.0):
      x, d = jnp.asarray(rng.normal(size=(8, 3)) * scale), jnp.asarray(rng.normal(size=(8, 3)))
      slope, curvature = forward(x, d)
      np.testing.assert_allclose(slope, jnp.sum(gradient(x) * d), rtol=1e-9)
      np.testing.assert_allclose(slope, (objective(x + step * d) - objective(x - step * d)) / (2 * step), rtol=1e-5)
      np.testing.assert_allclose(curvature, (gradient(x + step * d) - gradient(x - step * d)) / (2 * step), atol=1e-5)


def test_derivatives_of_normals(open_head):
  faces = open_head.faces[:40]
  used, local = np.unique(np.asarray(faces), return_inverse=True)
  with jax.enable_x64(True):
    vertices = jnp.asarray(np.asarray(open_head.v_template)[used] * 100.0, jnp.float64)  # cm: finite differences
    normals = jax.jit(lambda v: flame.vertex_normals(v, jnp.asarray(local.reshape(faces.shape))))
    check_grads(normals, (vertices,), order=1, modes=("fwd", "rev"), atol=1e-4, rtol=1e-4)


def test_inputs_are_traced_and_compiled_once(open_head):
  traces = []

  @jax.jit
  def vertices(model, shape, raw):
    traces.append(1)
    return flame.skin(model, shape, flame.limit_pose(raw))

  for seed in range(3):
    pose, shape = random_pose(open_head, seed)
    vertices(open_head, shape, flame.unlimit_pose(pose))
  assert len(traces) == 1
