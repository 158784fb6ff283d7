"""Results of other trackers: what our exports say comes back, and what others write themselves; broken files do not."""

import dataclasses
import io
import json
import pickle
import zipfile

import flame_readers as readers
import jax
import numpy as np
import pytest
from export_clip import FRAMES, SIZE, assert_reprojects, scene_of_head, true_pixels
from flame_clip import within_limits
from flame_file import flame_arrays, without_its_landmarks, write_flame

from vht_jax import results
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.head.load import load_head
from vht_jax.results.export import make_scene
from vht_jax.results.export.registry import export

CLOSE = 1e-5  # rad, m, px per longer side


@pytest.fixture(scope="module")
def scene_2020(flame_scene):
  """Of FLAME 2020, without a neck, as metrical-tracker's."""
  poses = flame_scene.result.poses
  result = flame_scene.result.replace(poses=poses.replace(neck=0 * poses.neck))
  return dataclasses.replace(
    flame_scene, model=flame_scene.model.replace(name="FLAME (generic_model.pkl)"), result=result
  )


def assert_same(tracked, scene):
  """The poses, codes and camera of a scene."""
  found, true = tracked.result, scene.result
  np.testing.assert_array_equal(tracked.frames, FRAMES)
  assert tracked.image_size == SIZE and tracked.verdict.same
  matrices = jax.vmap(flame.pose_matrices)
  np.testing.assert_allclose(matrices(found.poses), matrices(true.poses), atol=CLOSE)
  for name in ("expr", "translation", "neck", "jaw", "eyes"):
    np.testing.assert_allclose(getattr(found.poses, name), getattr(true.poses, name), atol=CLOSE, err_msg=name)
  np.testing.assert_allclose(found.identity.shape, true.identity.shape, atol=CLOSE)
  for a, b in zip(jax.tree.leaves(found.identity.camera), jax.tree.leaves(true.identity.camera)):
    np.testing.assert_allclose(a, b, atol=CLOSE)
  again = make_scene(scene.model, found, tracked.image_size)
  assert_reprojects(np.array([again.pixels(i) for i in range(len(again))]), scene)


@pytest.fixture(scope="module")
def vhap_file(flame_scene, tmp_path_factory):
  folder = tmp_path_factory.mktemp("vhap")
  export(flame_scene, "vhap", folder)
  return folder / "tracked_flame_params_0.npz"


@pytest.fixture(scope="module")
def nersemble_file(flame_scene, tmp_path_factory):
  folder = tmp_path_factory.mktemp("nersemble")
  export(flame_scene, "nersemble", folder)
  return next(folder.glob("sequences/*/tracking/*.npz"))


@pytest.fixture(scope="module")
def metrical_folder(scene_2020, tmp_path_factory):
  folder = tmp_path_factory.mktemp("metrical")
  export(scene_2020, "metrical", folder)
  return folder


def test_vhap_comes_back(flame_scene, vhap_file):
  assert results.kind_of(vhap_file) == "VHAP"
  assert_same(results.load_tracked(vhap_file, flame_scene.model), flame_scene)


def test_nersemble_comes_back(flame_scene, nersemble_file):
  assert results.kind_of(nersemble_file) == "NeRSemble"
  assert_same(results.load_tracked(nersemble_file, flame_scene.model), flame_scene)
  assert_same(results.load_tracked(f"{nersemble_file}@222200037", flame_scene.model), flame_scene)


def test_metrical_comes_back(scene_2020, metrical_folder):
  for path in (metrical_folder, metrical_folder / "checkpoint", metrical_folder / "checkpoint/00002.frame"):
    assert results.kind_of(path) == "metrical-tracker"
    assert_same(results.load_tracked(path, scene_2020.model), scene_2020)


def test_nha_comes_back(scene_2020, tmp_path):
  """NHA's file is VHT's; angles are in the limits of its joints here."""
  limited = within_limits(scene_2020)
  export(limited, "nha", tmp_path)
  assert results.kind_of(tmp_path / results.FILE_NAME) is None
  assert_same(results.load_tracked(tmp_path / results.FILE_NAME, limited.model), limited)


def test_ours_is_nobody_elses(clip_folder, open_head):
  path = clip_folder / results.FILE_NAME
  assert results.kind_of(path) is None and results.kind_of(clip_folder) is None and results.kind_of("nowhere") is None
  assert results.load_tracked(path, open_head).head == open_head.name


def test_vhap_as_it_writes_itself(flame_scene, vhap_file, tmp_path, caplog):
  """Its own file: no keys of ours, offsets of vertices, rows that were never reached."""
  with np.load(vhap_file) as file:
    own = {name: file[name] for name in file.files if not name.startswith("vht_jax")}
  own["static_offset"] = np.full((1, 5143, 3), 0.002, np.float32)
  own["n_processed_frames"] = np.asarray(4)
  own["timestep_id"] = np.array([f"{k:06d}" for k in range(6)])
  np.savez(tmp_path / "tracked_flame_params_30.npz", **own)
  tracked = results.load_tracked(tmp_path / "tracked_flame_params_30.npz", flame_scene.model)
  assert tracked.n_processed == 4 and tracked.frames.tolist() == [1, 2, 3, 4, 5, 6]
  assert np.asarray(tracked.result.status).tolist() == [0, 0, 0, 0, 2, 2]
  camera = tracked.result.identity.camera
  assert np.asarray(camera.principal).tolist() == [0.5, 0.5] and tracked.image_size == tuple(own["image_size"])
  read = readers.vhap({"tracked_flame_params_0.npz": npz_bytes(own | {"static_offset": 0 * own["static_offset"]})},
                      flame_scene.model)  # fmt: skip
  scene = make_scene(flame_scene.model, tracked.result, tracked.image_size)
  assert np.abs(true_pixels(scene)[:4] - read).max() < 0.02
  assert "static_offset, up to 2.0 mm, is left out" in caplog.text


def npz_bytes(arrays):
  data = io.BytesIO()
  np.savez(data, **arrays)
  return data.getvalue()


def test_vhap_without_a_lens(flame_scene, vhap_file, tmp_path):
  with np.load(vhap_file) as file:
    calibrated = {n: file[n] for n in file.files if n != "focal_length" and not n.startswith("vht_jax")}
  path = tmp_path / "tracked_flame_params_30.npz"
  np.savez(path, **calibrated)
  with pytest.raises(InputError, match="'focal_length' is missing, .* --calibrated with --focal"):
    results.load_tracked(path, flame_scene.model)
  focal = float(results.load_tracked(path, flame_scene.model, focal=1.7).result.identity.camera.focal)
  assert focal == pytest.approx(1.7, rel=1e-6)


def test_nersemble_in_a_world_of_its_own(flame_scene, nersemble_file, tmp_path):
  """Another world and size: one camera among several, a head that is scaled."""
  with np.load(nersemble_file) as file:
    arrays = {name: file[name] for name in file.files}
  turn, shift, scale = readers.rodrigues([0.4, 1.2, -0.3]), np.array([0.3, 2.0, -1.0]), 3.0
  R, t = arrays["rotation_matrices"].astype(np.float64), arrays["translation"].astype(np.float64)
  arrays["rotation_matrices"] = turn @ R
  arrays["translation"] = scale * t @ turn.T + shift
  arrays["scale"] = np.full((1, 1), scale)
  world_to_camera = np.eye(4)
  world_to_camera[:3, :3], world_to_camera[:3, 3] = turn.T, -turn.T @ shift
  f, cx, cy = flame_scene.lens
  K = [[f, 0, cx], [0, f, cy], [0, 0, 1]]
  calibration = {
    "world_2_cam": {"a": np.eye(4).tolist(), "b": world_to_camera.tolist()}, "intrinsics": {"a": K, "b": K},
    "vht_jax_image_size": {"a": SIZE, "b": SIZE},
  }  # fmt: skip
  np.savez(tmp_path / "tracking.npz", **arrays)
  (tmp_path / "camera_params.json").write_text(json.dumps(calibration))
  with pytest.raises(InputError, match=r"several cameras; name one of a, b: .*tracking.npz@a"):
    results.load_tracked(tmp_path / "tracking.npz", flame_scene.model)
  tracked = results.load_tracked(f"{tmp_path}/tracking.npz@b", flame_scene.model)
  scene = make_scene(flame_scene.model, tracked.result, tracked.image_size)
  assert_reprojects(true_pixels(scene), flame_scene)
  del calibration["vht_jax_image_size"]
  calibration["intrinsics"] = {"a": K, "b": [[f, 0, 350.0], [0, f, 256.0], [0, 0, 1]]}
  (tmp_path / "camera_params.json").write_text(json.dumps(calibration))
  with pytest.raises(InputError, match="is not in the middle of the benchmark's images, 512x512 or 1100x1604"):
    results.load_tracked(f"{tmp_path}/tracking.npz@b", flame_scene.model)
  (tmp_path / "camera_params.json").unlink()
  with pytest.raises(InputError, match="put the participant's calibration/camera_params.json beside it"):
    results.load_tracked(f"{tmp_path}/tracking.npz@b", flame_scene.model)


def test_a_frame_in_torchs_newer_form(scene_2020, metrical_folder, tmp_path):
  """A zip with one pickle of NumPy arrays, as `torch.save` writes them today."""
  for path in (metrical_folder / "checkpoint").iterdir():
    content = readers.torch_stream(path.read_bytes())
    number = content.pop("vht_jax_frame")  # theirs are counted by their names, from 0
    _write_zip(tmp_path / f"{number - 1:05d}.frame", content)
  assert_same(results.load_tracked(tmp_path, scene_2020.model), scene_2020)


class _Harm:
  def __reduce__(self):
    return print, ("executed",)


def test_broken_frames(scene_2020, metrical_folder, tmp_path, capsys):
  whole = (metrical_folder / "checkpoint/00000.frame").read_bytes()
  path = tmp_path / "00000.frame"
  harm = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, {"flame": _Harm()}, []))
  lacking = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, {"flame": {}}, []))
  for data, says in (
    (whole[:2000], "not a readable file of torch"),
    (b"nothing", "not a readable file of torch"),
    (harm, "refuses to unpickle"),
    (lacking, "expected a .frame of metrical-tracker"),
  ):
    path.write_bytes(data)
    with pytest.raises(InputError, match=says):
      results.load_tracked(path, scene_2020.model)
  assert "executed" not in capsys.readouterr().out
  content = readers.torch_stream(whole)
  path.write_bytes(whole)
  content["flame"]["shape"] = content["flame"]["shape"] + 1
  _write_zip(tmp_path / "00001.frame", content)
  with pytest.raises(InputError, match="shape differs from that of 00000.frame"):
    results.load_tracked(tmp_path, scene_2020.model)
  content["flame"]["exp"] = np.full((1, 100), np.nan)
  _write_zip(path, content)
  with pytest.raises(InputError, match="exp: expected finite numbers"):
    results.load_tracked(tmp_path, scene_2020.model)


def _write_zip(path, content):
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
    archive.writestr("archive/version", "3\n")


def test_codes_of_another_release_or_head(flame_scene, scene_2020, open_head, vhap_file, metrical_folder):
  with pytest.raises(InputError, match="VHAP's codes are of FLAME 2023; .*another face: name .*--model=flame2023"):
    results.load_tracked(vhap_file, scene_2020.model)
  with pytest.raises(InputError, match="FLAME 2020; on this head, 'open head"):
    results.load_tracked(metrical_folder, open_head)
  with pytest.raises(InputError, match="FLAME's files are needed"):
    results.load_tracked(vhap_file)
  camera_alone = results.load_tracked(vhap_file, open_head, other_head=True)
  assert not camera_alone.verdict.same
  for a, b in zip(jax.tree.leaves(camera_alone.result.identity.camera),
                  jax.tree.leaves(flame_scene.result.identity.camera)):  # fmt: skip
    np.testing.assert_allclose(a, b, atol=CLOSE)


def test_numbers_that_do_not_fit(flame_scene, vhap_file, nersemble_file, tmp_path):
  for file, key, value, says in (
    (vhap_file, "expr", np.zeros((5, 100), np.float32), r"expr: expected shape \(6, any\); found \(5, 100\)"),
    (vhap_file, "translation", np.full((6, 3), np.inf, np.float32), "translation: expected finite numbers"),
    (vhap_file, "vht_jax_lens", np.zeros((6, 3), np.float32), "focal length above 0"),
    (nersemble_file, "scale", np.zeros((1, 1), np.float32), "scale: expected a number above 0"),
    (nersemble_file, "eyes", np.zeros((6, 5), np.float32), r"eyes: expected shape \(6, 6\)"),
  ):
    with np.load(file) as content:
      arrays = {name: content[name] for name in content.files} | {key: value}
    path = file.parent / "broken.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=says):
      results.load_tracked(path, flame_scene.model)
    path.unlink()


def test_wherever_ours_are_opened(flame_head, tmp_path, monkeypatch):
  """The viewer and vht-export, --load_tracked_flame_params: with a FLAME file that the user names."""
  from vht_jax.app import inputs
  from vht_jax.app.options import settings
  from vht_jax.app.result.source import open_result, scene_of

  without_its_landmarks(monkeypatch)
  file = write_flame(tmp_path / "flame2023.pkl", flame_arrays(flame_head))
  head = load_head(file)
  scene = scene_of_head(head)
  export(scene, "vhap", tmp_path / "out")
  path = tmp_path / "out/tracked_flame_params_0.npz"
  (tmp_path / "generic_model.pkl").write_bytes(b"of another release, which comes first")
  assert open_result(str(path), assets=str(tmp_path)).whole_head.name == head.name
  source = open_result(str(path), model=str(file))
  assert source.name == "tracked_flame_params_0" and source.images is None
  assert_same(source.tracked, scene)
  assert_reprojects(true_pixels(scene_of(source)), scene)
  ours = results.vht_npz.tracked_of(source.arrays, path, head)  # what the editor saves
  np.testing.assert_allclose(ours.result.poses.translation, scene.result.poses.translation, atol=CLOSE)
  app, config, _ = settings.parse([f"--load_tracked_flame_params={path}", f"--model={file}", "--video=v.mp4"])
  assert_same(inputs.former_result(app, config, head), scene)
  assert results.read.content(path) == path.read_bytes()
  with pytest.raises(InputError, match="of VHAP, FLAME's files are needed to read it: no head model"):
    open_result(str(path), assets=str(tmp_path / "nothing"))


def test_other_axes_than_frontal(flame_scene):
  """Rotations near half a turn and none keep their way from frame to frame."""
  from vht_jax.results.export.flame_codes.angles import continuous_angles, euler_xyz, from_six, six_numbers

  track = np.array([[0.0, np.pi + 0.2 * s, 0.1 * s] for s in np.linspace(-1, 1, 9)])
  R = np.array([readers.rodrigues(r) for r in track])
  found = continuous_angles(R)
  assert np.linalg.norm(np.diff(found, axis=0), axis=1).max() < 0.2
  np.testing.assert_allclose([readers.rodrigues(r) for r in found], R, atol=1e-12)
  np.testing.assert_allclose(from_six(six_numbers(R)), R, atol=1e-12)
  a, b, c = euler_xyz(R).T
  again = [readers.rodrigues([x, 0, 0]) @ readers.rodrigues([0, y, 0]) @ readers.rodrigues([0, 0, z])
           for x, y, z in zip(a, b, c)]  # fmt: skip
  np.testing.assert_allclose(again, R, atol=1e-12)
  assert not continuous_angles(np.tile(np.eye(3), (3, 1, 1))).any()
