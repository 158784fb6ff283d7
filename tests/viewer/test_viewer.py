"""The viewer without a browser: editor, light, colours, sliders, opening, command line, and the server's widgets."""

import contextlib
import dataclasses
import json
import struct
import types

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from glb_reader import Glb
from scipy.spatial.transform import Rotation, Slerp

pytest.importorskip("viser", reason="viser is not installed (pip install 'vht-jax[viewer]')")

from vht_jax import cameras, results
from vht_jax.app.result import source
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.types import Identity, Pose, Status, TrackResult
from vht_jax.viewer import cli, export, glb, serve
from vht_jax.viewer.editing.angles import rotation_of, turn_nod_tilt
from vht_jax.viewer.editing.controls import Options, frame_controls, person_controls
from vht_jax.viewer.editing.light import LUMINANCE, handles, with_handles
from vht_jax.viewer.editing.session import EDITED, Session
from vht_jax.viewer.surface import Surface, behind_pixels, scale_colors, split_corners
from vht_jax.viewer.viewer import SHEET

SIZE = (120, 100)


def make_result(head, n=21, seed=0):
  """Heads that turn slowly with some expression; within the limits."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  turn = np.linspace(3.0, 3.3, n)
  light = np.zeros((9, 3), np.float32)
  light[0], light[1], light[3] = (3.5, 3.4, 3.3), 0.3, (-0.6, -0.5, -0.4)
  light[5] = 0.1
  poses = Pose(
    expr=0.3 * jnp.abs(normal(n, head.exprdirs.shape[-1])),
    rotation=jnp.asarray(np.stack([0.05 + 0 * turn, turn, 0 * turn], -1), jnp.float32),
    translation=jnp.asarray([[0.0, -0.1, 0.8]], jnp.float32) + 0.005 * normal(n, 3),
    neck=0.1 * normal(n, 3),
    jaw=jnp.asarray(rng.uniform([0.0, -1e-3, -1e-3], [0.3, 1e-3, 1e-3], (n, 3)), jnp.float32),
    eyes=jnp.asarray(rng.uniform([-0.3, -0.3, 0.0], [0.3, 0.3, 1e-3], (n, 2, 3)), jnp.float32),
  )
  identity = Identity(
    shape=0.5 * normal(head.shapedirs.shape[-1]),
    texture=0.3 * normal(head.texture_basis.shape[-1]),
    light=jnp.asarray(light),
    camera=cameras.make_camera(1.8, (0.52, 0.46)),
    lmk_offset=jnp.zeros((70, 3)),
  )
  return TrackResult(
    identity=identity, poses=poses, energies={"photo": jnp.ones(n)}, status=jnp.zeros(n, jnp.int32),
    confidence=jnp.full(n, 0.9), pose_sd=jax.tree.map(jnp.ones_like, poses), focal_sd=jnp.asarray(0.1),
  )  # fmt: skip


@pytest.fixture(scope="module")
def result(open_head):
  return make_result(open_head)


@pytest.fixture
def session(result):
  return Session(result)


@pytest.fixture
def saved(tmp_path, result, open_head):
  """A run's folder: (result file, its arrays)."""
  path = tmp_path / "clip" / results.FILE_NAME
  results.save_tracked(path, result, np.arange(1, 22), SIZE, TrackConfig(), head=open_head.name)
  return path, results.read_npz(path)


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def snapshot(session):
  return jax.tree.map(np.array, session.poses)


# The editor


def test_a_change_touches_its_frame_and_field_alone(session):
  before = snapshot(session)
  expr = session.pose(4).expr
  expr[7] = 0.8
  session.change(4, "unit 7", expr=expr)
  assert session.poses.expr[4, 7] == np.float32(0.8)
  assert session.edited.nonzero()[0].tolist() == [4]
  session.poses.expr[4] = before.expr[4]
  same(session.poses, before)


def test_a_drag_is_one_step_and_undo_takes_it_back_exactly(session):
  before = snapshot(session)
  for value in (0.1, 0.2, 0.3):
    session.change(3, "jaw open", jaw=[value, 0.0, 0.0])
  session.seal()
  session.change(3, "jaw open", jaw=[0.5, 0.0, 0.0])  # a new drag
  after = snapshot(session)
  assert session.undo() == 3
  np.testing.assert_allclose(session.poses.jaw[3], [0.3, 0, 0], atol=1e-7)
  session.undo()
  same(session.poses, before)
  assert session.undo() is None and not session.edited.any()
  assert session.redo() == 3 and session.redo() == 3 and session.redo() is None
  same(session.poses, after)
  session.undo()
  session.change(3, "other", jaw=[0.2, 0.0, 0.0])
  assert session.redo() is None  # another change ends what could be redone


def test_another_slider_or_frame_is_another_step(session):
  session.change(3, "a", neck=[0.1, 0, 0])
  session.change(3, "b", jaw=[0.1, 0, 0])
  session.change(4, "b", jaw=[0.1, 0, 0])
  assert [session.undo() for _ in range(4)] == [4, 3, 3, None]


def test_angles_stay_within_the_limits(session):
  session.change(0, "jaw", jaw=[9.0, 9.0, -9.0])
  lower, upper = flame.JOINT_LIMITS["jaw"]
  np.testing.assert_array_equal(session.poses.jaw[0], [upper[0], upper[1], lower[2]])


def test_blend_fades_codes_as_a_raised_cosine(session):
  before = snapshot(session)
  session.change(10, "x", expr=session.pose(10).expr + 1.0, translation=session.pose(10).translation + 0.01)
  assert session.blend(10, 4)
  offset = np.arange(21) - 10
  weight = np.where(np.abs(offset) <= 4, 0.5 * (1 + np.cos(np.pi * offset / 5)), 0.0)
  moved = session.poses.expr - before.expr
  np.testing.assert_allclose(moved, np.broadcast_to(weight[:, None], moved.shape), atol=1e-6)
  moved = session.poses.translation - before.translation
  np.testing.assert_allclose(moved, np.broadcast_to(0.01 * weight[:, None], moved.shape), atol=1e-7)
  for name in ("rotation", "neck", "jaw", "eyes"):  # what was not changed is not touched by rounding
    np.testing.assert_array_equal(getattr(session.poses, name), getattr(before, name))
  session.undo(), session.undo()
  same(session.poses, before)


def test_blend_turns_along_the_arc(session):
  """Against SciPy's slerp, for a turn of the head in the world and one of the jaw about its own axes."""
  before = snapshot(session)
  turn = Rotation.from_rotvec([0.3, -0.5, 0.4])
  turned = (turn * Rotation.from_rotvec(before.rotation[10])).as_rotvec()
  session.change(10, "turn", rotation=turned)
  session.change(10, "neck", neck=[0.5, -0.3, 0.2])
  session.blend(10, 3)
  own = Rotation.from_rotvec(before.neck[10]).inv() * Rotation.from_rotvec([0.5, -0.3, 0.2])
  arcs = [Slerp([0, 1], Rotation.concatenate([Rotation.identity(), r])) for r in (turn, own)]
  for k in (7, 8, 9, 11, 12, 13):
    w = 0.5 * (1 + np.cos(np.pi * (k - 10) / 4))
    head = arcs[0](w) * Rotation.from_rotvec(before.rotation[k])
    neck = Rotation.from_rotvec(before.neck[k]) * arcs[1](w)
    assert (head.inv() * Rotation.from_rotvec(session.poses.rotation[k])).magnitude() < 2e-6
    assert (neck.inv() * Rotation.from_rotvec(session.poses.neck[k])).magnitude() < 2e-6
    assert np.linalg.norm(session.poses.rotation[k] - before.rotation[k]) < np.pi  # the same turn of 2 pi
  np.testing.assert_array_equal(session.poses.rotation[6], before.rotation[6])


def test_blending_again_replaces_the_first_blend(session):
  session.change(10, "x", expr=session.pose(10).expr + 1.0)
  session.blend(10, 8)
  session.blend(10, 2)
  other = Session(make_result_of(session))
  other.change(10, "x", expr=other.pose(10).expr + 1.0)
  other.blend(10, 2)
  same(session.poses, other.poses)
  assert session.undo() == 10 and session.undo() == 10 and session.undo() is None


def make_result_of(session):
  """A result with the poses that a session loaded."""
  identity = Identity(
    shape=session.loaded_person.shape, texture=None, light=session.light, camera=session.camera, lmk_offset=None
  )
  return TrackResult(identity=identity, poses=session.loaded, energies={}, status=np.zeros(len(session)))


def test_blend_stops_at_cuts_and_ends_and_needs_a_change(result):
  session = Session(result, np.repeat([0, 1], [9, 12]))
  assert not session.blend(10, 3)
  before = snapshot(session)
  session.change(10, "x", expr=session.pose(10).expr + 1.0)
  assert not session.blend(3, 3)  # the latest change is of another frame
  session.blend(10, 5)
  changed = (session.poses.expr != before.expr).any(1)
  assert changed.nonzero()[0].tolist() == list(range(9, 16))
  session.change(20, "x", expr=session.pose(20).expr + 1.0)
  assert session.blend(20, 5) and session.blend(20, 0)


def test_reset_takes_a_frame_back_and_can_be_undone(session):
  assert not session.reset(5)
  session.change(5, "x", jaw=[0.4, 0, 0])
  assert session.reset(5) and not session.edited.any()
  session.undo()
  np.testing.assert_allclose(session.poses.jaw[5], [0.4, 0, 0], atol=1e-7)


def test_dolly_zoom_keeps_heads_as_large_in_the_image(session, open_head, result):
  before = snapshot(session)
  depth = before.translation[:, 2].copy()
  for value in (2.0, 2.7, 3.6):  # a drag
    session.change_person("focal", focal=value)
  np.testing.assert_allclose(session.poses.translation[:, 2], 2.0 * depth, rtol=1e-6)  # 3.6 is twice the loaded 1.8
  project = lambda focal, t: np.asarray(cameras.project(cameras.make_camera(focal, (0.52, 0.46)), jnp.asarray(t), SIZE))
  np.testing.assert_allclose(
    project(3.6, session.poses.translation)[:, :2], project(1.8, before.translation)[:, :2], atol=1e-3
  )
  assert session.edited.all()
  assert session.undo() == -1
  same(session.poses, before)
  assert session.person.focal == pytest.approx(1.8)
  session.change_person("focal", keep_size=False, focal=2.5)
  same(session.poses, before)


def test_the_edited_result_is_a_result(session, result, open_head):
  session.change(2, "x", jaw=[0.4, 0, 0])
  session.change_person("focal", focal=2.0)
  found = session.result(result)
  assert float(found.poses.jaw[2, 0]) == np.float32(0.4) and float(found.identity.camera.focal) == 2.0
  assert found.identity.camera.principal[0] == result.identity.camera.principal[0]


# The file


def test_saving_without_a_change_writes_the_same_arrays(saved, session):
  path, arrays = saved
  content = session.content(arrays)
  assert not content.pop(EDITED).any()
  assert set(content) == set(arrays)
  for name, values in arrays.items():
    np.testing.assert_array_equal(content[name], values, err_msg=name)
    assert content[name].dtype == values.dtype, name


def test_a_saved_edit_loads_again_and_the_rest_is_kept_bit_by_bit(saved, session, open_head):
  path, arrays = saved
  loaded = results.load_tracked(path, open_head)
  session = Session(loaded.result)
  session.change(6, "x", jaw=[0.4, 0.0, 0.0], expr=session.pose(6).expr + 0.2, eyes=np.full((2, 3), [0.1, 0.2, 0.0]))
  session.save(path.with_name("edited.npz"), {**arrays, "vht_jax_of_the_future": np.arange(3)})
  again = results.read_npz(path.with_name("edited.npz"))
  assert again["vht_jax_of_the_future"].tolist() == [0, 1, 2]
  assert again[EDITED].nonzero()[0].tolist() == [6]
  others = np.arange(21) != 6
  for name in ("rotation", "translation", "neck_pose", "shape", "light", "K", "frame", "texture"):
    np.testing.assert_array_equal(again[name], arrays[name], err_msg=name)
  for name in ("jaw_pose", "eyes_pose", "expr", "vht_jax_confidence", "vht_jax_energy_photo", "vht_jax_sd_jaw"):
    np.testing.assert_array_equal(again[name][others], arrays[name][others], err_msg=name)
  # Nothing has measured the edited frame.
  assert again["vht_jax_confidence"][6] == 0 and np.isnan(again["vht_jax_energy_photo"][6])
  assert np.isinf(again["vht_jax_sd_jaw"][6]).all()
  found = results.load_tracked(path.with_name("edited.npz"), open_head).result.poses
  np.testing.assert_allclose(found.jaw[6], [0.4, 0.0, 0.0], atol=2e-6)
  np.testing.assert_allclose(found.eyes[6], [[0.1, 0.2, 0.0]] * 2, atol=2e-6)
  np.testing.assert_allclose(found.expr[6], session.poses.expr[6], atol=1e-7)
  # A second round keeps the marks of the first.
  second = Session(results.load_tracked(path.with_name("edited.npz"), open_head).result)
  second.change(9, "x", jaw=[0.2, 0.0, 0.0])
  assert second.content(again)[EDITED].nonzero()[0].tolist() == [6, 9]


def test_a_changed_person_is_saved(saved, open_head):
  path, arrays = saved
  session = Session(results.load_tracked(path, open_head).result)
  shape = np.array(session.person.shape)
  shape[1] = 2.0
  session.change_person("shape 1", shape=shape)
  session.change_person("light", light=dataclasses.replace(session.person.light, brightness=1.5))
  session.change_person("focal", focal=2.4)
  session.save(path.with_name("edited.npz"), arrays)
  found = results.load_tracked(path.with_name("edited.npz"), open_head).result
  assert float(found.identity.shape[1]) == 2.0 and found.identity.shape[0] == session.person.shape[0]
  np.testing.assert_allclose(found.identity.light, 1.5 * arrays["light"][0], rtol=1e-6)
  assert float(found.identity.camera.focal) == pytest.approx(2.4)
  np.testing.assert_allclose(found.identity.camera.principal, [0.52, 0.46], atol=1e-6)
  assert results.read_npz(path.with_name("edited.npz"))[EDITED].all()


def test_saving_writes_over_nothing(saved, session):
  path, arrays = saved
  with pytest.raises(InputError, match="exists already"):
    session.save(path, arrays)


def test_rows_that_were_never_tracked_are_no_edits(saved, open_head):
  path, arrays = saved
  arrays = {k: v for k, v in arrays.items() if not k.startswith("vht_jax_")}
  arrays["n_processed"] = np.asarray(19)
  arrays["rotation"][19:] = np.nan
  results.write_npz(path.with_name("vht.npz"), arrays)
  session = Session(results.load_tracked(path.with_name("vht.npz"), open_head).result)
  assert not session.edited.any()
  np.testing.assert_array_equal(session.content(arrays)["rotation"], arrays["rotation"])


# Light


def test_light_handles_of_a_known_light():
  light = np.zeros((9, 3))
  light[0] = 4.0
  # From the left, above and in front.
  direction = np.array([np.sin(0.5) * np.cos(0.3), np.sin(0.3), -np.cos(0.5) * np.cos(0.3)])
  light[1:4] = 0.8 * direction[:, None]
  found = handles(light)
  assert found.strength == pytest.approx(0.2) and found.azimuth == pytest.approx(np.degrees(0.5))
  assert found.elevation == pytest.approx(np.degrees(0.3))
  np.testing.assert_array_equal(with_handles(light, found), light.astype(np.float32))


@pytest.mark.parametrize("change", [dict(azimuth=-120.0, elevation=-30.0), dict(strength=0.5), dict(azimuth=175.0)])
def test_a_turned_light_has_the_direction_that_was_asked_for(session, change):
  wanted = dataclasses.replace(session.person.light, **change)
  found = handles(with_handles(session.light, wanted))
  for field in ("azimuth", "elevation", "strength"):
    assert getattr(found, field) == pytest.approx(getattr(wanted, field), abs=2e-3), field
  np.testing.assert_allclose(with_handles(session.light, wanted)[4:], session.light[4:], atol=1e-6)


def test_a_light_without_direction_gets_one():
  light = np.zeros((9, 3), np.float32)
  light[0] = 3.0
  found = with_handles(light, dataclasses.replace(handles(light), strength=0.4, azimuth=90.0))
  np.testing.assert_allclose(found[1:4], [[1.2] * 3, [0] * 3, [0] * 3], atol=1e-6)


def test_warmth_keeps_the_luminance():
  light = np.zeros((9, 3), np.float32)
  light[0] = 3.0
  warm = with_handles(light, dataclasses.replace(handles(light), warmth=0.7))
  assert warm[0] @ LUMINANCE == pytest.approx(3.0, rel=1e-6)
  assert warm[0, 0] / warm[0, 2] == pytest.approx(2 ** (2 * 0.5 * 0.7), rel=1e-5)


# Angles and sliders


@pytest.mark.parametrize("angles", [(0, 0, 0), (30, -20, 10), (-75, 50, -100)])
def test_head_angles_there_and_back(angles):
  vector = rotation_of(*angles, near=np.array([0.0, np.pi, 0.0]))
  np.testing.assert_allclose(turn_nod_tilt(vector), angles, atol=1e-3)


def test_head_angles_mean_what_they_say(open_head):
  """In the image the nose goes left when the head turns, down when it nods, the crown left when it tilts."""
  nose = lambda *angles: Rotation.from_rotvec(rotation_of(*angles, near=np.zeros(3))).apply([0, 0, 1])
  crown = lambda *angles: Rotation.from_rotvec(rotation_of(*angles, near=np.zeros(3))).apply([0, 1, 0])
  np.testing.assert_allclose(nose(0, 0, 0), [0, 0, -1], atol=1e-6)  # world: x left, y up, z away from the camera
  assert nose(30, 0, 0)[0] > 0.4 and nose(0, 30, 0)[1] < -0.4 and crown(0, 0, 30)[0] > 0.4


def test_every_slider_reads_what_it_sets(session, open_head):
  options = Options(both_eyes=False)
  per_frame, shared = frame_controls(session, open_head, options), person_controls(session, options)
  names = [c.name for c in per_frame]
  assert len(set(names)) == len(names) and set(open_head.expr_names) <= set(names)
  assert {c.group for c in shared} == {"Identity", "Light", "Camera"}
  for control in (*per_frame, *shared):
    assert control.low <= control.get(session, 3) <= control.high, control.name
    value = control.low + 0.4 * (control.high - control.low)
    control.set(session, 3, value)
    assert control.get(session, 3) == pytest.approx(value, abs=2e-3 * (control.high - control.low)), control.name
    session.undo()
  assert not session.edited.any()


def test_flames_unnamed_codes_have_two_sides(session, open_head):
  head = open_head.replace(expr_names=(), expr_one_sided=False)
  units = [c for c in frame_controls(session, head, Options()) if c.group == "Expression"]
  assert [c.name for c in units[:2]] == ["expr 0", "expr 1"] and len(units) == 40
  assert all(c.low <= -3 and c.high >= 3 for c in units)


def test_gaze_moves_both_eyes_by_as_much(session, open_head):
  control = next(c for c in frame_controls(session, open_head, Options()) if c.name == "left eye down")
  before = session.pose(2).eyes
  control.set(session, 2, np.degrees(before[0, 0]) + 5.0)
  np.testing.assert_allclose(session.pose(2).eyes[:, 0] - before[:, 0], np.radians([5.0, 5.0]), atol=1e-6)


# What is drawn


def test_colours_survive_the_browsers_tone_curve():
  rng = np.random.default_rng(0)
  grey = rng.uniform(0.0, 0.95, (500, 1))
  skin = np.clip(grey * rng.uniform([1.0, 0.7, 0.55], [1.0, 0.95, 0.9], (500, 3)), 0, 1)
  np.testing.assert_allclose(glb.toned(glb.untoned(skin)), skin, atol=1 / 255)
  assert glb.untoned(skin).max() < glb.TEXTURE_SCALE


def test_tone_curve_is_three_js():
  """ACESFilmicToneMapping(0.18) of three.js r150 and later, exposure 1, computed by hand from its shader: grey in."""
  x = 0.18 / 0.6
  fit = (x * (x + 0.0245786) - 0.000090537) / (x * (0.983729 * x + 0.4329510) + 0.238081)
  expected = 1.055 * fit ** (1 / 2.4) - 0.055
  np.testing.assert_allclose(glb.toned(np.full(3, 0.18)), expected, atol=2e-4)


def unpacked(data):
  """(document, buffer) of a binary glTF."""
  magic, version, length = struct.unpack_from("<4sII", data)
  assert (magic, version, length) == (b"glTF", 2, len(data))
  size = struct.unpack_from("<I", data, 12)[0]
  assert size % 4 == 0
  return json.loads(data[20 : 20 + size]), data[20 + size + 8 :]


def test_glb_holds_what_it_was_given():
  vertices = np.arange(12, dtype=np.float32).reshape(4, 3)
  faces = np.array([[0, 1, 2], [2, 1, 3]])
  colors = np.linspace(0, 0.9, 12).reshape(4, 3)
  document, buffer = unpacked(glb.pack(vertices, faces, colors=colors, opacity=0.5))
  assert document["buffers"][0]["byteLength"] == len(buffer)

  def read(index, kind):
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    return np.frombuffer(buffer[view["byteOffset"] :][: view["byteLength"]], kind)

  primitive = document["meshes"][0]["primitives"][0]
  np.testing.assert_array_equal(read(primitive["attributes"]["POSITION"], "<f4").reshape(4, 3), vertices)
  np.testing.assert_array_equal(read(primitive["indices"], "<u4").reshape(2, 3), faces)
  np.testing.assert_allclose(read(primitive["attributes"]["COLOR_0"], "<f4").reshape(4, 3), glb.untoned(colors))
  assert document["materials"][0]["alphaMode"] == "BLEND"


def test_of_two_faces_on_a_texel_the_one_that_looks_ahead_is_lit(open_head, result, session):
  """An eyeball's back lies over its front in the texture."""
  surface = Surface(open_head, session, result.identity)
  found, _ = surface._texels
  eye = flame.region(open_head, ("left_eyeball", "right_eyeball"))[surface.faces].all(axis=1)
  ahead = np.asarray(flame.vertex_normals(open_head.v_template, open_head.faces))[surface.faces, 2].sum(axis=1)
  front = np.flatnonzero(eye & (ahead > 1.5))
  u, v = np.asarray(open_head.uv)[front].mean(axis=1).T  # middles of the faces
  height, width = found.shape
  there = np.asarray(found)[(height * (1 - v)).astype(int), (width * u).astype(int)]
  assert len(front) > 100 and (ahead[there] >= ahead[front] - 0.3).all()  # itself, or a neighbour


def test_textured_glb_has_the_texture(open_head):
  display = np.full((8, 8, 3), [0.8, 0.6, 0.5])
  jpeg = glb.texture_jpeg(display)
  document, buffer = unpacked(glb.pack(np.eye(3), [[0, 1, 2]], uv=np.array([[0, 0], [1, 0], [0, 1]]), jpeg=jpeg))
  view = document["bufferViews"][document["images"][0]["bufferView"]]
  encoded = cv2.imdecode(np.frombuffer(buffer[view["byteOffset"] :][: view["byteLength"]], np.uint8), 1)[4, 4, ::-1]
  linear = ((encoded / 255 + 0.055) / 1.055) ** 2.4 * glb.TEXTURE_SCALE
  np.testing.assert_allclose(glb.toned(linear), [0.8, 0.6, 0.5], atol=2.5 / 255)


def test_split_corners_keeps_every_face(open_head):
  faces, uv = np.asarray(open_head.faces), np.asarray(open_head.uv)
  ids, split, coordinates = split_corners(faces, uv)
  np.testing.assert_array_equal(ids[split], faces)
  np.testing.assert_allclose(coordinates[split], uv, atol=1e-7)


def test_points_behind_pixels_project_onto_them():
  camera = cameras.make_camera(1.8, (0.52, 0.46), T=jnp.array([0.1, -0.2, 0.3]))
  pixels, depth = np.array([[10.0, 20.0], [90.0, 70.0]]), np.array([0.7, 1.3])
  points = behind_pixels(camera, pixels, depth, SIZE)
  found = np.asarray(cameras.project(camera, jnp.asarray(points, jnp.float32), SIZE))
  np.testing.assert_allclose(found, np.concatenate([pixels, depth[:, None]], 1), atol=1e-4)


def test_image_plane_fills_the_image_and_the_camera_sees_it_all():
  from vht_jax.viewer.scene import camera_place, field_of_view, plane_of

  camera = cameras.make_camera(1.8, (0.52, 0.46))
  centre, width, height = plane_of(camera, SIZE, 1.2)
  # World x is left: the image's left edge has the larger x.
  corner = centre + [width / 2, height / 2, 0.0]
  np.testing.assert_allclose(cameras.project(camera, jnp.asarray(corner, jnp.float32), SIZE), [0, 0, 1.2], atol=1e-4)
  position, ahead, up = camera_place(camera)
  np.testing.assert_allclose([position, ahead, up], [[0, 0, 0], [0, 0, 1], [0, 1, 0]], atol=1e-7)
  for aspect in (0.5, 100 / 120, 2.0):
    half = np.tan(field_of_view(camera, SIZE, aspect) / 2) * 1.8 * 120  # px on either side of the axis
    assert half >= 0.54 * 120 - 1e-6 and half * aspect >= 0.52 * 100 - 1e-6
    assert half == pytest.approx(0.54 * 120) or half * aspect == pytest.approx(0.52 * 100)


@pytest.mark.slow
def test_surface_is_the_renderers(open_head, result, session):
  """The texture under the light, seen through the camera, is what the tracker's renderer draws."""
  head = flame.without_lower_neck(open_head)
  surface = Surface(head, session, result.identity)
  vertices = surface.vertices(5)
  pose = jax.tree.map(lambda x: x[5], result.poses)
  np.testing.assert_allclose(vertices, flame.skin(open_head, result.identity.shape, pose), atol=2e-6)
  np.testing.assert_allclose(surface.landmarks(vertices), flame.landmarks(open_head, jnp.asarray(vertices)), atol=1e-6)
  rgb, alpha = surface.picture(vertices, SIZE)
  image = np.round(255 * rgb).astype(np.uint8)
  error = surface.image_error(vertices, image)  # of its own picture
  assert np.nanmax(error) < 2 / 255 and 0.2 < np.isfinite(error).mean() < 0.7
  shifted = surface.image_error(vertices, np.clip(image.astype(int) - 40, 0, 255).astype(np.uint8))
  assert np.nanmedian(shifted) > 0.1
  # The lit texture at vertices against the picture at their pixels.
  colors = export.texture_at_vertices(surface.texture(vertices), len(vertices), surface.corners, surface.split_uv)
  pixel = np.floor(np.asarray(cameras.project(session.edited_camera, jnp.asarray(vertices), SIZE))[:, :2]).astype(int)
  front = np.isfinite(error) & np.asarray(open_head.masks["face"])
  seen = rgb[np.clip(pixel[front, 1], 0, SIZE[0] - 1), np.clip(pixel[front, 0], 0, SIZE[1] - 1)]
  assert np.median(np.abs(colors[front] - seen)) < 0.03
  session.change_person("light", light=dataclasses.replace(session.person.light, brightness=0.7))
  assert surface.texture(vertices).mean() < 0.95 * colors.mean()
  over = cv2.imdecode(np.frombuffer(export.picture(rgb, alpha, np.full_like(image, 77)), np.uint8), -1)[..., ::-1]
  np.testing.assert_array_equal(over[alpha < 0.5], 77)
  np.testing.assert_array_equal(over[alpha > 0.5], image[alpha > 0.5])
  assert cv2.imdecode(np.frombuffer(export.picture(rgb, alpha, None), np.uint8), -1).shape == (*SIZE, 4)


def test_scale_of_errors():
  colors = scale_colors(np.array([0.0, 1.0, 2.0, np.nan]), 1.0)
  assert colors[0].min() > 0.8 and colors[1, 0] > 2 * colors[1, 1] and (colors[1] == colors[2]).all()
  assert np.ptp(colors[3]) < 0.05


# Exports


def test_mesh_files(open_head):
  trimesh = pytest.importorskip("trimesh", reason="trimesh comes with viser")
  import io

  vertices, faces = np.asarray(open_head.v_template), np.asarray(open_head.faces)
  colors = np.random.default_rng(0).uniform(0, 1, vertices.shape)
  for kind, data in (("ply", export.ply(vertices, faces, colors)), ("obj", export.obj(vertices, faces, open_head.uv))):
    mesh = trimesh.load(io.BytesIO(data), file_type=kind, process=False)
    assert len(mesh.faces) == len(faces)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], vertices[faces], atol=1e-6)
  mesh = trimesh.load(io.BytesIO(export.ply(vertices, faces, colors)), file_type="ply", process=False)
  np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3] / 255, colors, atol=0.5 / 255 + 1e-9)


# Opening


def write_frames(folder, numbers, size=SIZE):
  from vht_jax.dataset.layout import IMAGE, frame_name

  for number in numbers:
    path = folder / frame_name(number) / IMAGE
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.full((*size, 3), number, np.uint8))


def test_a_result_is_opened_with_the_frames_of_its_numbers(saved):
  path, _ = saved
  write_frames(path.parent / "dataset", [2, 5, 21, 30])
  opened = source.open_result(str(path.parent))
  assert opened.name == "clip" and opened.head.name.startswith("open head") and not opened.notes
  assert (opened.image_rows >= 0).nonzero()[0].tolist() == [1, 4, 20]
  assert opened.image(4)[0, 0].tolist() == [5, 5, 5] and opened.image(0) is None
  assert source.open_result(str(path)).path == opened.path


def test_a_result_without_images_is_opened_with_a_note(saved):
  opened = source.open_result(str(saved[0]))
  assert opened.images is None and "without images" in opened.notes[0]
  assert len(opened.head.faces) < len(opened.whole_head.faces)


def test_another_videos_frames_are_not_shown(saved):
  path, _ = saved
  write_frames(path.parent / "dataset", range(1, 22), size=(100, 120))
  assert "another video's" in source.open_result(str(path)).notes[0]
  with pytest.raises(InputError, match="another video's"):
    source.open_result(str(path), str(path.parent / "dataset"))
  with pytest.raises(InputError, match="no such dataset"):
    source.open_result(str(path), str(path.parent / "nowhere"))


def test_a_result_of_flame_without_flame_is_refused(saved, monkeypatch, tmp_path):
  path, arrays = saved
  results.write_npz(path.with_name("vht.npz"), {k: v for k, v in arrays.items() if not k.startswith("vht_jax_")})
  monkeypatch.chdir(tmp_path)
  monkeypatch.delenv("VHT_ASSETS", raising=False)
  with pytest.raises(InputError, match="tracked with FLAME"):
    source.open_result(str(path.with_name("vht.npz")))
  opened = source.open_result(str(path.with_name("vht.npz")), model="open")  # who says so gets it
  assert opened.head.name.startswith("open head") and "mean something else" in opened.notes[0]


@pytest.mark.parametrize("origin", ["mediapipe", "face-alignment"])
def test_the_head_has_the_landmarks_of_the_datasets_detector(saved, open_head, monkeypatch, origin):
  from vht_jax.dataset.keypoints import write_keypoints
  from vht_jax.landmarks import Detection

  path, _ = saved
  write_frames(path.parent / "dataset", range(1, 22))
  points = np.random.default_rng(0).uniform(20, 80, (68, 2)).astype(np.float32)
  keypoints = path.parent / "dataset" / "frame_0003" / "keypoints_static_0000.json"
  write_keypoints(keypoints, Detection(np.zeros(5, np.float32), points), origin)
  asked = []
  monkeypatch.setattr(source, "load_head", lambda *args, detector, **rest: asked.append(detector) or open_head)
  source.open_result(str(path.parent))
  assert asked == [origin]


def test_shots_of_the_run_limit_the_blend(saved):
  path, _ = saved
  (path.parent / "config.ini").write_text("[tracking]\ncutframes = [8]\nfind_cuts = false\n")
  assert np.bincount(source.open_result(str(path)).shots).tolist() == [8, 13]


# The command line


@pytest.mark.parametrize(
  "argv, message",
  [
    ([], "one or two results"),
    (["a", "b", "c"], "one or two results"),
    (["nowhere"], "no such result"),
    (["--prot=1", "a"], "unknown flag --prot"),
    (["--port=99999", "a"], "--port"),
    (["--data_path2=x", "a"], "--data_path2"),
  ],
)
def test_bad_command_lines_are_one_line(argv, message, capsys):
  assert cli.main(argv) == 2
  text = capsys.readouterr().err
  assert message in text and text.startswith("vht-view: error:") and text.count("\n") == 1


def test_a_folder_of_several_people_names_them(saved, capsys):
  path, _ = saved
  (path.parent / "face_0").mkdir()
  path.rename(path.parent / "face_0" / path.name)
  assert cli.main([str(path.parent)]) == 2
  assert "face_0" in capsys.readouterr().err


def test_help(capsys):
  assert cli.main(["--help"]) == 0
  text = capsys.readouterr().out
  assert all(f"--{f.name}" in text for f in dataclasses.fields(cli.Options)[1:])


def test_missing_viser_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"pip install 'vht-jax\[viewer\]'"):
    cli.require_viser()


# With viser, without a browser


@pytest.fixture
def page(saved):
  pytest.importorskip("viser", reason="viser is not installed (pip install 'vht-jax[viewer]')")
  path, arrays = saved
  write_frames(path.parent / "dataset", range(1, 22))
  other = path.parent.parent / "other" / path.name
  results.write_npz(other, arrays | {"translation": arrays["translation"] + np.float32([0.002, 0, 0])})
  sources = [source.open_result(str(path)), source.open_result(str(other))]
  server, viewer, panel = serve.serve(sources, "127.0.0.1", 8765)
  yield server, viewer, panel
  server.stop()


def test_server_shows_edits_compares_and_saves(page, open_head):
  server, viewer, panel = page
  first, second = viewer.scenes
  for look in ("texture", "shading", "normals", "wireframe", "clay"):
    viewer.look(look=look, landmarks=look == "clay")
    viewer.draw()
    for scene in viewer.scenes:
      scene.settle()
    shown = [s.visible for s in (first._mesh, *first._heads._nodes) if s is not None]
    assert shown.count(True) == 1, look
  # The second result stands beside the first one.
  assert second.root.visible and second.root.position[0] < -first.width
  viewer.set_compare("difference")
  viewer.draw()
  assert not second.root.visible
  np.testing.assert_allclose(viewer.distance, 2.0, atol=1e-3)  # mm: moved as a whole

  viewer.go_to(4)
  control = next(c for c, _ in panel.sliders if c.name == "jaw open")
  slider = next(s for c, s in panel.sliders if c.name == "jaw open")
  panel.move(control, 20.0)
  panel.move(control, 25.0)
  viewer.draw(), panel.sync()
  assert slider.value == 25.0 and panel.frame.value == 5 and "**edited**" in panel.status.content
  panel.blend_frames.value = 2
  panel.act("Blend")
  assert viewer.session.edited.nonzero()[0].tolist() == [2, 3, 4, 5, 6]
  saved = panel.save_as("mine")
  assert saved.name == "mine.npz" and saved.parent == viewer.source.path.parent
  poses = results.load_tracked(saved, open_head).result.poses
  assert np.degrees(poses.jaw[4, 0]) == pytest.approx(25.0, abs=1e-3)
  for name in ("mine", "../elsewhere", "/tmp/x", "", ".."):
    with pytest.raises(InputError):
      panel.save_as(name)
  panel.act("Undo"), panel.act("Undo")
  viewer.draw(), panel.sync()
  assert not viewer.session.edited.any() and slider.value != 25.0
  assert "**edited**" not in panel.status.content
  panel.act("Redo")
  assert viewer.session.edited.nonzero()[0].tolist() == [4]
  assert panel.ply().startswith(b"ply") and b"\nf " in panel.obj()


def test_the_slider_has_the_numbers_of_the_frames(page):
  """From 1, as frames.csv and the result's file; of a number that is missing the frame before it is shown."""
  server, viewer, panel = page
  assert (panel.frame.min, panel.frame.max, panel.frame.value) == (1, 21, 1)
  viewer.go_to(viewer.position(21))
  assert viewer.frame == 20 and panel.status_text().startswith("frame 21,")
  tracked = dataclasses.replace(viewer.source.tracked, frames=np.array([3, 4, 9, *range(10, 28)]))
  object.__setattr__(viewer.source, "tracked", tracked)
  assert [viewer.position(number) for number in (3, 4, 5, 8, 9, 27)] == [0, 1, 1, 1, 2, 20]


def test_on_a_phone_the_head_is_above_the_controls(page):
  """The camera turns where it stands, so the head stays over the image, which is in the part that they leave free."""
  server, viewer, panel = page

  class Client:
    atomic = contextlib.nullcontext

    def __init__(self, aspect):
      self.camera = types.SimpleNamespace(aspect=aspect)

  def place(aspect):
    client = Client(aspect)
    viewer.camera_view(client)
    camera = client.camera
    ahead = np.asarray(camera.look_at) - camera.position
    ahead, up = ahead / np.linalg.norm(ahead), np.asarray(camera.up_direction, float)
    up = up - (up @ ahead) * ahead
    return camera, ahead, up / np.linalg.norm(up)

  wide, forward, _ = place(1.6)
  phone, ahead, up = place(0.47)
  np.testing.assert_allclose(phone.position, wide.position)
  # Where the old middle of the picture is now, from the window's top in its height.
  height = 0.5 - 0.5 * (forward @ up) / (forward @ ahead) / np.tan(phone.fov / 2)
  assert height == pytest.approx(0.5 - SHEET / 2, abs=0.01) and 0.15 < height < 1 - SHEET


def test_the_exported_clip_has_the_edit_and_the_frames_own_times(page, open_head):
  """The GLB button's bytes, read by `glb_reader`: every frame at its time, the edited one as it was edited."""
  server, viewer, panel = page
  seconds = np.cumsum(np.linspace(0.02, 0.06, 21))  # a variable frame rate
  tracked = dataclasses.replace(viewer.source.tracked, times=seconds)
  object.__setattr__(viewer.source, "tracked", tracked)
  viewer.session.change(4, "jaw", jaw=[0.4, 0.0, 0.0])
  file = Glb(panel.glb())
  times, vertices = file.frames()
  np.testing.assert_allclose(times, seconds - seconds[0], atol=1e-6)
  number = file.array(file.json["meshes"][0]["primitives"][0]["attributes"]["_VERTEX"])[:, 0].astype(int)
  for frame in (4, 20):
    pose = jax.tree.map(lambda x: jnp.asarray(x[frame]), viewer.session.poses)
    expected = np.asarray(flame.skin(open_head, jnp.asarray(viewer.session.person.shape), pose))
    np.testing.assert_allclose(vertices(frame), expected[number] * [-1, 1, -1], atol=2e-6)
  sent = []
  client = types.SimpleNamespace(send_file_download=lambda name, data, save_immediately: sent.append((name, data)))
  panel._download(client, "glb", panel.glb)
  assert sent[0][0].endswith(".glb") and sent[0][1][:4] == b"glTF"
  assert "glb" in panel.exports


def test_the_thread_draws_what_was_asked_for_last_and_plays(page):
  server, viewer, panel = page
  viewer.set_compare("hidden")
  thread = viewer.start()
  try:
    for frame in range(21):
      viewer.go_to(frame)
    wait(lambda: panel.frame.value == 21)
    assert viewer.drawn < 21 or viewer.frame == 20
    viewer.play(True)  # from the start again
    wait(lambda: 0 < viewer.frame < 20)
    assert viewer.playing
    viewer.play(False)
  finally:
    viewer.stop()
    thread.join(20)
  assert not thread.is_alive()


def wait(condition, seconds=60):
  import time

  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_doubtful_frames_in_turn(page):
  server, viewer, panel = page
  assert viewer.next_doubtful() is None
  tracked = viewer.source.tracked
  status = np.array(tracked.result.status)
  status[[3, 9]] = Status.INTERPOLATED
  object.__setattr__(tracked, "result", tracked.result.replace(status=jnp.asarray(status)))
  assert viewer.next_doubtful() == 3
  viewer.frame = 3
  assert viewer.next_doubtful() == 9
  viewer.frame = 9
  assert viewer.next_doubtful() == 3
  viewer.session.change(3, "x", jaw=[0.2, 0, 0])  # looked at and corrected
  assert viewer.next_doubtful() == 9
