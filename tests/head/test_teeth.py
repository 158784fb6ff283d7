"""Teeth that are added to FLAME: to a stand-in of the open head's parts, and to FLAME's own mesh if it is there."""

import flame_file
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax import cameras, results
from vht_jax.app.result.source import open_result
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.head.load import flame_files, load_head, teeth
from vht_jax.head.mouth import inside_mouth, lit_mouth
from vht_jax.head.teeth import FLAME_VERTICES, N_TEETH, has_teeth, without_teeth
from vht_jax.render.raster import rasterize
from vht_jax.results.export.scene import make_scene, toothless
from vht_jax.results.heads import head_id

LANDMARKS = {"lmk_faces": np.zeros(70, int), "lmk_bary": np.full((70, 3), 1 / 3)}
ROWS = (slice(FLAME_VERTICES, FLAME_VERTICES + 60), slice(FLAME_VERTICES + 60, None))  # upper, lower


def write(folder, flame_head):
  """FLAME's files with a mouth that is open inside the lips, as FLAME's is, and a map that has room."""
  arrays = flame_file.flame_arrays(flame_head)
  inside = inside_mouth(flame_head)
  kept = ~inside[arrays["faces"]].all(1)
  arrays["faces"] = arrays["faces"][kept]
  folder.mkdir(exist_ok=True)
  flame_file.write_flame(folder / "flame2023.pkl", arrays)
  lines = ["v " + " ".join(map(str, v)) for v in arrays["v_template"]]
  uv = 0.25 + 0.7 * np.asarray(flame_head.uv)[kept].reshape(-1, 2)
  lines += [f"vt {u} {v}" for u, v in uv]
  lines += ["f " + " ".join(f"{v + 1}/{3 * i + k + 1}" for k, v in enumerate(f)) for i, f in enumerate(arrays["faces"])]
  (folder / "head_template_mesh.obj").write_text("\n".join(lines) + "\n")
  rng = np.random.default_rng(0)
  np.savez(
    folder / "FLAME_texture.npz", mean=rng.uniform(90, 110, (256, 256, 3)).astype(np.float32),
    tex_dir=rng.normal(size=(256, 256, 3, 2)).astype(np.float32),
  )  # fmt: skip
  return folder


@pytest.fixture(scope="module")
def folder(flame_head, tmp_path_factory):
  return write(tmp_path_factory.mktemp("teeth") / "flame", flame_head)


@pytest.fixture(scope="module")
def heads(folder):
  """The head without teeth, and with them."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(flame_files, "mediapipe_points", lambda faces: LANDMARKS)
    patch.setattr(flame_files, "view_bias", lambda head: None)
    return load_head(folder), load_head(folder, teeth=True)


def test_flame_itself_is_the_same(heads):
  plain, toothed = heads
  assert has_teeth(toothed) and not has_teeth(plain) and head_id(toothed) == head_id(plain)
  back = without_teeth(toothed)
  jax.tree.map(np.testing.assert_array_equal, back.replace(texture_mean=0, texture_basis=0),
               plain.replace(texture_mean=0, texture_basis=0))  # fmt: skip
  np.testing.assert_array_equal(toothed.j_template, plain.j_template)
  np.testing.assert_array_equal(toothed.j_shapedirs, plain.j_shapedirs)
  assert without_teeth(plain) is plain
  changed = np.any(np.asarray(toothed.texture_mean) != np.asarray(plain.texture_mean), axis=-1)
  assert 0.001 < changed.mean() < 0.1 and not np.asarray(toothed.texture_basis)[changed].any()


def test_rows_are_the_skulls_and_the_jaws(heads):
  toothed = heads[1]
  assert len(toothed.v_template) == FLAME_VERTICES + N_TEETH
  for name, rows in zip(("upper_teeth", "lower_teeth"), ROWS):
    assert np.asarray(toothed.masks[name])[rows].all() and np.asarray(toothed.masks[name]).sum() == 60
  np.testing.assert_array_equal(toothed.masks["teeth"], np.arange(FLAME_VERTICES + N_TEETH) >= FLAME_VERTICES)
  pose = flame.neutral_pose(toothed).replace(
    jaw=jnp.array([0.3, 0.0, 0.0]), expr=jnp.full(toothed.exprdirs.shape[-1], 0.5)
  )
  shape = jnp.zeros(toothed.shapedirs.shape[-1])
  moved = np.asarray(flame.skin(toothed, shape, pose) - flame.skin(toothed, shape, flame.neutral_pose(toothed)))
  # The root joint, to which all is centred, moves with the expression: only that is seen of it.
  moved = moved - moved[ROWS[0]].mean(0)
  moved = np.linalg.norm(moved, axis=1)
  assert moved[ROWS[0]].max() < 1e-6 and moved[ROWS[1]].min() > 5e-3


def test_rows_look_outwards_and_are_symmetric(heads):
  toothed = heads[1]
  vertices, faces = np.asarray(toothed.v_template, np.float64), np.asarray(toothed.faces)
  for rows in ROWS:
    first = rows.start
    own = faces[(faces >= first).all(1) & (faces < first + 60).all(1)]
    edges = own[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    assert len(own) == 88 and len(set(map(tuple, edges.tolist()))) == len(edges)  # all look to the same side
    front = own[((own - first) % 4 < 2).all(1)]
    a, b, c = (vertices[front[:, k]] for k in range(3))
    assert len(front) == 28 and (np.cross(b - a, c - a)[:, 2] > 0).all()
    row = vertices[rows].reshape(15, 4, 3)
    np.testing.assert_allclose(row[::-1] - row[7, 0] * [1, 0, 0], (row - row[7, 0] * [1, 0, 0]) * [-1, 1, 1], atol=1e-7)
  rim = vertices[
    teeth.mouth_rim(vertices[:FLAME_VERTICES], faces[(faces < FLAME_VERTICES).all(1)], toothed.lbs_weights)
  ]
  assert vertices[ROWS[0], 2].max() < rim[:, 2].max() + 0.003


def test_places_in_the_map_are_their_own(heads):
  uv, faces = np.asarray(heads[1].uv), np.asarray(heads[1].faces)
  of_teeth = (faces >= FLAME_VERTICES).any(1)
  taken = teeth._taken(uv[~of_teeth].astype(np.float64))
  at = np.floor(uv[of_teeth].reshape(-1, 2) * 256).astype(int)
  assert not taken[255 - at[:, 1], at[:, 0]].any()
  upper, lower = (uv[(faces >= r.start).all(1) & (faces < (r.stop or 9999)).all(1)].reshape(-1, 2) for r in ROWS)
  assert (upper.max(0) < lower.min(0)).any() or (lower.max(0) < upper.min(0)).any()


def test_they_have_the_light_of_a_mouth(heads):
  toothed = heads[1]
  inside = inside_mouth(toothed)
  np.testing.assert_array_equal(inside, np.asarray(toothed.masks["teeth"]))
  vertices = flame.skin(toothed, jnp.zeros(toothed.shapedirs.shape[-1]), flame.neutral_pose(toothed))
  light = np.asarray(lit_mouth(toothed, vertices, jnp.asarray(inside, jnp.float32))[0])
  assert (light[~inside] == 1).all() and light[inside].max() < 1


def test_a_saved_result_has_the_same_head(heads, folder, tmp_path, monkeypatch):
  import export_clip

  monkeypatch.setattr(flame_files, "mediapipe_points", lambda faces: LANDMARKS)
  monkeypatch.setattr(flame_files, "view_bias", lambda head: None)
  plain, toothed = heads
  result = export_clip.make_result(toothed)
  offset = jnp.zeros((len(toothed.v_template), 3)).at[:FLAME_VERTICES, 1].set(0.003)
  result = result.replace(identity=result.identity.replace(static_offset=offset, texture_layer=None))
  config = TrackConfig.of(n_shape=24, n_expr=12, n_tex=2)
  path = tmp_path / results.FILE_NAME
  results.save_tracked(path, result, export_clip.FRAMES, export_clip.SIZE, config, toothed)
  with np.load(path) as data:
    assert data["static_offset"].shape == (1, FLAME_VERTICES + N_TEETH, 3)  # VHAP's
  source = open_result(str(tmp_path), assets=str(folder))
  assert has_teeth(source.whole_head) and source.verdict.same and not source.notes[:-1]
  np.testing.assert_array_equal(source.whole_head.v_template, toothed.v_template)
  # The codes are FLAME's: a run without teeth takes them as well.
  again = results.load_tracked(path, plain).result.identity
  np.testing.assert_array_equal(again.static_offset, offset[:FLAME_VERTICES])
  np.testing.assert_array_equal(again.shape, result.identity.shape)


def test_programs_that_have_flame_get_flame(heads):
  import export_clip

  from vht_jax.results.export.any_head.arkit import curves
  from vht_jax.results.export.flame_family.vhap import to_vhap

  plain, toothed = heads
  of = lambda head: make_scene(head, export_clip.make_result(plain), export_clip.SIZE)
  assert len(toothless(of(toothed)).neutral) == FLAME_VERTICES and of(toothed).is_flame
  assert dict(to_vhap(of(toothed))) == dict(to_vhap(of(plain)))
  np.testing.assert_array_equal(curves(of(toothed)), curves(of(plain)))


def test_other_meshes_are_refused():
  with pytest.raises(InputError, match="--flame_teeth adds teeth to FLAME, and this head is the open head"):
    load_head(model="open", teeth=True)
  closed = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
  arrays = {"v_template": np.eye(4, 3), "faces": closed, "weights": np.full((4, 5), 0.2), "name": "FLAME (mine.pkl)"}
  with pytest.raises(InputError, match="--flame_teeth: expected FLAME's mesh of 5023 .* found one of 4 in FLAME"):
    teeth.with_teeth(arrays)


@pytest.mark.slow
def test_closed_lips_of_flames_own_mesh_hide_them(shared_data):
  """People drawn from FLAME's first components, mouths shut: no teeth through lips and cheeks, from anywhere."""
  path = shared_data / "flame2023_open" / "flame2023_open_partial.npz"
  if not path.is_file():
    pytest.skip("FLAME 2023 Open is not present")
  with np.load(path) as data:
    arrays = {k: data[k] for k in ("v_template", "posedirs", "weights", "J_regressor")}
    arrays |= {"faces": data["f"], "shapedirs": data["shapedirs60"], "exprdirs": np.zeros((FLAME_VERTICES, 3, 1))}
  head = teeth.with_teeth({**arrays, "masks": {}, "name": "FLAME"})
  model = flame_files.flame_model_from_arrays(**head)
  of_teeth = (head["faces"] >= FLAME_VERTICES).any(1)
  camera = cameras.make_camera(3.0)

  @jax.jit
  def seen(shape, rotation):
    vertices = flame.skin(model, shape, flame.neutral_pose(model).replace(rotation=rotation))
    vertices = vertices - vertices[:FLAME_VERTICES].mean(0, keepdims=True) + jnp.array([[0.0, 0.0, 0.8]])
    return rasterize(cameras.project(camera, vertices, (256, 256)), model.faces, (256, 256)).pix_to_face

  rng = np.random.default_rng(0)
  for k in range(10):
    shape = jnp.asarray((k > 0) * rng.standard_normal(60), jnp.float32)
    for yaw, pitch in ((0, 0), (0.8, 0), (1.57, 0), (0, -0.6), (3.0, 0)):
      face = np.asarray(seen(shape, jnp.array([pitch, np.pi + yaw, 0.0], jnp.float32)))
      assert of_teeth[face[face >= 0]].sum() <= 8, (k, yaw, pitch)
