"""The .ini files and flags: VHT's own files, both ways, precedence, and what a wrong key or value says."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vht_jax.app.options import manual, settings
from vht_jax.app.options.app_config import ALL, AppConfig
from vht_jax.app.options.ini import PACKAGE, cast, spelled
from vht_jax.config import Adam, Data, GaussNewton, Landmarks, TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.option import get, having, values

# The keys and values of VHT's configs/tracking_person_0004.ini (facts; its comments and layout are not copied).
VHT_INI = """
[dataset]
data_path = DATA_PATH
tracking_resolution = [512,512]
[model]
n_shape = 300
n_expr = 100
n_tex = 100
tex_res = 512
[training]
device = cuda
output_path = OUTPUT_PATH
calibrated = false
ignore_lower_neck = true
img_log_freq = 50
energy_log_freq = 5
keyframes = [137, 339, 521, 613, 581]
[hyper params]
init_steps = 400
steps_per_frame = 10
sub_steps = 5
lr = 0.005
pos_lr = 0.001
light_lr = 0.005
cam_lr = 0.005

blur_sigma = [10, 1e-4]
sampling_scale = 4
# loss weights
w_lmk = 5
w_eyes_sym = 10
w_eyes_lmk = 2
w_photo = 30
w_expr_reg = 1e-3
w_shape_reg = 1e-3
w_tex_reg = 1e-3
w_pos_glob = 1e-2
w_pos_neck = 1e-2
w_pos_jaw = 1e-4
w_pos_eyes = 1e-4
w_pos_trans = 10
"""

# What VHT's config.ini looks like: str() of Python values and no section.
VHT_OUTPUT = """calibrated = False
load_tracked_flame_params = None
lr = 0.005
blur_sigma = [10.0, 0.0001]
sampling_scale = 4.0
ignore_lower_neck = True
output_path = results/0004
save_period = 1
device = cpu
keyframes = [2]
cutframes = ()
frame_rate = 30
config = configs/tracking_person_0004.ini
video = None
tracking_resolution = [512, 512]
"""


def write(tmp_path, text, name="a.ini"):
  path = tmp_path / name
  path.write_text(text)
  return str(path)


def test_vht_config_is_read_as_it_is(tmp_path):
  app, track, weights = settings.parse([f"--config={write(tmp_path, VHT_INI)}"])
  assert app.input.data_path == "DATA_PATH" and app.machine.device == "cuda"
  assert track.data.tracking_resolution == (512, 512)
  assert track.data.keyframes == (137, 339, 521, 613, 581)
  assert track.adam.blur_sigma == (10.0, 1e-4) and track.adam.sampling_scale == 4.0
  assert not track.camera.calibrated and track.components.ignore_lower_neck
  assert weights.w_pos_jaw == 1e-4 and weights.w_pos_trans == 10.0


def test_vht_preset_has_every_number_of_vht(tmp_path):
  vht = settings.read_ini(write(tmp_path, VHT_INI))
  preset = settings.read_ini("vht")
  paths_and_clip = {"data_path", "output_path", "device", "keyframes"}
  assert {k: v for k, v in vht.items() if k not in paths_and_clip} == {k: preset[k] for k in vht if k in preset}
  assert set(vht) - set(preset) == paths_and_clip
  assert preset["schedule"] == "sequential" and preset["init"] == "calibration"


def test_headerless_file_with_python_values(tmp_path):
  values = settings.read_ini(write(tmp_path, VHT_OUTPUT))
  assert values["video"] is None and values["load_tracked_flame_params"] is None
  assert values["keyframes"] == (2,) and values["cutframes"] == ()
  assert values["calibrated"] is False and values["frame_rate"] == 30.0


def test_default_preset_is_the_defaults():
  values = settings.read_ini("default")
  assert settings.make_settings(values) == settings.make_settings({}), (
    "configs/default.ini is out of date: run `make configs`"
  )


def test_flags_win_over_ini_and_ini_over_defaults(tmp_path):
  ini = write(tmp_path, "w_lmk = 7\nn_shape = 50\noverlay = false\nfocal = 1.5\n")
  app, track, weights = settings.parse([f"--config={ini}", "--n_shape=20", "--overlay", "--noignore_lower_neck"])
  assert weights.w_lmk == 7.0 and track.components.n_shape == 20 and app.output.overlay
  assert not track.components.ignore_lower_neck
  assert track.camera.focal == 1.5 and weights.w_photo == Weights().w_photo
  assert settings.parse([f"--config={ini}", "--fov=90"]).track.camera.focal == pytest.approx(0.5)


@pytest.mark.parametrize(
  "argv",
  [
    ["--keyframes", "3", "1", "2", "--n_shape=5"],
    ["--keyframes=3,1,2", "--n_shape", "5"],
    ["--keyframes=[3, 1, 2]", "--n_shape=5"],
    ["-keyframes", "3,1", "2", "--n_shape", "5"],
  ],
)
def test_lists_in_vhts_spelling_and_absls(argv):
  lists = ["--tracking_resolution", "360", "640", "--blur_sigma", "10", "1e-4"]
  track = settings.parse([*argv, *lists, "--solver=adam"]).track
  assert track.data.keyframes == (3, 1, 2) and track.components.n_shape == 5
  assert track.data.tracking_resolution == (360, 640) and track.adam.blur_sigma == (10.0, 1e-4)


def test_inputs_without_a_flag(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ("a.mp4", "b.mp4", "b.mov", "x/b.mp4", "y/b.mp4"):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
  one = settings.parse(["--keyframes", "1", "2", "a.mp4", "-o", "results", "-q"])
  assert one.app.input.video == "a.mp4" and one.app.output.output_path == "results" and one.app.output.quiet
  assert one.track.data.keyframes == (1, 2)
  found = [s.app for s in settings.parse_all(["*.mp4", "b.mov", "a.mp4", "--fov=40"])]
  assert [app.input.video for app in found] == ["a.mp4", "b.mp4", "b.mov"]
  assert [Path(app.output.output_path) for app in found] == [Path("out/a"), Path("out/b_mp4"), Path("out/b_mov")]
  found = [s.app.output.output_path for s in settings.parse_all(["x/b.mp4", "y/b.mp4", "b.mp4", "-o", "there"])]
  assert len(set(found)) == 3 and "there/x_b_mp4" in found
  with pytest.raises(InputError, match="--data_path is one clip's"):
    settings.parse_all(["a.mp4", "b.mp4", "--data_path=d"])


def test_empty_list():
  assert settings.parse(["--keyframes", "--cutframes", "4"]).track == TrackConfig.of(cutframes=(4,))


@pytest.mark.faults
@pytest.mark.parametrize(
  "text, message",
  [
    ("w_lmk = 5\nkeyframe = [1]\n", r"a\.ini:2: unknown key 'keyframe'; did you mean 'keyframes'\?"),
    ("n_shape = many\n", r"a\.ini:1: n_shape: expected a whole number; found 'many'"),
    ("blur_sigma = [1]\n", r"a\.ini:1: blur_sigma: expected 2 values .*; found"),
    ("device = banana\n", "device: expected one of auto, cpu, gpu, tpu; found 'banana'"),
    ("calibrated = maybe\n", "expected true or false"),
    ("just words\n", r"a\.ini:1: expected 'key = value'; found 'just words'"),
    ("schedule = parallel\n", "schedule: expected one of batched, joint, sequential; found 'parallel'"),
    ("# steps\nsub_steps = 0\n", r"a\.ini:2: sub_steps: expected at least 1; found 0"),
    ("w_lmk = -1\n", "w_lmk: expected no negative number"),
    ("w_lmk = nan\n", "w_lmk: expected a finite number"),
    ("downscale_factor = 0\n", "downscale_factor: expected a positive number"),
    ("tracking_resolution = [0, 512]\n", "tracking_resolution: expected at least 16 px; found .0, 512."),
    ("calibrated = true\n", "calibrated: the focal length must be given"),
    ("fov = 200\n", "fov: expected 1.5 to 160 degrees"),
    ("keyframes = [-1]\n", "keyframes: expected no negative number"),
    ("focal = 1200\n", "focal: 1200 longer image sides.*write --focal=1200px.*--focal=1200mm"),
    ("focal = 35\n", "field of view of 1.6 degrees.*--focal=35mm"),
    ("focal = 0.01\n", "focal: 0.01 longer image sides is a field of view of 178 degrees"),
    ("focal = 12in\n", r"a\.ini:1: focal: expected a number .*1200px.*28mm.*; found '12in'"),
    ("focal = px\n", r"a\.ini:1: focal: expected a number .*1200px.*28mm.*; found 'px'"),
    ("fov = 0.7\n", "fov: expected 1.5 to 160.*if it is in radians give --fov=40.1"),
    ("fov = 175\n", "fov: expected 1.5 to 160"),
    ("frame_rate = -1\n", "frame_rate: expected no negative number"),
    ("frame_rate = 25000\n", "frame_rate: expected at most 1000"),
    ("max_frames = -3\n", "max_frames: expected no negative number"),
    ("n_keyframes = 0\n", "n_keyframes: expected at least 1"),
    ("crop_size = 4\n", "crop_size: expected at least 32 px"),
    ("sd_expr = 0\n", "sd_expr: expected a positive number"),
    ("tracking_resolution = [8, 512]\n", "at least 16 px"),
    ("focal = 1.2\nfocal_px = 1200\n", "give --focal or --focal_px, not both"),
  ],
)
def test_bad_files_say_one_clear_line(tmp_path, text, message):
  with pytest.raises(InputError, match=message) as error:
    settings.parse([f"--config={write(tmp_path, text)}"])
  assert "\n" not in str(error.value)


@pytest.mark.faults
@pytest.mark.parametrize(
  "argv, message",
  [
    (["--keyframe=1"], "unknown flag --keyframe; did you mean 'keyframes'"),
    (["a.mp4", "--video=b.mp4"], "unexpected argument 'a.mp4' beside --video=b.mp4"),
    (["a.mp4", "b.mp4"], "expected one input; found 2"),
    (["nothing/*.mp4"], "nothing matches"),
    (["--video"], "Missing value"),
    (["--w_lmk=x"], "--w_lmk: expected a number; found 'x'"),
    (["--config=nowhere.ini"], "nowhere.ini: no such config file"),
    (["--overlay=perhaps"], "overlay"),
    (
      ["--overlay", "perhaps"],
      "perhaps: no such input; if it is a value of --overlay, write --overlay=perhaps .one of",
    ),
    (["--fov=40", "--focal=1"], "not both"),
    (["--fov=40", "--focal=1200px"], "not both"),
    (["--focal=1200cm"], "--focal: expected a number .*1200px.*; found '1200cm'"),
  ],
)
def test_bad_command_lines_say_one_clear_line(argv, message):
  with pytest.raises(InputError, match=message) as error:
    settings.parse(argv)
  assert "\n" not in str(error.value)


@pytest.mark.faults
def test_binary_config(tmp_path):
  path = tmp_path / "a.ini"
  path.write_bytes(bytes(range(256)))
  with pytest.raises(InputError, match="expected an .ini text file"):
    settings.read_ini(path)
  with pytest.raises(InputError, match="cannot be read"):
    settings.read_ini(tmp_path)


def test_written_file_reads_back_to_the_same(tmp_path):
  argv = "--keyframes 1 2 --fov=40 --sd_expr=0.125 --noignore_lower_neck --max_frames=8 --tracking_resolution=64,48"
  written = settings.parse([*argv.split(), "--video=/a #1/it's; [x].mp4", "--output_path=~/o ut"])
  settings.write_ini(tmp_path / "config.ini", written)
  assert settings.make_settings(settings.read_ini(tmp_path / "config.ini")) == written


paths = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="\"'") | st.just(" "))


@given(
  path=paths.map(str.strip).filter(lambda t: t not in ("", "None", "none")),
  rate=st.floats(0, 1e30, allow_subnormal=False),
  frames=st.lists(st.integers(0, 10**9)).map(tuple),
)
def test_any_value_reads_back(tmp_path_factory, path, rate, frames):
  values = {"video": path, "lr": rate, "keyframes": frames, "blur_sigma": (rate, 0.0)}
  file = tmp_path_factory.getbasetemp() / "any.ini"
  settings.write_ini(file, settings.make_settings(values))
  assert settings.make_settings(settings.read_ini(file)) == settings.make_settings(values)


@pytest.mark.parametrize(
  ("text", "expected"),
  [("1200px", (0.0, 1200.0, 0.0)), ("28mm", (0.0, 0.0, 28.0)), ("27.5 mm", (0.0, 0.0, 27.5)), ("1.3", (1.3, 0.0, 0.0))],
)
def test_focal_lengths_have_units(tmp_path, text, expected):
  """As flags, in files, and through the file that a run writes; a flag replaces the file's in any unit."""
  ini = write(tmp_path, f"focal = {text}  # of the lens\n")
  other = write(tmp_path, "fov = 50", "b.ini")
  for argv in ([f"--focal={text}"], [f"--config={ini}"], [f"--config={other}", f"--focal={text}"]):
    app, track, _ = found = settings.parse([*argv, "--calibrated"])
    assert (track.camera.focal, app.lens.focal_px, app.lens.focal_35mm) == expected
  settings.write_ini(tmp_path / "c.ini", found)
  assert settings.make_settings(settings.read_ini(tmp_path / "c.ini"))[1:] == found[1:]
  app, track, _ = settings.parse([f"--config={ini}", "--fov=90"])
  assert (track.camera.focal, app.lens.focal_px, app.lens.focal_35mm) == (pytest.approx(0.5), 0.0, 0.0)


def test_every_key_is_explained():
  full, usual = manual.usage(full=True), manual.usage()
  for key, option in ALL.items():
    listed = [bool(re.search(rf"^  --(\[no\])?{key}\b", text, re.MULTILINE)) for text in (full, usual)]
    assert option.facts.help and listed == [True, option.facts.usual], key
  assert len(usual) < 0.5 * len(full) and "--helpfull" in usual


def test_keys_are_unique_over_all_sections():
  counted = []

  def walk(kind):
    for field in dataclasses.fields(kind):
      if "facts" in field.metadata:
        counted.append(field.name)
      else:
        walk(type(field.default))

  for kind in (AppConfig, TrackConfig, Weights):
    walk(kind)
  assert len(counted) == len(set(counted)) == len(ALL)


def test_every_default_is_of_its_type_and_in_its_range():
  for key, option in ALL.items():
    option.check(option.default)
    assert cast(option, spelled(option.default), key) == option.default
    assert isinstance(option.default, typing.get_origin(option.plain_kind) or option.plain_kind) or option.optional
    assert all(other in ALL for other in (option.facts.needs, option.facts.unless) if other)
    assert option.facts.role in ("result", "report", "run")
    if option.owner is Weights:
      assert option.facts.source and option.method in (Adam, GaussNewton, Landmarks), key


def test_flags_are_typed():
  """What absl hands out is the value, not its text; a switch is a switch."""
  parsed = settings._flags()
  parsed(["vht-track", "--n_shape=20", "--blur_sigma=3,1", "--w_lmk=2", "--nosmooth", "--focal=1200px"])
  found = {key: parsed[key].value for key in ("n_shape", "blur_sigma", "w_lmk", "smooth", "focal", "n_expr")}
  assert found == {
    "n_shape": {"n_shape": 20}, "blur_sigma": {"blur_sigma": (3.0, 1.0)}, "w_lmk": {"w_lmk": 2.0}, "smooth": False,
    "focal": {"focal_px": 1200.0}, "n_expr": None,
  }  # fmt: skip


def test_written_documents_are_up_to_date(tmp_path):
  assert (settings.packaged("docs") / "settings.md").read_text(encoding="utf-8") == manual.page(), "run `make configs`"
  settings.write_ini(tmp_path / "default.ini", settings.make_settings({}))
  written = (tmp_path / "default.ini").read_text()
  assert settings.packaged("configs/default.ini").read_text() == written, "run `make configs`"
  for key, option in ALL.items():
    assert f"`{key}`" in manual.page() and option.facts.help.replace("|", "\\|") in manual.page()


def test_settings_are_changed_by_key_in_whichever_section():
  config = TrackConfig.of(solver="adam", init_steps=7, keyframes=(1, 2))
  assert config == TrackConfig(solver="adam", adam=Adam(init_steps=7), data=Data(keyframes=(1, 2)))
  assert having(config, init_steps=8).adam == Adam(init_steps=8) and config.adam.init_steps == 7
  assert values(config) | {"init_steps": 60, "solver": "gn", "keyframes": ()} == values(TrackConfig())
  with pytest.raises(TypeError, match="no setting 'init_step'"):
    TrackConfig.of(init_step=3)


def test_fields_keep_their_types():
  track = settings.parse(["--config=vht"]).track
  for key, default in values(TrackConfig()).items():
    if default is not None:
      assert type(get(track, key)) is type(default), key
  assert hash(track) == hash(settings.parse(["--config=vht"]).track)


# --- flags without an effect ---


@pytest.mark.faults
@pytest.mark.parametrize(
  "argv, message",
  [
    (["--lr=0.01"], "--lr has no effect with Gauss-Newton .*--solver=adam"),
    (["--w_photo=3", "--solver=gn"], "--w_photo has no effect with Gauss-Newton"),
    (["--init=calibration"], "--init has no effect with Gauss-Newton"),
    (["--n_samples=50", "--solver=adam"], "--n_samples has no effect with --solver=adam: it belongs to Gauss-Newton"),
    (["--sd_expr=1", "--config=vht"], "--sd_expr has no effect with --init=calibration"),
    (["--smooth", "--solver=adam"], "--smooth has no effect"),
    (["--solver=adam", "--nophotometric"], "--solver has no effect without images"),
    (["--crop_size=64", "--nophotometric"], "--crop_size has no effect without images"),
    (["--batch_size=2", "--schedule=sequential"], "--batch_size has no effect with --schedule=sequential"),
    (["--n_keyframes=3", "--load_tracked_flame_params=x.npz"], "--n_keyframes has no effect with --load_tracked"),
    (["--allow_other_head"], "--allow_other_head has no effect without --load_tracked_flame_params"),
    (["--shape_from=x.npz", "--solver=adam"], "--shape_from has no effect with --solver=adam"),
    (["--shape_from=x.npz", "--load_tracked_flame_params=y.npz"], "--shape_from has no effect beside"),
    (["--downscale_factor=2", "--tracking_resolution=64,64"], "--downscale_factor has no effect"),
    (["--frame_rate=5", "--nooverlay"], "--frame_rate has no effect"),
    (["--energy_log_freq=5"], "--energy_log_freq has no effect without --tensorboard"),
    (["--face_landmarker=x.task", "--landmarks=mediapipe"], "--face_landmarker has no effect"),
  ],
)
def test_a_flag_without_an_effect_is_refused(argv, message):
  with pytest.raises(InputError, match=message) as error:
    settings.parse(argv)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("argv", [
  ["--solver=adam", "--lr=0.01", "--w_photo=3"],
  ["--config=vht", "--init_steps=5", "--batch_size=8", "--schedule=batched"],
  ["--n_samples=50", "--sd_color=0.1"], ["--nosmooth", "--solver=adam"], ["--init=landmarks"],
  ["--nophotometric", "--sd_expr=1", "--n_calibration_frames=9", "--keyframes=3"],
  ["--load_tracked_flame_params=x.npz", "--allow_other_head", "--n_keyframes=3"], ["--frame_rate=5"],
])  # fmt: skip
def test_flags_with_an_effect_are_not(argv):
  settings.parse(argv)


def test_files_hold_the_numbers_of_every_method(tmp_path, caplog):
  """VHT's, which are Adam's, with our solver, and our own, which are of both."""
  settings.parse([f"--config={write(tmp_path, VHT_INI)}"])
  settings.write_ini(tmp_path / "all.ini", settings.make_settings({"solver": "adam"}))
  settings.parse([f"--config={tmp_path / 'all.ini'}"])
  assert caplog.text == ""
  settings.parse(["--save_period=5", "--tex_res=256"])
  assert caplog.text.count("read and ignored") == 2


def test_every_key_is_read_somewhere():
  """A field that no module but the settings mentions does nothing; VHT's that are ignored say so in --help."""
  sources = [p for p in PACKAGE.rglob("*.py") if p.parent.name != "options" and p.name != "config.py"]
  text = "\n".join(p.read_text() for p in [*sources, PACKAGE / "app" / "options" / "lens.py"])
  read_in_settings = {"config", "fov", "debug", "calibrated"}
  for key in set(ALL) - read_in_settings:
    said = "ignored" in ALL[key].text or "unused" in ALL[key].text
    assert said == ALL[key].facts.ignored, key
    assert bool(re.search(rf"\.{key}\b", text)) != said, key


def test_calibrated_takes_the_camera_of_a_loaded_result():
  assert settings.parse(["--calibrated", "--load_tracked_flame_params=x.npz"]).track.camera.calibrated
