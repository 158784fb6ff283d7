"""The examples of training through the tracker, in short."""

from pathlib import Path

import numpy as np
import pytest
from tiny import quick_jit

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
pytestmark = [pytest.mark.differentiable, pytest.mark.slow]


@pytest.fixture(autouse=True)
def importable(monkeypatch):
  monkeypatch.syspath_prepend(str(EXAMPLES))


def test_weights_are_learned():
  import learn_weights

  out = learn_weights.run(steps=15, n_frames=24, rate=0.2, jit=quick_jit)
  assert out["after"] < 0.99 * out["before"]


def test_defaults_are_learned():
  """On a small head without its mesh; two people to learn from, two who are not seen."""
  import learn_defaults

  from vht_jax.head.load import load_head

  head = load_head(model="open", n_shape=6, n_expr=8, n_texture=1)
  out = learn_defaults.run(
    head, people=2, unseen=2, n_frames=8, steps=4, rate=0.2, learned=("sd_landmark", "sd_expr"), dense=False,
    jit=quick_jit,
  )  # fmt: skip
  assert np.isfinite(out["after"]).all()
  assert min(out["history"]) < 0.99 * out["history"][0]
  assert np.log(out["after"] / out["before"])[:, : learn_defaults.LOWERED].mean() < 0


def test_a_landmark_network_beats_the_bare_tracker():
  import correct_landmarks

  out = correct_landmarks.run(steps=40, n_train=256, n_test=32, jit=quick_jit)
  assert np.isfinite(out["history"]).all()
  assert out["corrected"] < 0.85 * out["uncorrected"]


def test_a_patch_network_is_trained_through_images():
  import refine_by_patches

  out = refine_by_patches.run(jit=quick_jit)
  assert np.isfinite(out["history"]).all()
  assert out["after"] < 0.85 * out["before"]


def test_a_learned_start_halves_the_iterations():
  import amortised_start

  out = amortised_start.run(steps=1000, n_train=4096, n_test=64, jit=quick_jit)
  assert out["affine"] > 2
  assert out["learned"] <= 0.5 * out["affine"]


def test_plot(tmp_path):
  import common
  import cv2

  common.save_plot(tmp_path / "a.png", "title", "x", "y", {"one": ((0, 1, 2), (3, 1, 2)), "two": ((0, 2), (1, 1))})
  picture = cv2.imread(str(tmp_path / "a.png"))
  assert picture.shape == (520, 900, 3) and (picture < 255).any()
