"""ARKit's curves: the file as Live Link Face writes it, and that they drive the open head back."""

import csv
import io
import json
import logging
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import REPO
from export_clip import FPS, SIZE, make_result

from vht_jax.errors import InputError
from vht_jax.head import flame, teeth
from vht_jax.head.load import load_head, open_head_path
from vht_jax.results.export import make_scene, to_arkit
from vht_jax.results.export.any_head import arkit_shapes
from vht_jax.results.export.any_head.arkit import NAMES, curves, frame_counts, timecode

# From the specification: the columns of two recordings.
EYE = "EyeBlink EyeLookDown EyeLookIn EyeLookOut EyeLookUp EyeSquint EyeWide".split()
BOTH = lambda *names: [name + side for name in names for side in ("Left", "Right")]
COLUMNS = [
  "Timecode", "BlendShapeCount", *(n + "Left" for n in EYE), *(n + "Right" for n in EYE),
  "JawForward", "JawRight", "JawLeft", "JawOpen", "MouthClose", "MouthFunnel", "MouthPucker", "MouthRight", "MouthLeft",
  *BOTH("MouthSmile", "MouthFrown", "MouthDimple", "MouthStretch"), "MouthRollLower", "MouthRollUpper",
  "MouthShrugLower", "MouthShrugUpper", *BOTH("MouthPress", "MouthLowerDown", "MouthUpperUp", "BrowDown"),
  "BrowInnerUp", *BOTH("BrowOuterUp"), "CheekPuff", *BOTH("CheekSquint", "NoseSneer"), "TongueOut",
  "HeadYaw", "HeadPitch", "HeadRoll", "LeftEyeYaw", "LeftEyePitch", "LeftEyeRoll",
  "RightEyeYaw", "RightEyePitch", "RightEyeRoll",
]  # fmt: skip
OPEN = np.radians(24.11)


def read(scene):
  files = dict(to_arkit(scene))
  text = files["clip_arkit.csv"].decode("ascii")
  rows = list(csv.reader(io.StringIO(text)))
  assert rows[0] == COLUMNS and len(COLUMNS) == 63
  assert text.endswith("\n") and "\r" not in text and ",\n" not in text
  assert all(len(value.partition(".")[2]) == 10 for row in rows[1:] for value in row[2:])
  assert all(row[1] == "61" and len(row) == 63 for row in rows[1:])
  values = {name: np.array([float(row[k]) for row in rows[1:]]) for k, name in enumerate(COLUMNS) if k > 1}
  return values, [row[0] for row in rows[1:]], json.loads(files["clip_arkit.json"])


def posed(head, **poses):
  """A scene of a head that looks into the camera but for what is given (T, ...)."""
  n = len(next(iter(poses.values())))
  result = make_result(head)
  neutral = flame.neutral_pose(head)
  still = {f: jnp.tile(getattr(neutral, f), (n,) + (1,) * getattr(neutral, f).ndim) for f in
           ("expr", "rotation", "translation", "neck", "jaw", "eyes")}  # fmt: skip
  filled = result.poses.replace(**(still | {k: jnp.asarray(v, jnp.float32) for k, v in poses.items()}))
  return make_scene(
    head, result.replace(poses=filled, status=jnp.zeros(n, jnp.int32)), SIZE, fps=FPS, name="clip"
  )  # fmt: skip


def driven(head, values):
  """Expressions (T, E) and jaw angles (T,) that a rig of the open head gets from the columns."""
  lids = {"eyelidLeft": "EyeBlinkLeft", "eyelidRight": "EyeBlinkRight"}
  column = lambda name: lids.get(name, name[0].upper() + name[1:])
  return np.stack([values[column(n)] for n in head.expr_names], 1), values["JawOpen"] * OPEN


def test_the_curves_drive_the_open_head_back(clip_scene, open_head):
  values, timecodes, _ = read(clip_scene)
  expr, jaw = driven(open_head, values)
  true = np.clip(clip_scene.expr, 0, 1)
  assert np.abs(expr - true).max() < 1e-3
  assert np.abs(jaw - clip_scene.angles["jaw"][:, 0]).max() < 1e-3
  assert timecodes == [f"00:00:00:{n:02d}.000" for n in (0, 1, 2, 4, 5, 6)]
  # The eyes' rotations come back from their angles.
  for k, side in enumerate(("Left", "Right")):
    yaw, pitch = values[f"{side}EyeYaw"], values[f"{side}EyePitch"]
    looks = np.stack([-np.sin(yaw) * np.cos(pitch), -np.sin(pitch), np.cos(yaw) * np.cos(pitch)], 1)
    np.testing.assert_allclose(looks, clip_scene.rotations[:, 3 + k, :, 2], atol=1e-6)


def test_json_has_the_same_curves(clip_scene):
  values, _, content = read(clip_scene)
  assert content["names"] == sorted(content["names"]) and len(content["names"]) == 52
  for k, name in enumerate(content["names"]):
    weights = [frame["weights"][k] for frame in content["frames"]]
    np.testing.assert_allclose(weights, values[name[0].upper() + name[1:]], atol=1e-6)
  assert [f["time"] for f in content["frames"]] == clip_scene.times.tolist()
  assert all(frame["rotation"] == [] for frame in content["frames"])


def test_a_look_to_the_subjects_left(open_head):
  """Turned about +y, out of the top of the head: to the subject's left. About +x: down."""
  eyes = np.zeros((2, 2, 3))
  eyes[0, :, 1], eyes[1, :, 0] = 0.3, 0.2
  values, _, _ = read(posed(open_head, eyes=eyes))
  assert values["LeftEyeYaw"][0] < -0.29 and values["RightEyeYaw"][0] < -0.29
  assert values["EyeLookOutLeft"][0] > 0.3 and values["EyeLookInRight"][0] > 0.5
  assert values["EyeLookInLeft"][0] == values["EyeLookOutRight"][0] == 0
  assert values["LeftEyePitch"][1] > 0.19 and abs(values["EyeLookDownLeft"][1] - 1.63 * 0.2) < 1e-3
  assert values["EyeLookUpRight"][1] == 0
  # The pupils, by the mesh: to the subject's left is +x of the head.
  scene = posed(open_head, eyes=eyes)
  ball = np.asarray(open_head.masks["left_eyeball"])
  front = np.argmax(scene.neutral[ball, 2])
  assert scene.head_vertices(0)[ball][front, 0] > scene.neutral[ball][front, 0] + 0.003


def test_the_head_looks_left_down_and_leans(open_head):
  pi = np.pi
  from scipy.spatial.transform import Rotation

  facing = Rotation.from_rotvec([0, pi, 0])
  turns = [facing * Rotation.from_rotvec(v) for v in ([0, 0.3, 0], [0.3, 0, 0], [0, 0, -0.3], [0, 0, 0])]
  scene = posed(open_head, rotation=[t.as_rotvec() for t in turns])
  values, _, _ = read(scene)
  np.testing.assert_allclose(values["HeadYaw"], [-0.3, 0, 0, 0], atol=1e-5)
  np.testing.assert_allclose(values["HeadPitch"], [0, 0.3, 0, 0], atol=1e-5)
  np.testing.assert_allclose(values["HeadRoll"], [0, 0, 0.3, 0], atol=1e-5)
  # By the pictures: its left is the image's right, and leaning to the left shoulder the left eye is the lower one.
  nose = np.argmax(scene.neutral[:, 2])
  left, right = (np.asarray(open_head.masks[f"{side}_eyeball"]) for side in ("left", "right"))
  pixels = [scene.pixels(i) for i in range(4)]
  assert pixels[0][nose, 0] > pixels[3][nose, 0] + 10 and pixels[1][nose, 1] > pixels[3][nose, 1] + 10
  assert pixels[2][left, 1].mean() > pixels[2][right, 1].mean() + 5


def test_one_sided_smile_and_mirrored_heads(open_head):
  expr = np.zeros((2, 40))
  expr[0, open_head.expr_names.index("mouthSmileLeft")] = 0.8
  expr[1, open_head.expr_names.index("eyelidRight")] = 1.0
  scene = posed(open_head, expr=expr)
  values, _, _ = read(scene)
  assert abs(values["MouthSmileLeft"][0] - 0.8) < 1e-6 and values["MouthSmileRight"][0] == 0
  assert values["EyeBlinkRight"][1] == 1 and values["EyeBlinkLeft"][1] == 0
  lips = np.asarray(open_head.masks["lips"])
  moved = np.linalg.norm(scene.shaped(0) - scene.neutral, axis=1)[lips]
  assert moved[scene.neutral[lips, 0] > 0.005].max() > 3 * moved[scene.neutral[lips, 0] < -0.005].max()


def test_frames_are_counted_at_the_clips_rate():
  assert frame_counts(np.arange(2000) * 1001 / 30000, 30000 / 1001).tolist() == list(range(2000))
  assert timecode(1999, 30) == "00:01:06:19.000" and timecode(60 * 3600 * 2 + 61, 60) == "02:00:01:01.000"
  assert frame_counts(np.array([0.0, 0.01, 0.04, 0.2]), 25.0).tolist() == [0, 1, 2, 5]


def unnamed(open_head, name):
  """The open head with its units mixed into codes without names, and the matrix (E, E) of units to codes."""
  mixing = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0]
  n, j = open_head.shapedirs.shape[-1], open_head.j_shapedirs
  mixed = lambda a: jnp.asarray(np.asarray(a) @ mixing, jnp.float32)
  head = open_head.replace(
    exprdirs=mixed(open_head.exprdirs), j_shapedirs=jnp.concatenate([j[..., :n], mixed(j[..., n:])], -1),
    expr_names=(), expr_one_sided=False, name=name,
  )  # fmt: skip
  return head, mixing


def expressions(open_head):
  """Three faces: units (3, 40) and the jaw (3, 3)."""
  expr = np.zeros((3, 40))
  unit = open_head.expr_names.index
  expr[0, unit("mouthSmileLeft")], expr[1, unit("browInnerUp")], expr[1, unit("eyelidLeft")] = 0.7, 0.6, 1.0
  expr[2, unit("mouthPucker")] = 0.5
  return expr, np.array([[0.0, 0, 0], [0, 0, 0], [0.2, 0, 0]])


def test_flame_is_fitted_by_units(open_head, caplog, monkeypatch):
  """The open head under FLAME's name, its units mixed into unnamed codes: the fit has to find them again."""
  head, mixing = unnamed(open_head, "FLAME (generic_model.pkl)")
  number = len(head.v_template)
  itself = np.tile(np.arange(number)[:, None], (1, 3)), np.tile([1.0, 0.0, 0.0], (number, 1))
  monkeypatch.setattr(teeth, "FLAME_VERTICES", number)
  monkeypatch.setattr(arkit_shapes, "open_head_on_flame", lambda: itself)
  expr, jaw = expressions(open_head)
  scene = posed(head, expr=expr @ mixing, jaw=jaw)
  assert scene.is_flame
  with caplog.at_level(logging.INFO, "vht_jax"):
    values, _, _ = read(scene)
  assert "mm left of" in caplog.text
  found, opened = driven(open_head, values)
  # Units are taken to grow with the face, which is this one's 4 % above the mean; here they do not.
  assert np.abs(found - expr).max() < 0.05 and np.abs(opened - jaw[:, 0]).max() < 0.03


def write_shapes(folder, open_head, names, order=None):
  """The open head's units as meshes, in another program's axes (z up) and units (cm)."""
  folder.mkdir()
  neutral, dirs = (np.asarray(a, float) for a in (open_head.v_template, open_head.exprdirs))
  order = np.arange(len(neutral)) if order is None else order
  lids = {"eyeBlinkLeft": "eyelidLeft", "eyeBlinkRight": "eyelidRight"}
  offsets = {n: dirs[..., open_head.expr_names.index(lids.get(n, n))] for n in names}
  for name, offset in (("neutral", 0.0), *offsets.items()):
    x, y, z = 100 * (neutral + offset)[order].T
    (folder / f"{name}.obj").write_text("".join(f"v {a:.6f} {-c:.6f} {b:.6f}\n" for a, b, c in zip(x, y, z)))
  return folder


def test_the_users_own_shapes(open_head, tmp_path, caplog):
  head, mixing = unnamed(open_head, "somebody's head")
  expr, jaw = expressions(open_head)
  scene = posed(head, expr=expr @ mixing, jaw=jaw)
  names = ["mouthSmileLeft", "browInnerUp", "eyeBlinkLeft", "mouthPucker", "noseSneerLeft"]
  folder = write_shapes(tmp_path / "shapes", open_head, names)
  (folder / "frown.obj").write_text("v 0 0 0\n")
  with caplog.at_level(logging.INFO, "vht_jax"):
    files = dict(to_arkit(scene, arkit_shapes=str(folder)))
  said = caplog.text
  assert (
    "ARKit has no such curves: frown.obj" in said and "no shapes of eyeSquintLeft" in said and "5 shapes of" in said
  )
  content = json.loads(files["clip_arkit.json"])
  found = np.array([frame["weights"] for frame in content["frames"]])
  true = np.zeros_like(found)
  column = content["names"].index
  true[0, column("mouthSmileLeft")], true[1, column("browInnerUp")], true[1, column("eyeBlinkLeft")] = 0.7, 0.6, 1.0
  true[2, column("mouthPucker")], true[2, column("jawOpen")] = 0.5, 0.2 / OPEN
  assert np.abs(found - true).max() < 0.05  # as above


def test_shapes_that_do_not_fit_are_refused(open_head, tmp_path):
  scene = posed(open_head, jaw=np.zeros((2, 3)))
  rng = np.random.default_rng(0)
  shuffled = write_shapes(tmp_path / "a", open_head, ["browInnerUp"], rng.permutation(len(open_head.v_template)))
  shorter = write_shapes(tmp_path / "b", open_head, ["browInnerUp"], np.arange(100))
  empty = tmp_path / "c"
  empty.mkdir()
  for path, message in (
    (shuffled, "neutral.obj: its vertices are not those of the tracked head in their order"),
    (shorter, f"expected the {len(open_head.v_template)} vertices of the tracked head, in its order; found 100"),
    (empty, "expected a folder with neutral.obj .* found no .obj files"),
    (tmp_path / "d", "found no such folder"),
  ):
    with pytest.raises(InputError, match=message):
      dict(to_arkit(scene, arkit_shapes=str(path)))


@pytest.mark.slow
def test_flames_mesh_is_fitted_by_units(shared_data, tmp_path, monkeypatch):
  """FLAME's topology and jaw with expressions mixed of the open head's units: each of them alone comes back."""
  if not (shared_data / "parity" / "parity_model.npz").is_file():
    pytest.skip("the parity data are not present")
  monkeypatch.setattr(sys, "path", [str(REPO / "benchmarks"), *sys.path])
  import flame_standin

  flame_standin.write(tmp_path, shared_data)
  head = load_head(tmp_path)
  with np.load(open_head_path()) as archive:
    mixing, names = flame_standin.EXPRESSION_SCALE * archive["exp_pca_to_named"], archive["exp_names"].tolist()
  units = names + ["eyeBlinkLeft", "eyeBlinkRight"]
  n = len(names)
  expr = np.zeros((n + 3, head.exprdirs.shape[-1]))
  expr[:n, :n] = np.linalg.solve(mixing, np.eye(n)).T
  expr[[n, n + 1], [n, n + 1]] = 2.0  # a code is half a blink
  jaw = np.zeros((n + 3, 3))
  jaw[n + 2, 0] = 0.25
  found = curves(posed(head, expr=expr, jaw=jaw))
  for row, unit in zip(found, units):
    weights = dict(zip(NAMES, row))
    assert weights.pop(unit) > 0.95 and max(weights.values()) < 0.05, unit
  opened = dict(zip(NAMES, found[-1]))
  assert 0.6 < opened.pop("jawOpen") < 1 and max(opened.values()) < 0.02


def test_each_look_by_itself(open_head):
  """At the angle that the recordings have for a look of 1, of one eye."""
  looks = {"Down": (0, 1 / 1.63), "Up": (0, -1 / 2.15), "In": (1, 1 / 1.85), "Out": (1, 1 / 1.3)}
  wanted = [(side, name) for side in ("Left", "Right") for name in looks]
  eyes = np.zeros((len(wanted), 2, 3))
  for pose, (side, name) in zip(eyes, wanted):
    axis, angle = looks[name]
    towards_left = (name == "Out") == (side == "Left")  # out of the left eye is to the subject's left, +y
    pose["LR".index(side[0]), axis] = angle if axis == 0 or towards_left else -angle
  for row, (side, name) in zip(curves(posed(open_head, eyes=eyes)), wanted):
    weights = dict(zip(NAMES, row))
    assert weights.pop(f"eyeLook{name}{side}") > 0.999 and max(weights.values()) < 1e-6


def test_heads_without_names_are_refused(open_head):
  head = open_head.replace(expr_names=())
  with pytest.raises(InputError, match="have no names; export csv or glb"):
    dict(to_arkit(posed(head, jaw=np.zeros((2, 3)))))
