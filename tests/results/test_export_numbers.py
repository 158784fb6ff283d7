"""The table of a clip and its arrays, read by those who know nothing of the package."""

import csv
import io

import numpy as np
import pytest
from export_clip import FRAMES, MISTAKES, TIMES, assert_reprojects, assert_wrong, mistaken
from scipy.spatial.transform import Rotation

from vht_jax.results.export import to_arrays, to_csv


def arrays_of(scene):
  (data,) = dict(to_arrays(scene)).values()
  with np.load(io.BytesIO(data), allow_pickle=False) as archive:
    return dict(archive)


def pixels(arrays):
  q = np.einsum("tij,tvj->tvi", arrays["K"].astype(float), arrays["vertices"].astype(float))
  return q[..., :2] / q[..., 2:]


def test_arrays_reproject(clip_scene):
  arrays = arrays_of(clip_scene)
  assert_reprojects(pixels(arrays), clip_scene)
  assert {a.dtype.kind for a in arrays.values()} <= set("fiuU")
  np.testing.assert_allclose(arrays["times"], TIMES)
  np.testing.assert_array_equal(arrays["frames"], FRAMES)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake, clip_scene):
  assert_wrong(pixels(arrays_of(mistaken(clip_scene)[mistake])), clip_scene)


def test_angles_of_the_arrays_are_plain(clip_scene):
  """The head posed by SciPy from the angles of the file alone: no tanh, no package."""
  arrays = arrays_of(clip_scene)
  a = {name: values.astype(float) for name, values in arrays.items() if values.dtype.kind == "f"}
  weights = np.asarray(clip_scene.model.lbs_weights, float)
  correctives = np.asarray(clip_scene.model.posedirs, float)
  for i in range(6):
    turns = Rotation.from_rotvec(np.concatenate([np.zeros((1, 3)), a["pose"][i].reshape(4, 3)])).as_matrix()
    bound = clip_scene.shaped(i) + ((turns[1:] - np.eye(3)).ravel() @ correctives).reshape(-1, 3)
    world = [np.eye(4)]
    for j, parent in enumerate((0, 1, 1, 1), 1):
      local = np.eye(4)
      local[:3, :3] = turns[j]
      local[:3, 3] = a["joints_unposed"][i, j] - turns[j] @ a["joints_unposed"][i, j]
      world.append(world[parent] @ local)
    blended = np.einsum("vj,jab->vab", weights, np.array(world))
    u = np.einsum("vab,vb->va", blended[:, :3, :3], bound) + blended[:, :3, 3]
    turn = Rotation.from_rotvec(a["rotation"][i]).as_matrix()
    found = (u - a["joints_unposed"][i, 0]) @ turn.T + a["translation"][i]
    np.testing.assert_allclose(found, a["vertices"][i], atol=2e-6)
    jaw = world[1] @ np.append(a["joints_unposed"][i, 2], 1)
    expected = turn @ (jaw[:3] - a["joints_unposed"][i, 0]) + a["translation"][i]
    np.testing.assert_allclose(a["joints"][i, 2], expected, atol=2e-6)


def test_the_table(clip_scene):
  (text,) = dict(to_csv(clip_scene)).values()
  assert text.endswith(b"\n") and b"\r" not in text
  rows = list(csv.DictReader(io.StringIO(text.decode())))
  column = lambda name: np.array([float(row[name]) for row in rows])
  assert [int(row["frame"]) for row in rows] == FRAMES.tolist() and {row["status"] for row in rows} == {"tracked"}
  np.testing.assert_allclose(column("time_s"), TIMES, atol=1e-6)
  pose = clip_scene.result.poses
  np.testing.assert_allclose(column("jaw_open_deg"), np.degrees(pose.jaw[:, 0]), atol=1e-3)
  smile = pose.expr[:, clip_scene.expr_names.index("mouthSmileLeft")]
  np.testing.assert_allclose(column("mouthSmileLeft"), smile, atol=1e-4)
  turns = Rotation.from_rotvec(np.asarray(pose.rotation)) * Rotation.from_rotvec(np.asarray(pose.neck))
  face = turns.as_matrix()[:, :, 2] * [-1, -1, 1]  # out of the face, in OpenCV's camera
  np.testing.assert_allclose(column("head_turn_left_deg"), np.degrees(np.arctan2(face[:, 0], -face[:, 2])), atol=1e-3)
  np.testing.assert_allclose(column("head_nod_up_deg"), -np.degrees(np.arcsin(face[:, 1])), atol=1e-3)
  position = np.stack([column(f"position_{a}_m") for a in "xyz"], 1)
  np.testing.assert_allclose(position, np.asarray(pose.translation) * [-1, -1, 1], atol=1e-5)
