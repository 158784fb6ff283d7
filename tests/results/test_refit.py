"""Codes for another FLAME file, and for CAP4D's head: the vertices stay where they are."""

import dataclasses
import io
import json

import flame_readers as readers
import jax.numpy as jnp
import numpy as np
import pytest
from export_clip import assert_wrong, scene_of_head, true_pixels
from flame_file import N_EXPR, N_SHAPE, flame_arrays, without_its_landmarks, write_flame

from vht_jax.errors import InputError
from vht_jax.head.load import flame_model_from_arrays
from vht_jax.head.load.flame_files import load_flame
from vht_jax.results.export import lbs
from vht_jax.results.export.flame_codes import refit, solve
from vht_jax.results.export.flame_family import FORMATS
from vht_jax.results.export.flame_family.cap4d import KIND

FORMAT = {f.name: f for f in FORMATS}


def written(name, scene, **options):
  return dict(FORMAT[name].load()(scene, **options))


@pytest.fixture(scope="module")
def arrays(flame_head):
  return flame_arrays(flame_head)


@pytest.fixture(scope="module")
def scene(arrays):
  return scene_of_head(flame_model_from_arrays(**arrays, name="FLAME (flame2023.pkl)"))


@pytest.fixture(scope="module")
def other(arrays):
  """The same faces in other codes: turned and mixed components, another mean within them, another place."""
  rng = np.random.default_rng(8)
  turn = lambda n: np.linalg.qr(rng.normal(size=(n, n)))[0].astype(np.float32)
  mean = arrays["v_template"] + arrays["shapedirs"] @ rng.normal(size=N_SHAPE).astype(np.float32)
  return arrays | {
    "v_template": mean + np.float32([0.002, -0.001, 0.003]),
    "shapedirs": arrays["shapedirs"] @ turn(N_SHAPE),
    "exprdirs": arrays["exprdirs"] @ turn(N_EXPR),
  }


@pytest.fixture(scope="module")
def other_file(other, flame_head, tmp_path_factory):
  return write_flame(tmp_path_factory.mktemp("flame") / "generic_model.pkl", other)


@pytest.fixture(autouse=True)
def embedding(monkeypatch):
  without_its_landmarks(monkeypatch)


def test_the_same_faces_in_other_codes(scene, other):
  target = flame_model_from_arrays(**other, name="FLAME (generic_model.pkl)")
  moved, distance = refit.refit(scene, target, 300, 100)
  # Joints follow other vertices than the tracked ones by the other file's place alone, which is a shift.
  assert distance.most < 0.01 and len(distance.frames) == 6
  error = [np.linalg.norm(moved.camera_vertices(i) - scene.camera_vertices(i), axis=1) for i in range(6)]
  assert 1000 * np.max(error) == pytest.approx(distance.most, abs=1e-3)
  assert np.abs(moved.shape - scene.shape).max() > 0.5  # they are other codes


def test_an_export_in_the_codes_of_the_file_that_is_named(scene, other, other_file, caplog):
  caplog.set_level("INFO")
  with pytest.raises(InputError, match="evaluates FLAME 2020"):
    written("metrical", scene)
  still = scene.result.poses.replace(neck=0 * scene.result.poses.neck)
  scene = dataclasses.replace(scene, result=scene.result.replace(poses=still))
  files = written("metrical", scene, flame_model_path=str(other_file))
  found = readers.metrical(files, flame_model_from_arrays(**other))
  head = np.asarray(scene.model.lbs_weights)[:, 0] < 0.5
  assert np.abs(found - true_pixels(scene))[:, head].max() < 0.5
  notes = json.loads(files["vht_jax_notes.json"])
  assert notes["tracked_with"] == "FLAME (flame2023.pkl)" and notes["codes_of"] == "FLAME (generic_model.pkl)"
  assert notes["fitted_anew"]["mean_mm"] < 0.05 and len(notes["fitted_anew"]["frames_mm"]) == 6
  assert "metrical: codes of FLAME (flame2023.pkl) for FLAME (generic_model.pkl), fitted anew on the vertices: off by" \
    in caplog.text  # fmt: skip
  assert_wrong(readers.metrical(files, scene.model), scene)  # they are not codes of the tracked file


def test_codes_are_copied_if_the_file_is_the_tracked_one(scene, arrays, tmp_path):
  named = write_flame(tmp_path / "flame2023.pkl", arrays)
  files = written("nersemble", scene, flame_model_path=str(named))
  assert "fitted_anew" not in json.loads(files["vht_jax_notes.json"])
  found = readers.nersemble(files, scene.model)
  assert np.abs(found - true_pixels(scene)).max() < 0.02


def test_codes_beyond_those_that_are_read(scene, other):
  """With more components than IMavatar reads, its own are fitted to what they all make."""
  spread = np.zeros((*other["exprdirs"].shape[:2], 60), np.float32)
  spread[..., ::5] = other["exprdirs"]  # two of twelve are beyond the fiftieth
  tracked = scene_of_head(flame_model_from_arrays(**(other | {"exprdirs": spread}), name="FLAME (generic_model.pkl)"))
  square = dataclasses.replace(tracked, size=(500, 500))
  files = written("imavatar", square)
  notes = json.loads(files["vht_jax_notes.json"])["fitted_anew"]
  cut = dataclasses.replace(
    tracked, result=tracked.result.replace(
      poses=tracked.result.poses.replace(expr=tracked.result.poses.expr.at[:, 50:].set(0.0))
    )
  )  # fmt: skip
  simply = [np.linalg.norm(cut.camera_vertices(i) - tracked.camera_vertices(i), axis=1).mean() for i in range(6)]
  assert 0 < notes["mean_mm"] < 0.95 * 1000 * np.mean(simply)
  found = readers.imavatar(files, tracked.model, 500)
  truth = np.array([square.pixels(i) for i in range(6)])
  assert np.abs(found - truth).max() < 1.2 * notes["most_mm"] / 1000 * tracked.lens.f / 0.7


def test_what_is_no_flame_file(scene, arrays, tmp_path):
  with pytest.raises(InputError, match="nothing.pkl: expected the FLAME pickle .* found no such file"):
    written("nersemble", scene, flame_model_path=str(tmp_path / "nothing.pkl"))
  small = arrays | {
    name: arrays[name][:4000] for name in ("v_template", "shapedirs", "exprdirs", "posedirs", "weights")
  }
  small |= {"faces": arrays["faces"][(arrays["faces"] < 4000).all(1)], "J_regressor": np.full((5, 4000), 1 / 4000)}
  path = write_flame(tmp_path / "flame2023.pkl", small)
  with pytest.raises(InputError, match="expected FLAME's mesh of 5023 vertices; found 4000"):
    written("nersemble", scene, flame_model_path=str(path))


def test_cap4d_finds_a_head_of_its_own_kind(arrays):
  """Vertices made by CAP4D's function, by the second reader, are found again."""
  model = flame_model_from_arrays(**arrays)
  rng = np.random.default_rng(4)
  n_expr = N_EXPR
  head = lbs.head_of(model, N_SHAPE, n_expr)
  shape, expr = rng.normal(size=N_SHAPE), 0.3 * np.abs(rng.normal(size=n_expr))
  angles = {k: 0.2 * rng.normal(size=3) for k in ("rot", "neck_rot", "eye_rot")}
  truth = {
    "shape": np.zeros(150), "expr": np.zeros((1, 65)), "tra": np.array([[0.05, -0.03, -0.9]]),
    "fx": [[900.0]], "fy": [[900.0]], "cx": [[200.0]], "cy": [[150.0]], "extr": np.eye(4)[None],
    **{k: v[None] for k, v in angles.items()},
  }  # fmt: skip
  truth["shape"][:N_SHAPE], truth["expr"][0, :n_expr] = shape, expr
  data = io.BytesIO()
  np.savez(data, **truth)
  wanted = readers.cap4d({"fit.npz": data.getvalue()}, model)[1][0]
  eye = np.tile(np.eye(3), (5, 1, 1))
  start = solve.Frame(np.zeros(n_expr), np.diag([1.0, -1, -1]), wanted.mean(0), eye)
  weights = np.ones(len(wanted))
  for _ in range(3):  # from far: more steps than from a tracked pose
    start = solve.fit_frame(KIND, head, shape, wanted, weights, start)
  found = solve.vertices(KIND, head, shape, start)
  assert 1000 * np.abs(found - wanted).max() < 0.01
  np.testing.assert_allclose(start.joints[0], readers.rodrigues(angles["neck_rot"]), atol=1e-3)
  np.testing.assert_allclose(start.joints[3], readers.rodrigues(angles["eye_rot"]), atol=1e-3)
  np.testing.assert_allclose(start.rotation, np.diag([1, -1, -1]) @ readers.rodrigues(angles["rot"]), atol=1e-4)


def test_cap4d_export(arrays, tmp_path):
  """The file says what the fit found: its pixels are ours as far as the notes say, and not with a mistake."""
  without_jaw = write_flame(tmp_path / "flame2023_no_jaw.pkl", arrays)
  scene = scene_of_head(flame_model_from_arrays(**arrays, name="FLAME (flame2023.pkl)"))
  poses = scene.result.poses  # the jaw's motion is in that file's expressions, which the stand-in has not
  eyes = jnp.broadcast_to(poses.eyes[:, :1], poses.eyes.shape)
  scene = dataclasses.replace(scene, result=scene.result.replace(poses=poses.replace(jaw=0 * poses.jaw, eyes=eyes)))
  files = written("cap4d", scene, flame_model_path=str(without_jaw))
  model = load_flame(without_jaw, [tmp_path], None, None, 0)
  notes = json.loads(files["vht_jax_notes.json"])["fitted_anew"]
  head = np.asarray(arrays["weights"])[:, 0] < 0.4
  pixels, points = readers.cap4d(files, model)
  truth = np.array([scene.camera_vertices(i) for i in range(6)])
  off = 1000 * np.linalg.norm(points - truth, axis=-1)[:, head]
  assert off.mean() == pytest.approx(notes["mean_mm"], rel=0.1) and notes["mean_mm"] < 1.5
  assert np.abs(pixels - true_pixels(scene))[:, head].mean() < 2.0
  for wrong in ("transposed", "axis", "cy"):
    assert_wrong(readers.cap4d(files, model, wrong)[0][:, head], scene, np.flatnonzero(head))
