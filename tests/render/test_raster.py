"""The rasteriser against a float64 z-buffer, the original's fragments, and its own rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.cameras import from_vht_intrinsics, project
from vht_jax.render import gather, raster
from vht_jax.render.raster import fragments_at, rasterize

SIZE = (96, 128)
draw = jax.jit(rasterize, static_argnums=2, static_argnames="cull_backfaces")  # op by op it takes seconds to compile


def oracle(screen, faces, size, cull_backfaces=True):
  """A z-buffer in float64: inclusive edges, ties to the lowest face. Returns pix_to_face, zbuf, bary_coords."""
  height, width = size
  screen = screen.astype(np.float64)
  pix_to_face, zbuf, bary = np.full(size, -1), np.full(size, np.inf), np.full((*size, 3), -1.0)
  corners = screen[faces]
  u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
  areas = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
  lo = np.maximum(np.ceil(corners.min(1)[:, :2] - 0.5), 0).astype(int)
  hi = np.minimum(np.floor(corners.max(1)[:, :2] - 0.5), (width - 1, height - 1)).astype(int)
  drawn = (areas != 0) & ((areas < 0) | (not cull_backfaces)) & (corners[..., 2].min(1) > raster.NEAR)
  for i in np.flatnonzero(drawn & (hi >= lo).all(1)):  # those whose box has a pixel's centre
    (a, b, c), area, (x0, y0), (x1, y1) = corners[i], areas[i], lo[i], hi[i]
    px, py = np.meshgrid(np.arange(x0, x1 + 1) + 0.5, np.arange(y0, y1 + 1) + 0.5)
    w = np.stack([((q[0] - p[0]) * (py - p[1]) - (q[1] - p[1]) * (px - p[0])) for p, q in ((b, c), (c, a), (a, b))], -1)
    w /= area
    inside = (w >= 0).all(-1)
    w /= np.array([a[2], b[2], c[2]])
    z = 1 / np.where(inside, w.sum(-1), 1)
    window = (slice(y0, y1 + 1), slice(x0, x1 + 1))
    nearer = inside & (z < zbuf[window])
    zbuf[window] = np.where(nearer, z, zbuf[window])
    pix_to_face[window] = np.where(nearer, i, pix_to_face[window])
    bary[window] = np.where(nearer[..., None], w * z[..., None], bary[window])
  return pix_to_face, np.where(np.isinf(zbuf), -1, zbuf), bary


def head_on_screen(model, size, seed):
  """The head with a random rotation about y and x, some of it outside the image, in float32 screen coordinates."""
  rng = np.random.RandomState(seed)
  v = np.asarray(model.v_template) - np.asarray(model.v_template).mean(0)
  yaw, pitch, shift = rng.uniform(-1.2, 1.2), rng.uniform(-0.4, 0.4), rng.uniform(-20, 20, 2) * (seed > 0)
  cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
  v = v @ (np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])).T
  z = rng.uniform(0.4, 1.5) - v[:, 2]
  focal = 0.8 * size[0] / np.ptp(v[:, 1]) * z.mean()
  xy = np.array([size[1], size[0]]) / 2 + focal * v[:, :2] / z[:, None] * [1, -1] + shift
  return np.concatenate([xy, z[:, None]], 1).astype(np.float32)


def soup(seed, scales=(0.3, 2, 20), n=300):
  """Separate random triangles of mixed sizes, orientations and depths."""
  rng = np.random.RandomState(seed)
  xy = rng.rand(n, 1, 2) * [SIZE[1], SIZE[0]] + rng.randn(n, 3, 2) * rng.choice(scales, (n, 1, 1))
  z = rng.uniform(0.5, 2, (n, 3, 1))
  return np.concatenate([xy, z], -1).reshape(-1, 3).astype(np.float32), np.arange(3 * n, dtype=np.int32).reshape(-1, 3)


def grid_on_centres(seed):
  """A sheet whose vertices, edges and diagonals all pass through pixel centres, with the faces in random order."""
  rng = np.random.RandomState(seed)
  step = 3
  y, x = np.mgrid[rng.randint(4) : SIZE[0] - 4 : step, rng.randint(4) : SIZE[1] - 4 : step]
  y, x = y[:29, :40], x[:29, :40]
  v = np.stack([x + 0.5, y + 0.5, np.ones_like(x)], -1).reshape(-1, 3).astype(np.float32)
  n = x.shape[1]
  q = (np.arange(x.shape[0] - 1)[:, None] * n + np.arange(n - 1)).ravel()
  f = np.concatenate([np.stack([q, q + n, q + 1], 1), np.stack([q + 1, q + n, q + n + 1], 1)])
  return v, rng.permutation(f).astype(np.int32)


def huge(seed):
  """Triangles of 10^4 px with edges across the image, over and under small ones."""
  rng = np.random.RandomState(seed)
  v, f = soup(seed, n=50)
  centre = np.array([SIZE[1], SIZE[0]]) / 2
  directions = rng.randn(6, 3, 2)
  xy = centre + rng.randn(6, 1, 2) * 30 + 1e4 * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
  xy[:, 0] = centre + rng.randn(6, 2) * 40  # one corner on the screen, so that edges cross it
  z = rng.uniform(0.5, 2, (6, 3, 1))
  big = np.concatenate([xy, z], -1).reshape(-1, 3).astype(np.float32)
  return np.concatenate([v, big]), np.concatenate([f, np.arange(18, dtype=np.int32).reshape(6, 3) + len(v)])


SCENES = {
  "soup": soup,
  "sub-pixel": lambda seed: soup(seed, (0.05, 0.3, 0.8), 3000),
  "grid on centres": grid_on_centres,
  "huge": huge,
}


@pytest.mark.parametrize("two_pass", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scene", [*SCENES, "head"])
def test_matches_float64_oracle(scene, two_pass, request, monkeypatch):
  if two_pass:
    monkeypatch.setattr(raster, "_MIN_DEPTH_BITS", 33)
  raster._visible_faces.cache_clear()
  model = request.getfixturevalue("open_head") if scene == "head" else None
  render = jax.jit(lambda s, f: rasterize(s, f, SIZE))  # not `draw`: the monkeypatch must reach a fresh trace
  covered = 0
  for seed in range(10):
    screen, faces = (head_on_screen(model, SIZE, seed), np.asarray(model.faces)) if model else SCENES[scene](seed)
    seen = render(screen, faces)
    pix_to_face, zbuf, bary = oracle(screen, faces, SIZE)
    np.testing.assert_array_equal(seen.pix_to_face, pix_to_face)
    hit = pix_to_face >= 0
    covered += hit.sum()
    np.testing.assert_allclose(seen.zbuf, zbuf, rtol=2e-5)
    if scene != "huge" and scene != "sub-pixel":  # there float32 barycentrics lose digits
      np.testing.assert_allclose(seen.bary_coords, bary, atol=2e-4)
  assert covered > 1000
  raster._visible_faces.cache_clear()


def test_meshes_with_too_many_faces_for_the_key_take_two_passes():
  # 77,000 faces leave 15 bits for depth; two sheets nearer to each other than that resolves must still be told apart.
  n = 140
  y, x = np.mgrid[0:n, 0:n] * (80 / n) + 5
  q = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
  f = np.concatenate([np.stack([q, q + n, q + 1], 1), np.stack([q + 1, q + n, q + n + 1], 1)])
  sheets = [np.stack([x, y, np.full_like(x, z)], -1).reshape(-1, 3) for z in (1.0, 1.0 - 2e-6)]
  far = np.array([[0, 0, 100.0], [0, 96, 100], [96, 0, 100]])  # stretches the range of depths
  screen = np.concatenate([*sheets, far]).astype(np.float32)
  faces = np.concatenate([f, f + n * n, [[2 * n * n, 2 * n * n + 1, 2 * n * n + 2]]]).astype(np.int32)
  assert 32 - int(len(faces)).bit_length() < raster._MIN_DEPTH_BITS
  seen = np.asarray(draw(screen, faces, SIZE).pix_to_face)[10:80, 10:80]
  assert np.all((seen >= len(f)) & (seen < 2 * len(f)))


def test_oracle_comparison_sees_a_moved_vertex(open_head):
  screen = head_on_screen(open_head, SIZE, 0)
  moved = screen.copy()
  moved[::500, 0] += 1.5
  seen = draw(jnp.asarray(moved), open_head.faces, SIZE).pix_to_face
  assert np.sum(np.asarray(seen) != oracle(screen, np.asarray(open_head.faces), SIZE)[0]) > 3


def test_the_face_is_seen_and_not_the_inside(open_head):
  # A camera in front of the head (head frame: z out of the face) must see vertices of the face mask, near ones.
  v = np.asarray(open_head.v_template)
  z = 0.6 - v[:, 2]
  screen = np.stack([64 + 300 * v[:, 0] / z, 48 - 300 * v[:, 1] / z, z], 1).astype(np.float32)
  seen = draw(jnp.asarray(screen), open_head.faces, SIZE)
  both = draw(jnp.asarray(screen), open_head.faces, SIZE, cull_backfaces=False)
  ids = np.asarray(seen.pix_to_face)
  corners = v[np.asarray(open_head.faces)[ids[ids >= 0]]]
  normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
  to_camera = np.array([0, 0, 0.6]) - corners.mean(1)
  assert np.all(np.sum(normals * to_camera, 1) > 0)
  # The surface is (nearly) closed towards the front: culling must not change what is seen.
  assert np.mean(ids != np.asarray(both.pix_to_face)) < 0.01


def test_backface_culling_switch():
  screen = jnp.array([[10.0, 10, 1], [10, 40, 1], [40, 10, 1]])  # visually counter-clockwise: front
  front, back = jnp.array([[0, 1, 2]]), jnp.array([[0, 2, 1]])
  assert np.sum(np.asarray(draw(screen, front, SIZE).pix_to_face) == 0) > 400
  assert np.all(np.asarray(draw(screen, back, SIZE).pix_to_face) == -1)
  a, b = (draw(screen, f, SIZE, cull_backfaces=False) for f in (front, back))
  np.testing.assert_array_equal(a.pix_to_face, b.pix_to_face)
  np.testing.assert_allclose(a.bary_coords, np.asarray(b.bary_coords)[..., [0, 2, 1]], atol=1e-6)


def test_watertight_and_independent_of_face_order(open_head):
  # Any permutation of the faces covers the same pixels with the same faces, except for exact ties.
  screen = jnp.asarray(head_on_screen(open_head, SIZE, 3))
  order = np.random.RandomState(0).permutation(len(open_head.faces))
  a = np.asarray(draw(screen, open_head.faces, SIZE).pix_to_face)
  b = np.asarray(draw(screen, open_head.faces[order], SIZE).pix_to_face)
  np.testing.assert_array_equal(a >= 0, b >= 0)
  assert np.mean(a != np.where(b >= 0, order[b], -1)) < 1e-3


def test_lowest_face_wins_a_tie():
  screen = jnp.array([[10.0, 10, 1], [10, 40, 1], [40, 10, 1]])
  seen = draw(screen, jnp.tile(jnp.array([[0, 1, 2]]), (5, 1)), SIZE).pix_to_face
  assert set(np.unique(seen)) == {-1, 0}


def test_hidden_and_invalid_faces_are_dropped():
  good = [[10.0, 10, 1], [10, 40, 1], [40, 10, 1]]
  bad = {
    "behind": [[10.0, 10, -1], [10, 40, -1], [40, 10, -1]],
    "one vertex behind": [[10.0, 10, 0.5], [10, 40, 0.5], [40, 10, -0.5]],
    "nan": [[10.0, np.nan, 0.5], [10, 40, 0.5], [40, 10, 0.5]],
    "inf": [[10.0, 10, 0.5], [10, np.inf, 0.5], [40, 10, 0.5]],
    "line": [[10.0, 10, 0.5], [20, 20, 0.5], [40, 40, 0.5]],
    "point": [[10.0, 10, 0.5]] * 3,
    "outside": [[-40.0, 10, 0.5], [-40, 40, 0.5], [-10, 10, 0.5]],
    "1e30 px": [[1e30, 10, 0.5], [-1e30, 40, 0.5], [1e30, 41, 0.5]],
  }
  alone = draw(jnp.array(good), jnp.array([[0, 1, 2]]), SIZE)
  for name, corners in bad.items():
    both = draw(np.array(corners + good, np.float32), np.arange(6, dtype=np.int32).reshape(2, 3), SIZE)
    if name == "1e30 px":
      assert np.all(np.isfinite(both.bary_coords)) and np.all(np.isfinite(both.zbuf))
      continue
    np.testing.assert_array_equal(both.pix_to_face, np.where(np.asarray(alone.pix_to_face) == 0, 1, -1), err_msg=name)
    np.testing.assert_allclose(both.zbuf, alone.zbuf, err_msg=name)


def test_odd_sizes():
  screen = jnp.array([[0.0, 0, 1], [0, 10, 1], [10, 0, 1]])
  for size in ((1, 1), (1, 17), (9, 3), (8, 8)):
    seen = draw(screen, jnp.array([[0, 1, 2]]), size)
    assert seen.pix_to_face.shape == size
    np.testing.assert_array_equal(seen.pix_to_face, oracle(np.asarray(screen), np.array([[0, 1, 2]]), size)[0])


def test_rejects_wrong_shapes_and_dtypes():
  screen, faces = jnp.zeros((3, 3)), jnp.zeros((1, 3), jnp.int32)
  for args in (
    (screen[:, :2], faces),
    (screen, faces[0]),
    (screen[None], faces),
    (screen, faces.astype(jnp.float32)),
    (screen, faces[:0]),
  ):
    with pytest.raises(ValueError, match="rasterize"):
      rasterize(*args, SIZE)


@pytest.mark.parametrize("in_turn", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_vmap_equals_loop(open_head, monkeypatch, in_turn):
  for module in (gather, raster):  # frames in turn as on a CPU, or merged as on an accelerator
    monkeypatch.setattr(module, "frames_in_turn", lambda: in_turn)
  screens = np.stack([head_on_screen(open_head, SIZE, i) for i in range(4)])
  faces = open_head.faces
  one = jax.jit(lambda s, f: rasterize(s, f, SIZE))
  loop = jax.tree.map(lambda *x: np.stack(x), *[one(s, faces) for s in screens])
  two_faces = np.stack([faces, faces[::-1]])
  cases = {
    "batch": (jax.jit(jax.vmap(one, (0, None)))(screens, faces), loop),
    "nested": (jax.jit(jax.vmap(jax.vmap(one, (0, None)), (0, None)))(screens.reshape(2, 2, -1, 3), faces), loop),
    "faces too": (jax.jit(jax.vmap(one))(screens[:2], two_faces), [one(screens[i], two_faces[i]) for i in range(2)]),
    "faces only": (
      jax.jit(jax.vmap(one, (None, 0)))(screens[0], two_faces),
      [one(screens[0], two_faces[i]) for i in range(2)],
    ),
  }
  for name, (got, want) in cases.items():
    want = jax.tree.map(lambda *x: np.stack(x), *want) if isinstance(want, list) else want
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
      np.testing.assert_allclose(np.reshape(g, w.shape), w, atol=1e-4, err_msg=name)
    np.testing.assert_array_equal(np.reshape(got.pix_to_face, want.pix_to_face.shape), want.pix_to_face, err_msg=name)


def test_no_gradient_and_composes_with_transformations(open_head):
  screen = jnp.asarray(head_on_screen(open_head, (32, 32), 0))

  def depth(s):
    seen = rasterize(s, open_head.faces, (32, 32))
    return jnp.sum(seen.zbuf) + jnp.sum(seen.bary_coords)

  assert jnp.all(jax.jit(jax.grad(depth))(screen) == 0)
  value, tangent = jax.jit(lambda s: jax.jvp(depth, (s,), (jnp.ones_like(s),)))(screen)
  assert tangent == 0
  batch = jnp.stack([screen, screen])
  assert jnp.all(jax.jit(jax.grad(lambda b: jax.vmap(depth)(b).sum()))(batch) == 0)
  scanned = jax.jit(lambda s: jax.lax.scan(lambda s, _: (s + 0.01, depth(s)), s, None, length=2)[1])(screen)
  np.testing.assert_allclose(scanned[0], value, rtol=1e-5)


def test_fragments_at_reproduces_rasterize(open_head, optimised):
  screen = jnp.asarray(head_on_screen(open_head, SIZE, 1))
  seen = jax.jit(lambda s: rasterize(s, open_head.faces, SIZE))(screen)  # `draw` may be compiled already
  again = jax.jit(fragments_at)(screen, open_head.faces, seen.pix_to_face)
  np.testing.assert_array_equal(again.bary_coords, seen.bary_coords)
  np.testing.assert_array_equal(again.zbuf, seen.zbuf)


@pytest.mark.parametrize("case", [0, 3, 4, 8, *(pytest.param(c, marks=pytest.mark.slow) for c in (1, 2, 5, 6, 7, 9))])
def test_parity_with_the_original(shared_data, case):
  """PyTorch3D's fragments of the original's own run (parity_raster.npz)."""
  pack = shared_data / "parity"
  model, golden = np.load(pack / "parity_model.npz"), np.load(pack / "parity_raster.npz")
  vertices = np.load(pack / "parity_flame.npz")["vertices"]
  height, width, scale, ignore_neck = golden[f"r{case}_meta"]
  K = (1.5, 0.54, 0.47) if case in (4, 5, 6, 7, 9) else (1.8, 0.5, 0.5)
  size = (int(height * scale), int(width * scale))
  faces = model["faces"]
  if ignore_neck:
    faces = np.delete(faces, model["lower_neck_face_idcs"], axis=0)

  camera = from_vht_intrinsics(jnp.array(K, jnp.float32))
  render = jax.jit(jax.vmap(lambda v, c, f: rasterize(project(c, v, size), f, size), (0, None, None)))
  seen = render(jnp.asarray(vertices), camera, jnp.asarray(faces))
  want = golden[f"r{case}_pix_to_face"][..., 0]
  want = np.where(want >= 0, want - np.arange(3)[:, None, None] * len(faces), -1)
  got, hit = np.asarray(seen.pix_to_face), want >= 0
  np.testing.assert_array_equal(got, want)
  np.testing.assert_allclose(np.asarray(seen.zbuf)[hit], golden[f"r{case}_zbuf"][..., 0][hit], atol=2e-5)
  error = np.abs(np.asarray(seen.bary_coords) - golden[f"r{case}_bary_coords"][..., 0, :])[hit]
  assert error.max() <= 2e-3 and np.quantile(error, 0.999) <= 3e-4
  assert np.all(np.asarray(seen.zbuf)[got < 0] == -1) and np.all(np.asarray(seen.bary_coords)[got < 0] == -1)
