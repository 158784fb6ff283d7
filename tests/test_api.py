"""The package's front door."""

import subprocess
import sys

import vht_jax


def test_every_public_name_resolves():
  for name in vht_jax.__all__:
    assert getattr(vht_jax, name) is not None


def test_importing_the_core_needs_neither_opencv_nor_mediapipe():
  code = (
    "import sys, vht_jax, vht_jax.tracking.pipeline, vht_jax.render.picture, vht_jax.results;"
    "print([m for m in ('cv2', 'mediapipe', 'av', 'torch', 'tensorboardX') if m in sys.modules])"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"
