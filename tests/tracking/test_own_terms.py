"""The term of CONTRIBUTING.md, as it stands there, in every fit that takes terms."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_colour_gradients import CONFIG, SIZE, seen_clip
from tiny import SIZE as LARGER
from tiny import clip, quick_jit, tiny_head

import vht_jax as vht
from vht_jax import cameras
from vht_jax.config import TrackConfig, Weights
from vht_jax.fit import observed
from vht_jax.fit.solvers.adjoint import Unrolled
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.tracking.pure import landmarks_only

NOSE = 30
GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def nose_term(head):
  code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
  names = {"__name__": "guide"}
  exec(code, names)
  return names["NoseTip"](pts.only([NOSE], observed.landmark_model(head, Weights()).points))


def nose_of(head, identity, pose, size=SIZE):
  """(2,) px."""
  point = flame.landmarks(head, flame.skin(head, identity.shape, pose))[NOSE]
  return cameras.project(identity.camera, point[None], size)[0, :2]


def place(pixel, size=SIZE):
  return (pixel - jnp.array([size[1] / 2, size[0] / 2])) / max(size)


@pytest.fixture(scope="module")
def seen(open_head):
  head, observations, truth = seen_clip(open_head, np.float32)
  wanted = jax.vmap(lambda pose: nose_of(head, truth.identity, pose))(truth.poses) + jnp.array([[0.6, -0.4]])
  return head, observations, truth, wanted


def test_a_term_moves_the_nose_of_a_person_who_is_known(open_head):
  head = landmarks_only(tiny_head(open_head), dense=False)
  observations, truth = clip(head)
  one, pose = jax.tree.map(lambda a: a[0], (observations, truth.poses))
  term, config = nose_term(head), TrackConfig(photometric=False)

  @quick_jit
  def nose(sd):
    wanted = nose_of(head, truth.identity, pose, LARGER) + jnp.array([1.2, -0.8])
    terms = [(term.replace(sd=sd), place(wanted, LARGER))]
    found, _ = vht.fit_frame(head, one, truth.identity, config, Weights(), size=LARGER, terms=terms, adjoint=Unrolled())
    return nose_of(head, truth.identity, found, LARGER) - wanted

  assert np.abs(nose(jnp.float32(1e6))).max() > 0.6, "it says nothing"
  np.testing.assert_allclose(nose(jnp.float32(1e-4)), 0.0, atol=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True])
def test_a_term_moves_the_nose_in_all_stages_of_a_fit_of_images(seen, known):
  head, observations, truth, wanted = seen
  term = nose_term(head)

  @quick_jit
  def noses(sd):
    terms = [(term.replace(sd=sd), jax.vmap(place)(wanted))]
    result = vht.track_fn(head, observations, CONFIG, Weights(), truth if known else None, terms=terms)
    return jax.vmap(lambda pose: nose_of(head, result.identity, pose))(result.poses)

  there = np.array([0, 2])  # the second frame is not valid
  assert np.abs(noses(jnp.float32(1e6)) - wanted)[there].max() > 0.3, "it says nothing"
  np.testing.assert_allclose(noses(jnp.float32(1e-4))[there], wanted[there], atol=0.05)
