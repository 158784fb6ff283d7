"""What export formats are written from, how they are chosen, refused and written."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from export_clip import FRAMES, SIZE, TIMES, assert_reprojects, assert_wrong, background, make_result, scene_of_head

from vht_jax import cameras, results
from vht_jax.app.result import export_cli
from vht_jax.config import TrackConfig
from vht_jax.errors import InputError
from vht_jax.head import flame
from vht_jax.results.export import FORMATS, OPTIONS, export, make_scene, registry
from vht_jax.results.export.format import Format
from vht_jax.results.export.motion import axis_angles, matrices
from vht_jax.results.export.record import JOURNAL, RECORD, Record
from vht_jax.results.export.scene import from_zero


@pytest.mark.parametrize("which", ["clip_scene", "flame_scene", "clip_with_images"])
def test_a_scene_is_what_the_tracker_sees(which, request):
  scene = request.getfixturevalue(which)
  pixels = np.array([scene.pixels(i) for i in range(len(scene))])
  assert_reprojects(pixels, scene)
  assert_wrong(pixels * [1, -1] + [0, SIZE[0]], scene)


def test_a_camera_that_stands_elsewhere(open_head):
  """Extrinsics are part of the scene's frame."""
  turn = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])
  result = make_result(open_head)
  camera = cameras.make_camera(1.9, (0.46, 0.57), np.diag([-1.0, -1.0, 1.0]) @ turn, (0.1, -0.05, 0.3))
  scene = make_scene(open_head, result.replace(identity=result.identity.replace(camera=camera)), SIZE)
  assert_reprojects([scene.pixels(i) for i in range(len(scene))], scene)


def test_what_a_scene_says(clip_scene, flame_scene, open_head):
  assert not clip_scene.is_flame and flame_scene.is_flame
  assert clip_scene.expr_names == list(open_head.expr_names) and flame_scene.expr_names[3] == "expression_03"
  np.testing.assert_allclose(clip_scene.lens, (950.0, 230.0, 205.2), rtol=1e-6)
  np.testing.assert_allclose(clip_scene.times, TIMES)
  assert clip_scene.angles["eyes"].shape == (6, 6)
  pose, shape = clip_scene.result.poses, clip_scene.result.identity.shape
  np.testing.assert_allclose(clip_scene.joints[2], flame.joints(open_head, shape, pose.expr[2]), atol=1e-6)
  np.testing.assert_allclose(clip_scene.shaped(2), flame.shape_blend(open_head, shape, pose.expr[2]), atol=1e-6)
  moving = dataclasses.replace(clip_scene, intrinsics=clip_scene.intrinsics + np.arange(6)[:, None])
  with pytest.raises(InputError, match="one camera"):
    _ = moving.lens


def test_a_folder_is_opened_with_its_images(clip_with_images):
  assert clip_with_images.name == "clip" and clip_with_images.frame_ids.tolist() == FRAMES.tolist()
  for i, number in enumerate(FRAMES):
    assert tuple(clip_with_images.pictures.rgb(i)[0, 0]) == background(number)
  assert clip_with_images.pictures.alpha(0) is None and clip_with_images.pictures.masks == ""


def test_broken_scenes_are_refused(open_head):
  result = make_result(open_head)
  for times in (TIMES[:-1], TIMES[::-1], np.full(6, np.nan)):
    with pytest.raises(InputError, match="6 rising"):
      make_scene(open_head, result, SIZE, times=times)
  broken = result.replace(poses=result.poses.replace(jaw=result.poses.jaw.at[2, 0].set(jnp.nan)))
  with pytest.raises(InputError, match="finite"):
    make_scene(open_head, broken, SIZE)


def test_every_format_is_what_its_entry_says():
  for name, one in FORMATS.items():
    assert one.name == name == name.lower() and callable(one.load()) and "\n" not in one.help
    assert set(one.options) <= OPTIONS.keys()


def test_the_texture_is_the_albedo_in_the_clips_mean_light(clip_scene):
  """But for the eyes, which `test_appearance` looks at."""
  from vht_jax.head.flame import EYEBALLS
  from vht_jax.results.appearance import _texels
  from vht_jax.results.seams import without_seams

  model = clip_scene.model
  eyes = np.any([np.asarray(model.masks[name]) for name in EYEBALLS], axis=0)
  skin = ~_texels(model, eyes, clip_scene.albedo.shape[:2])

  def lit(*rows):
    light = jnp.zeros((9, 3))
    for row, values in rows:
      light = light.at[row].set(jnp.array(values))
    identity = clip_scene.result.identity.replace(light=light)
    return dataclasses.replace(clip_scene, result=clip_scene.result.replace(identity=identity)).texture[skin]

  albedo = without_seams(model, clip_scene.albedo)[skin]
  one = np.sqrt(4 * np.pi)
  even = lit((0, [one] * 3))
  assert np.abs(even / 255 - albedo).max() < 0.003
  red = lit((0, [1.2 * one, one, one])) / 255
  np.testing.assert_allclose(red[..., 0], np.clip((albedo[..., 0] + 1) * 1.2 - 1, 0, 1), atol=0.003)
  sideways = lit((0, [one] * 3), (1, [0.5] * 3), (2, [0.5] * 3))  # as much on one side as is missing on the other
  assert np.abs(sideways.astype(int) - even).max() <= 1
  facing = lit((0, [one] * 3), (3, [-0.1] * 3))  # from where the camera is
  assert (facing.astype(int) - even).mean() > 3


def test_axis_angles_are_the_inverse_of_matrices():
  rng = np.random.default_rng(0)
  turns = rng.standard_normal((40, 2, 3))
  turns *= rng.uniform(0, np.pi, (40, 2, 1)) / np.linalg.norm(turns, axis=-1, keepdims=True)
  turns[0], turns[1] = 0.0, 1e-12
  np.testing.assert_allclose(axis_angles(matrices(turns)), turns, atol=1e-7)
  np.testing.assert_allclose(axis_angles(matrices(np.array([0.0, np.pi, 0.0]))), [0, np.pi, 0], atol=1e-7)


# --- choosing and refusing -------------------------------------------------------------------------------------------


def two_files(scene, images=False):
  yield "a.txt", b"a"
  yield "sub/b.txt", b"b"


@pytest.fixture
def formats(monkeypatch):
  """Three formats that are only here."""
  here = "test_scene:two_files"
  for one in (Format("many", "", here, folder=True), Format("codes", "", here, flame=True),
              Format("seen", "", here, pictures=True, options=("images",))):  # fmt: skip
    monkeypatch.setitem(registry.FORMATS, one.name, one)


def test_wrong_combinations_are_one_sentence(formats, clip_scene, flame_scene, tmp_path):
  for names, message in (("many,nonsense", "no such export format: 'nonsense'; there are glb"), ("", "no export f"),
                         ("codes", "track with FLAME's files .* or export glb"), ("seen", "--data_path")):  # fmt: skip
    with pytest.raises(InputError, match=message):
      export(clip_scene, names, tmp_path)
  with pytest.raises(InputError, match="--compact has no effect on many; it is for glb"):
    export(clip_scene, "many", tmp_path, compact=True)
  assert not list(tmp_path.iterdir())
  export(flame_scene, "codes", tmp_path)


def test_where_files_go(formats, clip_scene, tmp_path):
  assert export(clip_scene, "many", tmp_path / "one") == [tmp_path / "one"]
  assert (tmp_path / "one" / "sub" / "b.txt").read_bytes() == b"b"
  assert export(clip_scene, "many,glb", tmp_path / "two") == [tmp_path / "two" / "many", tmp_path / "two" / "clip.glb"]
  assert export(clip_scene, "many", tmp_path / "three", apart=True) == [tmp_path / "three" / "many"]


def test_only_what_an_export_wrote_is_replaced(formats, clip_scene, tmp_path, monkeypatch):
  export(clip_scene, "many", tmp_path)
  (tmp_path / "mine.txt").write_text("mine")
  monkeypatch.setattr("test_scene.two_files", lambda scene: iter([("a.txt", b"anew")]))
  export(clip_scene, "many", tmp_path)
  assert (tmp_path / "a.txt").read_bytes() == b"anew" and not (tmp_path / "sub" / "b.txt").exists()
  assert (tmp_path / "mine.txt").exists()
  monkeypatch.setattr("test_scene.two_files", lambda scene: iter([("mine.txt", b"not")]))
  with pytest.raises(InputError, match=r"mine\.txt: is there already"):
    export(clip_scene, "many", tmp_path)
  assert (tmp_path / "mine.txt").read_text() == "mine"
  (tmp_path / RECORD).write_text(json.dumps({"many": ["../outside"]}))
  assert Record(tmp_path).known == {"many": []}


def test_an_export_that_was_killed_or_had_no_room_is_replaced(formats, clip_scene, tmp_path, monkeypatch):
  """What it wrote is known to be an export's, even where nothing could be said at its end."""
  written = []

  def full(path, content):
    if written:
      raise OSError(28, "No space left on device", "a temporary name")
    written.append(path)
    path.write_bytes(content)

  monkeypatch.setattr(registry, "write_atomic", full)
  monkeypatch.setattr("vht_jax.results.export.record.write_atomic", full)
  with pytest.raises(InputError, match=r"cannot be written \(No space left") as error:
    export(clip_scene, "many", tmp_path)
  assert str(tmp_path) in str(error.value) and "temporary" not in str(error.value)
  monkeypatch.undo()
  assert (tmp_path / "a.txt").is_file() and (tmp_path / JOURNAL).is_file() and not (tmp_path / RECORD).exists()
  with (tmp_path / JOURNAL).open("a") as file:
    file.write('["many", "half')
  assert Record(tmp_path).known == {"many": ["a.txt", "sub/b.txt"]}


def test_a_file_is_no_folder(clip_scene, tmp_path):
  with pytest.raises(InputError, match="head.glb: expected a folder to write to, found a file's name"):
    export(clip_scene, "glb", tmp_path / "head.glb")
  (tmp_path / "take.csv").mkdir()  # who has one may use it
  export(clip_scene, "csv", tmp_path / "take.csv")


# --- command line ----------------------------------------------------------------------------------------------------


def test_command_line(clip_folder, tmp_path, capsys):
  npz = str(clip_folder / "tracked_flame_params.npz")
  for i, path in enumerate((str(clip_folder), npz)):
    assert export_cli.main([path, "--to=glb", f"--out={tmp_path / str(i)}", "--compact"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / str(i) / "clip.glb")
  assert (tmp_path / "0" / "clip.glb").read_bytes() == (tmp_path / "1" / "clip.glb").read_bytes()


@pytest.mark.parametrize(
  "argv, message",
  [
    (["--to=glb"], "expected one result; found 0"),
    (["nowhere", "--to=glb"], "nowhere: no such result"),
    (["nowhere", "--to=fbx"], "no such export format: 'fbx'"),
    (["nowhere"], "no export format named"),
    (["nowhere", "--to=glb", "--axis=y"], "unknown flag --axis"),
  ],
)
def test_command_line_errors_are_one_line(argv, message, capsys):
  assert export_cli.main(argv) == 2
  error = capsys.readouterr().err.strip()
  assert message in error and "\n" not in error


def test_what_is_no_result_is_named(clip_folder, tmp_path, capsys):
  video = tmp_path / "clip.mp4"
  video.write_bytes(b"film")
  (tmp_path / "text.npz").write_bytes(b"no archive")
  for argv, message in (
    ([str(video)], "expected the output folder of a run or its tracked_flame_params.npz; .* vht-track clip.mp4"),
    ([str(clip_folder / "dataset")], "found a dataset, that is frames without a result"),
    ([str(tmp_path / "text.npz")], "text.npz: expected an npz file"),
    ([""], "RESULT: expected a value; found nothing"),
    *(([str(clip_folder), f"--{flag}="], f"--{flag}: expected a value; found nothing")
      for flag in ("out", "data_path", "assets", "model", "mask", "size", "crop", "flame_model_path")),
    ([str(clip_folder), f"--model={tmp_path}"], f"--model={tmp_path}: no head model"),
  ):  # fmt: skip
    assert export_cli.main([*argv, "--to=glb"]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and "\n" not in error, error
  assert not (clip_folder / "export").exists()


def test_codes_of_another_head_are_not_exported(clip_folder, flame_head, tmp_path, capsys):
  """FLAME's, ours or another tracker's, on the open head."""
  config = TrackConfig.of(n_shape=300, n_expr=100, n_tex=flame_head.texture_basis.shape[-1])
  results.save_tracked(tmp_path / "a" / results.FILE_NAME, make_result(flame_head), FRAMES, SIZE, config, flame_head)
  export(scene_of_head(flame_head), "vhap", tmp_path / "vhap")
  (vhap,) = (tmp_path / "vhap").glob("tracked_*.npz")
  for path in (tmp_path / "a", vhap):
    assert export_cli.main([str(path), "--to=glb", "--model=open", f"--out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err.strip()
    assert "are another face" in error and "\n" not in error, error
  assert not (tmp_path / "out").exists()


def test_help_lists_every_format_and_option(capsys):
  assert export_cli.main(["--help"]) == 0
  text = capsys.readouterr().out
  assert all(f"  {name} " in text for name in FORMATS) and all(f"--{name}" in text for name in OPTIONS)


# --- from Python -----------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_one_sentence(clip_scene, tmp_path):
  write = lambda formats, scene=clip_scene, **options: export(scene, formats, tmp_path / "out", **options)
  for call, message in (
    (lambda: write(5), "expected names of export formats, as 'glb,csv' or a list; found 5"),
    (lambda: write([1]), "expected names of export formats"),
    (lambda: write("csv", "out/clip"), "expected a scene, .* found str"),
    (lambda: write("csv", size="512"), "--size: expected a whole number; found '512'"),
    (lambda: write("csv", size=True), "--size: expected a whole number"),
    (lambda: write("nerf", images="no"), "--images: expected True or False; found 'no'"),
    (lambda: write("nerf", crop=3), "--crop: expected one of none, head"),
    (lambda: write("csv", foo=1), "foo: no such option of an export"),
  ):
    with pytest.raises(InputError, match=message):
      call()
  assert not (tmp_path / "out").exists()
  write("glb", compact=None)  # as if not given


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"size": (0, 500)}, "size: expected"),
    ({"size": (360, 500, 3)}, "a size of"),
    ({"fps": 0.0}, "fps: expected"),
    ({"fps": float("nan")}, "fps: expected"),
    ({"name": "../clip"}, "name: expected a file name without folders"),
    ({"name": ""}, "name: expected"),
    ({"frame_ids": [1, 2]}, "frame_ids: expected 6 different numbers"),
    ({"frame_ids": [1, 2, 3, 4, 5, 5]}, "frame_ids: expected 6 different numbers"),
    ({"times": [0, 1]}, "times: expected 6 rising"),
    ({"times": "abc"}, "expected numbers for times"),
  ],
)
def test_scenes_of_what_does_not_fit_are_refused(changes, message, open_head, clip_scene):
  arguments = {"model": open_head, "result": clip_scene.result, "size": SIZE} | changes
  with pytest.raises(InputError, match=message) as error:
    make_scene(**arguments)
  assert "\n" not in str(error.value)


def test_a_result_of_another_head_is_no_scene(open_head, small_head, clip_scene):
  with pytest.raises(InputError, match="expected 10 identity and 40 expression codes, .* found 100 and 40"):
    make_scene(small_head, clip_scene.result, SIZE)
  poses = clip_scene.result.poses
  with pytest.raises(InputError, match=r"poses and status of 6 frames; found \[3, 6\]"):
    make_scene(open_head, clip_scene.result.replace(poses=poses.replace(jaw=poses.jaw[:3])), SIZE)


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if one.flame])
def test_codes_of_the_open_head_are_not_handed_to_flame(name, clip_scene):
  """By the functions themselves, too: the open head's file name says no release."""
  scene = make_scene(clip_scene.model, clip_scene.result, (512, 512))  # as some of them want images
  with pytest.raises(InputError, match=f"{name} hands FLAME's codes to a program that has FLAME.* export glb, usda"):
    dict(FORMATS[name].load()(scene))


def test_every_format_has_a_function_of_a_scene(clip_scene):
  import vht_jax.results.export as public

  for name, one in FORMATS.items():
    function = getattr(public, "to_" + name.replace("-", "_"))
    assert function is one.load(), name
    if not one.flame and name != "usdc":
      files = dict(function(clip_scene))
      assert files and all(isinstance(content, bytes) for content in files.values())


@pytest.mark.parametrize(
  "times, n, found",
  [([], 0, "shape"), ([0, 1], 3, "shape"), ([0, np.nan, 2], 3, "nan for frame 2"), ([0, 1, 1], 3, "for frame 3")],
)
def test_times_that_do_not_rise_are_named(times, n, found):
  with pytest.raises(InputError, match=f"x: times: expected {n} rising numbers of seconds; found .*{found}"):
    from_zero("x", np.array(times, float), n)
