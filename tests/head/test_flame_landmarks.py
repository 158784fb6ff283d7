"""MediaPipe's points on FLAME's mesh: the table, where its points lie, and when it is used.

What needs FLAME's template is skipped without ../shared; the table's own consistency is not.
"""

import json
import pickle
import sys

import cv2
import numpy as np
import pytest
from conftest import REPO
from test_open_head import FLIP, MIRROR_70

from vht_jax.app import run
from vht_jax.app.options import settings
from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.keypoints import write_keypoints
from vht_jax.errors import InputError
from vht_jax.head.load import load_head, of_mediapipe
from vht_jax.head.load.flame_landmarks import mediapipe_points
from vht_jax.head.mesh_points import IBUG68
from vht_jax.landmarks import Detection
from vht_jax.landmarks.mirror import MIRROR

N_VERTICES, N_FACES, FIRST_EYEBALL = 5023, 9976, 3931  # FLAME's
MADE_BY = REPO / "third_party" / "flame_landmarks"
PARTNERS = {"landmark": np.array(MIRROR_70), "dense": MIRROR[:468]}


@pytest.fixture(scope="module")
def table():
  with np.load(REPO / "assets" / "flame_landmarks.npz") as archive:
    return dict(archive)


@pytest.fixture(scope="module")
def mesh_faces(table):
  """(F, 3) faces of a mesh that has those of the table among others, each from another corner than in the table."""
  corners = np.concatenate([table["landmark_vertices"], table["dense_vertices"]]).astype(int)
  rest = np.random.default_rng(0).integers(0, N_VERTICES, (N_FACES - len(corners), 3))
  faces = np.concatenate([rest, np.roll(corners, 1, axis=1)])
  faces[0] = [0, 1, N_VERTICES - 1]
  return np.random.default_rng(1).permutation(faces)


@pytest.fixture
def flame_folder(tmp_path, mesh_faces):
  """A FLAME's pickle alone, without the landmark embedding and all other files."""
  rng = np.random.default_rng(2)
  weights = np.zeros((N_VERTICES, 5))
  weights[:FIRST_EYEBALL, 1] = weights[FIRST_EYEBALL:4477, 3] = weights[4477:, 4] = 1
  model = {
    "v_template": rng.normal(0, 0.05, (N_VERTICES, 3)),
    "f": mesh_faces.astype(np.uint32),
    "shapedirs": np.zeros((N_VERTICES, 3, 301)),
    "posedirs": np.zeros((N_VERTICES, 3, 36)),
    "weights": weights,
    "J_regressor": np.full((5, N_VERTICES), 1 / N_VERTICES),
    "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
  }
  (tmp_path / "generic_model.pkl").write_bytes(pickle.dumps(model, 2))
  return tmp_path


def write_embedding(folder):
  """An embedding as FLAME's, at places that the table does not have."""
  embedding = {"full_lmk_faces_idx": np.zeros((1, 70), int), "full_lmk_bary_coords": np.full((1, 70, 3), 1 / 3)}
  np.save(folder / "landmark_embedding_with_eyes.npy", embedding, allow_pickle=True)


# The table


def test_table_names_places_of_flames_mesh(table):
  for name, count in (("landmark", 70), ("dense", 468)):
    vertices, bary = table[f"{name}_vertices"], table[f"{name}_bary"]
    assert vertices.shape == bary.shape == (count, 3)
    assert int(vertices.max()) < N_VERTICES and all(len(set(face)) == 3 for face in vertices.tolist())
    np.testing.assert_allclose(bary.sum(1), 1, atol=1e-6)
    assert bary.min() >= 0
  assert (table["landmark_vertices"][:68] < FIRST_EYEBALL).all() and (table["dense_vertices"] < FIRST_EYEBALL).all()
  assert (table["landmark_vertices"][68:] >= FIRST_EYEBALL).all()


def test_table_names_places_of_the_open_head_for_flames_vertices(table, open_head):
  corners, bary = table["surface_vertices"].astype(int), table["surface_bary"]
  assert corners.shape == bary.shape == (N_VERTICES, 3)
  np.testing.assert_allclose(bary.sum(1), np.arange(N_VERTICES) < FIRST_EYEBALL, atol=2e-5)
  faces = {frozenset(f) for f in np.asarray(open_head.faces).tolist()}
  known = [frozenset(c) in faces for c in corners[:FIRST_EYEBALL].tolist()]
  assert np.mean(known) > 0.999  # a few triangles have no mirror image
  balls = np.concatenate([np.flatnonzero(open_head.masks[f"{side}_eyeball"]) for side in ("left", "right")])
  assert not np.isin(corners[:FIRST_EYEBALL], balls).any()


def test_table_lays_the_open_head_on_flame(table, template, open_head):
  """Its skin in FLAME's order of vertices, scaled and moved: a few millimetres of two heads' difference are left."""
  skin = np.arange(FIRST_EYEBALL)
  weight, corners = table["surface_bary"][skin], table["surface_vertices"][skin].astype(int)
  a = np.einsum("vk,vkc->vc", weight, np.asarray(open_head.v_template, float)[corners])
  b = np.asarray(template["v"])[skin]
  front = b[:, 2] > np.median(b[:, 2])
  a, b = a[front] - a[front].mean(0), b[front] - b[front].mean(0)
  beside = np.linalg.norm(a * (a * b).sum() / np.square(a).sum() - b, axis=1)
  assert np.median(beside) < 0.006 and beside.max() < 0.03


def test_table_is_mirror_symmetric(table):
  """Partners have the same weights, at vertices that one map of the mesh onto its mirror image takes to each other."""
  image = {}
  for name, partner in PARTNERS.items():
    vertices, bary = table[f"{name}_vertices"], table[f"{name}_bary"]
    for i in range(68 if name == "landmark" else 468):
      here, there = np.argsort(bary[i], kind="stable"), np.argsort(bary[partner[i]], kind="stable")
      np.testing.assert_allclose(bary[i][here], bary[partner[i]][there], atol=1e-4)
      if np.diff(np.sort(bary[i])).min() < 1e-4 or partner[i] == i:
        continue
      for a, b in zip(vertices[i][here].tolist(), vertices[partner[i]][there].tolist()):
        assert image.setdefault(a, b) == b
  assert len(image) > 500 and all(image.get(b, a) == a for a, b in image.items())


# Where its points lie on FLAME's template


@pytest.fixture(scope="module")
def template(shared_data, table):
  path = shared_data / "flame2023_open" / "flame2023_open_partial.npz"
  if not path.is_file():
    pytest.skip("FLAME 2023 Open is not present")
  with np.load(path) as data:
    v, faces, weights = data["v_template"].astype(np.float64), data["f"].astype(int), data["weights"]
  on = lambda name, values: np.einsum("nk,nk...->n...", table[f"{name}_bary"], values[table[f"{name}_vertices"]])
  return {"v": v, "faces": faces, "jaw": weights[:, 2], "lmk": on("landmark", v), "dense": on("dense", v), "on": on}


def test_table_is_of_flames_mesh(template, table):
  found = mediapipe_points(template["faces"])
  assert found is not None
  at = np.einsum("nk,nkc->nc", found["lmk_bary"], template["v"][template["faces"][found["lmk_faces"]]])
  np.testing.assert_allclose(at, template["lmk"], atol=1e-9)


def test_both_sides_lie_alike_on_flames_template(template):
  """FLAME's template itself is asymmetric: by 1.3 mm on average, 3.7 at most."""
  for name, partner in (("lmk", PARTNERS["landmark"]), ("dense", PARTNERS["dense"])):
    apart = np.linalg.norm(template[name] - template[name][partner] * FLIP, axis=1)
    assert apart.mean() < 0.0015 and apart.max() < 0.004


def test_points_are_at_the_parts_they_are_named_after(template):
  v, p = template["v"], template["lmk"]
  skin = v[:FIRST_EYEBALL]
  # The tip of the nose: nothing lies farther in front.
  assert skin[:, 2].max() - p[30, 2] < 0.003 and abs(p[30, 0]) < 0.001
  # Eye corners and lids lie at the eyeballs' visible sides; irises in front.
  for corners, lids, ball in (((36, 39), (37, 38, 40, 41), v[4477:]), ((45, 42), (43, 44, 46, 47), v[3931:4477])):
    middle, radius = ball.mean(0), np.ptp(ball[:, 1]) / 2
    outward = np.sign(middle[0])
    for corner, way in zip(corners, (outward, -outward)):
      offset = p[corner] - middle
      assert 0.7 * radius < way * offset[0] < 1.4 * radius and abs(offset[1]) < 0.004
    for lid in lids:
      assert abs(np.linalg.norm(p[lid] - middle) - radius) < 0.003  # it rests on the eyeball
    iris = p[68] if middle[0] < 0 else p[69]
    np.testing.assert_allclose(iris, middle + [0, 0, radius], atol=0.002)
  assert (p[[37, 38, 43, 44], 1] > p[[41, 40, 47, 46], 1] + 0.006).all()
  # Brows: above the eyes, from near the nose to beyond the outer corners.
  assert (p[17:27, 1] > p[36:48, 1].max() + 0.005).all() and p[17, 0] < p[36, 0] and p[26, 0] > p[45, 0]
  # Mouth: the corners are farthest apart, the inner points touch and go with their own lip.
  assert p[48, 0] < p[49:54, 0].min() and p[54, 0] > p[49:54, 0].max() and np.ptp(p[48:60, 1]) < 0.025
  np.testing.assert_allclose(p[[61, 62, 63]], p[[67, 66, 65]], atol=0.0015)
  jaw = template["on"]("landmark", template["jaw"])
  assert (jaw[[50, 51, 52, 61, 62, 63]] < 0.1).all() and (jaw[[55, 56, 57, 58, 59, 65, 66, 67]] > 0.8).all()
  # Chin: the lowest of the contour, which runs up to the ears.
  assert p[8, 1] < p[:17, 1].min() + 0.002 and jaw[8] > 0.8
  assert (np.diff(p[:9, 1]) < 0.001).all() and abs(p[0, 0]) > 0.06 and abs(p[16, 0]) > 0.06


def test_dense_points_agree_with_the_68(template):
  """They were adapted to MediaPipe one by one, so they agree only about as well as that goes."""
  apart = np.linalg.norm(template["dense"][IBUG68] - template["lmk"][:68], axis=1)
  assert apart[17:].max() < 0.004 and apart[:17].max() < 0.012


# When it is used


@pytest.mark.parametrize("detector", ["mediapipe", "mediapipe-tasks", "tasks"])
def test_mediapipe_sees_the_tables_points(flame_folder, table, detector):
  head = load_head(flame_folder, detector=detector)  # no landmark embedding is needed
  expected = np.einsum("nk,nkc->nc", table["landmark_bary"], np.asarray(head.v_template)[table["landmark_vertices"]])
  found = np.einsum("nk,nkc->nc", head.lmk_bary, np.asarray(head.v_template)[head.lmk_vertices])
  np.testing.assert_allclose(found, expected, atol=1e-7)
  np.testing.assert_array_equal(head.dense_index, np.arange(468))


def test_other_detectors_see_flames_own_points(flame_folder):
  with pytest.raises(InputError, match=r"landmark_embedding_with_eyes\.npy"):
    load_head(flame_folder, detector="face-alignment")
  write_embedding(flame_folder)
  head = load_head(flame_folder, detector="face-alignment")
  np.testing.assert_allclose(head.lmk_bary, 1 / 3, atol=1e-7)
  assert len(head.dense_index) == 0
  assert float(np.abs(load_head(flame_folder).lmk_bary - 1 / 3).max()) > 0.3


def test_a_mesh_that_is_not_flames_keeps_its_own_points(flame_folder, table):
  path = flame_folder / "generic_model.pkl"
  model = pickle.loads(path.read_bytes())
  last = set(table["dense_vertices"][-1].tolist())
  model["f"] = np.array([face for face in model["f"].tolist() if set(face) != last], np.uint32)
  path.write_bytes(pickle.dumps(model, 2))
  with pytest.raises(InputError, match="landmark embedding not found"):
    load_head(flame_folder)
  write_embedding(flame_folder)
  assert load_head(flame_folder).dense_index.shape == (0,)


@pytest.mark.parametrize("origin", ["mediapipe", "face-alignment", "python-face-alignment", ""])
def test_run_takes_the_points_of_the_detector_that_made_the_clip(tmp_path, monkeypatch, origin):
  """Until the tracker would start, for a dataset that says who made it."""
  data = tmp_path / "data"
  (data / "frame_0001").mkdir(parents=True)
  assert cv2.imwrite(str(data / "frame_0001" / "image_0000.png"), np.zeros((32, 32, 3), np.uint8))
  points = np.random.default_rng(0).uniform(4, 28, (68, 2)).astype(np.float32)
  keypoints = data / "frame_0001" / "keypoints_static_0000.json"
  write_keypoints(keypoints, Detection(np.zeros(5, np.float32), points), origin)
  assert FrameFolder(data).detector == origin == json.loads(keypoints.read_text())["origin"]
  asked = []

  def load(*args, detector, **kwargs):
    asked.append(detector)
    return load_head(model="open", n_shape=2, n_expr=2, n_texture=2)

  class Stop(Exception):
    pass

  def fit(*args):
    raise Stop

  monkeypatch.setattr("vht_jax.app.inputs.load_head", load)
  monkeypatch.setattr(run, "fit", fit)
  flags = [f"--data_path={data}", f"--output_path={tmp_path / 'out'}", "--nocompilation_cache"]
  with pytest.raises(Stop):
    run.run(settings.parse(flags))
  assert of_mediapipe(asked[-1]) == (origin == "mediapipe")
  assert len(asked) == (1 if origin == "mediapipe" else 2)


# How it was made


@pytest.mark.slow
def test_table_is_what_the_script_makes(shared_data, table, template, monkeypatch):
  monkeypatch.setattr(sys, "path", [str(MADE_BY), str(MADE_BY.parent / "open_head"), *sys.path])
  import importlib.util

  spec = importlib.util.spec_from_file_location("flame_landmarks_build", MADE_BY / "build.py")
  build = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(build)
  with np.load(shared_data / "flame2023_open" / "flame2023_open_partial.npz") as data:
    flame = {key: data[key] for key in ("v_template", "f", "weights")}
  with np.load(REPO / "assets" / "open_head.npz") as archive:
    arrays = dict(archive)
  made = build.build(arrays, flame["v_template"], flame["f"], flame["weights"])
  on = {"landmark": template["v"], "dense": template["v"], "surface": arrays["v_template"].astype(np.float64)}
  for name, v in on.items():
    found, expected = (np.einsum("nk,nkc->nc", t[f"{name}_bary"], v[t[f"{name}_vertices"]]) for t in (made, table))
    np.testing.assert_allclose(found, expected, atol=2e-5)  # another scipy may move last bits
    same = (made[f"{name}_vertices"] == table[f"{name}_vertices"]).all(1)
    assert same.mean() > 0.999 and np.abs(made[f"{name}_bary"] - table[f"{name}_bary"])[same].max() < 1e-3


def test_table_has_the_middle_in_the_middle(template, table, open_head):
  """FLAME's vertices in the middle, which are their own mirror images, have places in the open head's."""
  middle = np.flatnonzero(np.abs(template["v"][:FIRST_EYEBALL, 0]) < 3e-4)  # nearer than any that is not of the middle
  corners, weight = table["surface_vertices"][middle].astype(int), table["surface_bary"][middle]
  x = np.einsum("vk,vk->v", weight, np.asarray(open_head.v_template, float)[corners, 0])
  assert len(middle) > 50 and np.abs(x).max() < 2e-5


@pytest.mark.slow
def test_flame_stand_in_is_tracked(shared_data, tmp_path, monkeypatch):
  """A FLAME with everything, on a real clip: the head's points are where MediaPipe sees them."""
  clip = shared_data / "videos" / "frontal_512.mp4"
  if not clip.is_file() or not (shared_data / "parity" / "parity_model.npz").is_file():
    pytest.skip("the clips or the parity data are not present")
  monkeypatch.setattr(sys, "path", [str(REPO / "benchmarks"), *sys.path])
  import flame_standin

  flame_standin.write(tmp_path / "flame", shared_data)
  flags = ["--max_frames=60", "--nophotometric", "--nooverlay", "--n_shape=60", "--n_expr=40"]
  paths = [f"--video={clip}", f"--output_path={tmp_path / 'out'}", f"--assets={tmp_path / 'flame'}"]
  summary = run.run(settings.parse([*paths, *flags]))
  assert summary["head"].startswith("FLAME") and summary["tracked"] == 60
  assert summary["nme68_median"] <= 1.5
