"""With `--offsets` the neck's rim goes down to below the throat and out to the shoulders, if there are any."""

import cv2
import numpy as np
import pytest
from test_offsets import SIZE, Masked, having, normals_of, scene, tracked  # noqa: F401

from vht_jax.head import flame
from vht_jax.masks import silhouette
from vht_jax.results.export.scene import make_scene
from vht_jax.results.offsets import with_offsets
from vht_jax.results.offsets.bust import bust_of
from vht_jax.results.offsets.views import make_view

SLOPE = 0.45  # of the shoulders


@pytest.fixture(scope="module")
def bare(small_head, scene):  # noqa: F811
  """Masks of heads alone."""
  screens = [np.concatenate([scene.pixels(i), scene.camera_vertices(i)[:, 2:]], 1) for i in range(len(scene))]
  return [silhouette(screen, np.asarray(small_head.faces), SIZE) for screen in screens]


@pytest.fixture(scope="module")
def clothed(small_head, scene, bare):  # noqa: F811
  """The same with shoulders that fall to both sides from where the neck ends, and stay while the head turns."""
  found = []
  for i, mask in enumerate(bare):
    low = scene.pixels(i)[np.asarray(small_head.masks["boundary"])]
    x, y, far = low[:, 0].mean(), low[:, 1].min() - 10, float(SIZE[1])
    outline = [(x, y), (x + far, y + SLOPE * far), (x + far, 2 * far), (x - far, 2 * far), (x - far, y + SLOPE * far)]
    found.append(cv2.fillPoly(mask.copy(), [np.round(outline).astype(np.int32)], 255))
  return found


def test_the_rim_comes_to_lie_below_the_throat(small_head):
  share, down = bust_of(small_head)
  v = np.asarray(small_head.v_template)
  rim = np.asarray(small_head.masks["boundary"])
  assert share[rim].min() > 0.99 and np.ptp((v + down)[rim, 1]) < 1e-3
  assert (down[rim, 1] < 0).all() and (v + down)[rim, 1].max() < v[:, 1].min()
  for name in ("face", "scalp", "left_ear"):
    assert (share[np.asarray(small_head.masks[name])] == 0).all(), name
  assert (down[share == 0] == 0).all()


def test_a_bust_spreads_to_the_shoulders(small_head, tracked, scene, clothed):  # noqa: F811
  offset = np.asarray(with_offsets(small_head, Masked(clothed), tracked).identity.static_offset)
  person = make_scene(small_head, having(tracked, offset), SIZE)
  both = {"codes": [], "offsets": []}
  for i, mask in enumerate(clothed):
    known = make_view(scene, i, mask)
    size = known.known.shape
    for name, head in (("codes", scene), ("offsets", person)):
      pixels = (head.pixels(i) - known.origin) * known.scale
      screen = np.concatenate([pixels, head.camera_vertices(i)[:, 2:]], 1)
      ours, theirs = (m & known.known for m in (silhouette(screen, small_head.faces, size) > 127, known.matte > 0.5))
      both[name].append((ours & theirs).sum() / (ours | theirs).sum())
  before, after = np.mean(both["codes"]), np.mean(both["offsets"])
  print(before, after)
  assert after > 0.95 and 1.0 - after < 0.6 * (1.0 - before)
  faces = np.asarray(small_head.faces)
  turned = np.sum(normals_of(scene.neutral, faces) * normals_of(scene.neutral + offset, faces), -1)
  assert turned.min() > 0
  assert (offset[flame.region(small_head, ("face",))] == 0).all()


def test_masks_of_heads_alone_leave_the_rim_where_it_is(small_head, tracked, bare):  # noqa: F811
  offset = np.asarray(with_offsets(small_head, Masked(bare), tracked).identity.static_offset)
  assert np.linalg.norm(offset[np.asarray(small_head.masks["boundary"])], axis=1).max() < 5e-3
