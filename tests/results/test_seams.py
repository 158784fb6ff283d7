import numpy as np

from vht_jax.results.seams import without_seams


def cut(head):
  """Pairs of places (n, 2, 2) u, v of the same vertex on both sides of the cut at the back of the head."""
  faces, uv = np.asarray(head.faces), np.asarray(head.uv)
  found = {}
  for vertex, place in zip(faces.ravel(), uv.reshape(-1, 2)):
    found.setdefault(int(vertex), set()).add(tuple(np.round(place, 4).tolist()))
  pairs = [sorted(places) for places in found.values() if len(places) == 2]
  return np.array([pair for pair in pairs if pair[0][0] < 0.1 and pair[1][0] > 0.9])


def colours(texture, uv):
  """(n, 3) of the texels at places (n, 2), a little inside of the texture's edge."""
  size = texture.shape[0]
  u, v = np.clip(uv, 0.02, 0.98).T
  return texture[((1 - v) * size).astype(int), (u * size).astype(int)]


def test_the_back_of_the_head_has_no_step(open_head):
  left, right = cut(open_head).transpose(1, 0, 2)
  assert len(left) > 10
  texture = np.zeros((128, 128, 3))
  texture[:, 64:] = 0.4  # one side of the head is lighter
  found = without_seams(open_head, texture)
  before = np.abs(colours(texture, left) - colours(texture, right))
  after = np.abs(colours(found, left) - colours(found, right))
  assert before.min() > 0.39 and np.median(after) < 0.06 and after.max() < 0.2
  face = np.s_[30:90, 44:84]
  np.testing.assert_allclose(found[face], texture[face], atol=1e-3)  # the step there is the face's own


def test_a_texture_without_steps_stays_as_it_is(open_head):
  v = np.linspace(0, 1, 256)
  texture = np.repeat(np.repeat(v[:, None, None], 256, axis=1), 3, axis=2)
  np.testing.assert_allclose(without_seams(open_head, texture)[10:246, 10:246], texture[10:246, 10:246], atol=0.03)


def test_a_head_without_cuts(open_head):
  """Each vertex has one place."""
  few = open_head.replace(faces=open_head.faces[:1], uv=open_head.uv[:1])
  texture = np.random.default_rng(0).random((64, 64, 3))
  np.testing.assert_array_equal(without_seams(few, texture), texture)
