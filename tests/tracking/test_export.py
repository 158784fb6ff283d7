"""A tracker in a file, called by a process that has never heard of vht_jax."""

import json
import subprocess
import sys

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
  command = [sys.executable, "-c", STRANGER, str(path), str(data), str(out)]
  done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout)
  assert report["platforms"] == ["cpu", "cuda", "tpu"]
  assert report["lengths"] == [3, 1]
  assert report["modules"] == []
  found = np.load(out)
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
