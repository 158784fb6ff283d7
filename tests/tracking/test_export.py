"""A tracker in a file, called by a process that has never heard of vht_jax."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import SIZE, clip, quick_jit, tiny_head

from vht_jax.config import TrackConfig, Weights
from vht_jax.errors import InputError
from vht_jax.tracking.pure import compiled, landmarks_only, track_fn

pytestmark = pytest.mark.differentiable

LANDMARKS = TrackConfig(photometric=False)
STRANGER = """
import json, sys
import jax, numpy as np
from jax import export
sys.path[:0] = sys.argv[4:]
if sys.argv[4:]:
  import vht_jax.tracking.pure.compiled
tracker = export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
data = dict(np.load(sys.argv[2]))
lengths = []
for n in (len(data["landmarks"]), 1):
  inputs = {k: v[:n] if k in ("landmarks", "confidence") else v for k, v in data.items()}
  out = tracker.call(inputs)
  lengths.append(out["rotation"].shape[0])
  if n == len(data["landmarks"]):
    np.savez(sys.argv[3], **{k: np.asarray(v) for k, v in out.items()})
strangers = [m for m in sys.modules if m.split(".")[0] in ("vht_jax", "flax", "optax")]
print(json.dumps({"platforms": tracker.platforms, "lengths": lengths, "modules": strangers}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("known_identity", [True, False])
def test_round_trip_through_another_process(open_head, tmp_path, known_identity):
  head = tiny_head(open_head)
  observations, truth = clip(head)
  path, data, out = tmp_path / "tracker.bin", tmp_path / "in.npz", tmp_path / "out.npz"
  exported = compiled.export_tracker(path, head, size=SIZE, known_identity=known_identity)
  assert not exported.disabled_safety_checks  # every custom call in it is one that JAX promises to keep
  inputs = {"landmarks": np.asarray(observations.landmarks), "confidence": np.asarray(observations.confidence)}
  if known_identity:
    i = truth.identity
    inputs |= {"shape": i.shape, "focal": i.camera.focal, "principal": i.camera.principal, "lmk_offset": i.lmk_offset}
  np.savez(data, **{k: np.asarray(v) for k, v in inputs.items()})

  def elsewhere(*package) -> tuple[dict, dict[str, np.ndarray]]:
    command = [sys.executable, "-c", STRANGER, str(path), str(data), str(out), *package]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as file:
      return json.loads(done.stdout), dict(file)

  report, found = elsewhere()
  assert report["platforms"] == ["cpu", "cuda", "tpu"]
  assert report["lengths"] == [3, 1]
  assert report["modules"] == []
  report, known = elsewhere(str(Path(__file__).parents[2]))
  assert "vht_jax" in report["modules"]
  for name, expected in known.items():
    np.testing.assert_array_equal(found[name], expected, err_msg=name)
  # Beside `jit` in this process, where programs are compiled for tests: by other options a fit ends elsewhere within
  # the rounding of its energy, which is 3e-4 of an expression that hardly matters.
  found = compiled.load_tracker(path)(inputs)
  here = quick_jit(compiled.exportable(landmarks_only(head, dense=False), LANDMARKS, Weights(), SIZE))(inputs)
  assert sorted(found) == sorted(here)
  for name in here:
    np.testing.assert_allclose(found[name], here[name], rtol=1e-4, atol=1e-4, err_msg=name)
  if not known_identity:
    direct = quick_jit(lambda o: track_fn(head, o, LANDMARKS, Weights(), size=SIZE))(observations)
    np.testing.assert_allclose(found["translation"], direct.poses.translation, rtol=1e-3)


def test_images_are_not_exported(open_head, tmp_path):
  with pytest.raises(InputError, match="landmarks"):
    compiled.export_tracker(tmp_path / "x", tiny_head(open_head), TrackConfig(), size=SIZE)
