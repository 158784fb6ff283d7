"""Terms and the assembler: a new term in a few lines, and unknowns that terms bring, against dense least squares."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import landmark_model, quick_jit, tiny_head

from vht_jax.config import Weights
from vht_jax.fit import assemble, clip, frame, observed, unknowns
from vht_jax.fit.solvers.least_squares import eliminate_frames
from vht_jax.fit.terms.priors import Near
from vht_jax.fit.terms.term import Linearised, Own, by_autodiff
from vht_jax.head import points as pts
from vht_jax.head.points import Points
from vht_jax.layout import Layout

SIZE = (1000, 800)  # H, W px
NOSE_TIP = 30  # of the 68 landmarks


# --- a term of one's own: this class and one entry of a list (CONTRIBUTING.md) ---------------------------------------


class NoseTip(flax.struct.PyTreeNode):
  """Keeps the tip of the nose at a place: observations (2,) from the image centre, units of the longer side."""

  point: Points  # the tip alone
  sd: float = 1e-4  # of the longer side

  def linearise(self, at, observation):
    def residual(at):
      return (pts.locate(self.point, at.x, at.shared) - observation[None]) / self.sd

    return by_autodiff(residual, at, shared=("shape", "log_focal", "principal"))


# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head(open_head):
  return tiny_head(open_head)


@pytest.fixture(scope="module")
def weights():
  return Weights()


@pytest.fixture(scope="module")
def lm(head, weights):
  return landmark_model(head, weights, 0)


@pytest.fixture(scope="module")
def nose(lm):
  return NoseTip(pts.only([NOSE_TIP], lm.points))


@pytest.fixture(scope="module")
def shared(lm):
  return clip.initial_shared(lm, 1.9)


@pytest.fixture(scope="module")
def xs(lm):
  """(3, n) frames that turn."""
  rng = np.random.default_rng(0)
  x = 0.05 * rng.standard_normal((3, unknowns.n_unknowns(lm.points)))
  x[:, unknowns.where("rotation")] += np.array([0.0, 0.4, 0.0]) * np.array([[-1.0], [0.0], [1.0]])
  x[:, unknowns.where("place")] = [0.02, 0.03, 1.0]
  return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def seen(lm, xs, shared):
  @quick_jit
  @jax.vmap
  def observe(x):
    px = pts.locate(lm.points, x, shared) * max(SIZE) + jnp.array([[SIZE[1] / 2, SIZE[0] / 2]])
    return observed.observe_landmarks(lm, px, jnp.ones(70, jnp.float32), SIZE)

  return observe(xs)


def test_a_new_term_moves_the_nose_in_a_frame(lm, nose, seen, shared, weights):
  one = jax.tree.map(lambda a: a[1], seen)
  wanted = one.uv[NOSE_TIP] + jnp.array([0.01, -0.02])
  model, known = quick_jit(frame.fold_landmarks)(lm, shared)
  nose = nose.replace(point=quick_jit(pts.fold_shape)(nose.point, shared.shape))
  fit = quick_jit(lambda nose: frame.fit_frame(model, one, known, weights, more=[(nose, wanted)]).x)
  where = quick_jit(lambda x: pts.locate(nose.point, x, known)[0])
  assert np.abs(where(fit(nose.replace(sd=1e6))) - wanted).max() > 5e-3  # it says nothing
  np.testing.assert_allclose(where(fit(nose)), wanted, atol=5e-4)


def test_a_new_term_moves_the_nose_in_bundle_adjustment(lm, nose, seen, weights):
  wanted = seen.uv[:, NOSE_TIP] + jnp.array([[0.01, -0.02]])
  found = quick_jit(lambda: clip.bundle_adjust(lm, seen, weights, focal=jnp.float32(1.9), more=[(nose, wanted)]))()
  where = quick_jit(jax.vmap(lambda x: pts.locate(nose.point, x, found.shared)[0]))(found.xs)
  np.testing.assert_allclose(where, wanted, atol=1e-3)


# --- unknowns that terms bring ---------------------------------------------------------------------------------------


@flax.struct.dataclass
class Toy:
  """A linear term of everything: the head, a frame's own block, shared blocks both dense and of each row its own."""

  by_head: jax.Array  # (R, 2, n)
  by_drift: jax.Array  # (R, 2, 2)
  by_focal: jax.Array  # (R, 2, 1)
  by_slope: jax.Array  # (R, 2, 1) of each row's own number

  def linearise(self, at, observation):
    residual = (
      self.by_head @ at.x
      + self.by_drift @ at.own["drift"]
      + self.by_focal[..., 0] * at.shared.log_focal
      + self.by_slope[..., 0] * at.shared.own["slope"][:, None]
      - observation
    )
    shared = {"log_focal": self.by_focal, "slope": Own(self.by_slope), "principal": jnp.zeros((len(residual), 2, 2))}
    root = jnp.linspace(0.5, 1.0, len(residual))
    return Linearised(residual, {"drift": self.by_drift, "head": self.by_head}, shared, root)


@flax.struct.dataclass
class SmallDrift:
  def linearise(self, at, observation):
    return Linearised(at.own["drift"][:, None], {"drift": jnp.eye(2)[:, None]}, {})


R, N_HEAD, F = 4, 20, 3


@pytest.fixture(scope="module")
def toy():
  """Entries, priors, unknowns, start, observations of F frames, and the dense residuals of all unknowns."""
  rng = np.random.default_rng(1)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  start = unknowns.Shared(draw(0), draw(), draw(2), draw(0, 3), {"slope": draw(R)})
  free = unknowns.unknowns(N_HEAD, start, ("log_focal", "slope"), {"drift": jnp.zeros(2)})
  term = Toy(draw(R, 2, N_HEAD), draw(R, 2, 2), draw(R, 2, 1), draw(R, 2, 1))
  observations = draw(F, R, 2)
  entries = [(term, observations), (SmallDrift(), None), (Held(), draw(F, N_HEAD))]
  return entries, [(Near("slope", jnp.float32(0.3), jnp.float32(0.1)), None)], free, start


@flax.struct.dataclass
class Held:
  """The head's unknowns (observations), by autodiff and with the head alone."""

  def linearise(self, at, observation):
    return by_autodiff(lambda at: (at.x - observation)[:, None], at)


def dense(toy, frames, flat):
  """All whitened residuals as one vector, roots included."""
  entries, priors, free, start = toy
  shared = unknowns.insert(free.shared, flat, start)
  rows = []
  for f in range(F):
    at = free.at(frames[f], shared)
    for term, seen in entries:
      found = term.linearise(at, None if seen is None else seen[f])
      root = 1.0 if found.root is None else found.root[:, None]
      rows.append((found.residual * root).reshape(-1))
  at = dataclasses.replace(at, shared=shared)
  return jnp.concatenate([*rows, *(t.linearise(at, None).residual.reshape(-1) for t, _ in priors)])


@pytest.mark.parametrize("in_turn", [False, True])
def test_every_form_equals_dense_least_squares(toy, in_turn):
  entries, priors, free, start = toy
  n, m = free.frame.size, free.shared.size
  assert (n, m) == (N_HEAD + 2, 1 + R)
  frames = jnp.asarray(np.random.default_rng(2).standard_normal((F, n)), jnp.float32)
  flat = unknowns.extract(free.shared, start)

  @jax.jit
  def run(frames, flat):
    arrow = assemble.arrow_normal(entries, free, start, frames, flat, in_turn)
    both = arrow.with_shared(assemble.shared_normal(priors, free, start, flat))
    ones = [assemble.reduced([(t, None if o is None else o[f]) for t, o in entries], free, start, frames[f], flat)
            for f in range(F)]  # fmt: skip
    single = [(t, None if o is None else o[1]) for t, o in entries]
    whole = unknowns.insert(free.shared, flat, start)
    return arrow, both, sum(ones[1:], ones[0]), assemble.frame_normal(single, free.at(frames[1], whole))

  residual = lambda frames, flat: dense(toy, frames, flat)
  J = [np.asarray(j, np.float64) for j in jax.jit(jax.jacfwd(residual, (0, 1)))(frames, flat)]
  r = np.asarray(jax.jit(residual)(frames, flat), np.float64)
  arrow, both, total, single = jax.tree.map(np.asarray, run(frames, flat))
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
  close(both.shared_gradient, J[1].T @ r)
  close(both.shared_matrix, J[1].T @ J[1])
  for f in range(F):
    close(both.frame_gradient[f], J[0][:, f].T @ r)
    close(both.frame_matrix[f], J[0][:, f].T @ J[0][:, f])
    close(both.cross[f], J[0][:, f].T @ J[1])
  close(single.matrix, both.frame_matrix[1])
  close(single.gradient, both.frame_gradient[1])
  _, solved, matrix, gradient = jax.jit(eliminate_frames)(arrow, jnp.float32(0))
  close(total.matrix, matrix)
  close(total.gradient, gradient)
  np.testing.assert_allclose(total.cost, arrow.cost - np.sum(np.asarray(solved)[..., -1] ** 2), rtol=1e-4)


def test_of_what_is_not_wanted_the_cost_alone_is_right(toy):
  entries, _, free, start = toy
  frames = jnp.asarray(np.random.default_rng(2).standard_normal((F, free.frame.size)), jnp.float32)
  flat = unknowns.extract(free.shared, start)
  of = jax.jit(lambda whole: assemble.arrow_normal(entries, free, start, frames, flat, True, whole))
  plain = jax.jit(lambda: assemble.arrow_normal(entries, free, start, frames, flat, True))()
  for a, b in zip(jax.tree.leaves(of(True)), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6 * np.abs(b).max())
  half = of(False)
  np.testing.assert_allclose(half.cost, plain.cost, rtol=1e-6)
  assert not any(np.any(a) for a in jax.tree.leaves(half.replace(cost=0.0)))


def test_layout_names_every_number():
  layout = Layout.of(a=(2,), b=(), c=(2, 3))
  assert (layout.size, layout.names, "b" in layout, "d" in layout) == (9, ("a", "b", "c"), True, False)
  flat = jnp.arange(18.0).reshape(2, 9)
  parts = layout.split(flat)
  assert {name: part.shape for name, part in parts.items()} == {"a": (2, 2), "b": (2,), "c": (2, 2, 3)}
  np.testing.assert_array_equal(layout.join(layout.split(flat[1])), flat[1])
  assert layout.split(np.arange(9.0))["b"] == 2  # NumPy's too
  for name in layout.names:
    np.testing.assert_array_equal(flat[:, layout.at(name)], flat[:, layout.from_end(name)])
  assert (layout.at("a", "b"), layout.from_end("c")) == (slice(0, 3), slice(-6, None))
  assert layout.only(("c", "a")).names == ("a", "c")
