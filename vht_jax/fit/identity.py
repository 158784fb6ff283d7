"""The keyframe stage: shape, camera, texture, light and the poses of a few frames from their images and landmarks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vht_jax.config import Weights
from vht_jax.fit import assemble
from vht_jax.fit.clip import bundle_normal, with_landmarks
from vht_jax.fit.frame import INNER_STEPS, with_common
from vht_jax.fit.layer import Appearance, estimate_layer
from vht_jax.fit.observed import LandmarkModel, ObservedLandmarks
from vht_jax.fit.pixels.samples import estimate_gain, sample_pixels, with_gradient
from vht_jax.fit.pixels.surface import Crop, Surface
from vht_jax.fit.solvers.adjoint import Implicit, Unrolled, minimise_shared, recomputed, scan
from vht_jax.fit.solvers.least_squares import levenberg_marquardt_shared
from vht_jax.fit.terms.colour import ObservedColours, UnknownColours
from vht_jax.fit.terms.priors import HeldFrame, Near
from vht_jax.fit.terms.term import Entry
from vht_jax.fit.unknowns import Shared, blocks, extract, insert
from vht_jax.render import shade
from vht_jax.types import Array

HIGHEST = jax.lax.Precision.HIGHEST
TEXTURE_SD = 1.0  # of the texture code
LIGHT_SD = 1.0  # of the light coefficients beyond the constant one
CONSTANT_LIGHT_SD = 100.0  # of that one: it is as good as free
AVERAGED = 0.4  # share of the keyframe stage's steps, the last ones, whose mean is its result
APPEARANCE_STEPS = 3  # rasterisations of the keyframe stage that fit colours only
STRIDE = 4001  # pixels of `scattered` from those of one step to those of the next: few are the same
HELD = 1e8  # precision of everything else in these steps
FEWEST_PIXELS = 10.0  # a frame counts for at least so many
PLAUSIBLE_SHAPE = 0.8  # rms of an identity code that the colours may ask for, in standard deviations
# m, rms over the head per standard deviation: identity components that move it by less are hardly seen and stay near 0,
# so they are left out of that rms, which was measured with the open head: its weakest component moves it by 0.077 mm.
SEEN_COMPONENT = 7e-5


def fit_keyframes(
  surface: Surface, model: LandmarkModel, shared: Shared, appearance: Appearance, observed: ObservedLandmarks,
  crops: Crop, xs: Array, weights: Weights, focal_prior: tuple[Array, ...], pixels: Array,
  *, n_samples: int, outer_steps: int, more: Sequence[Entry] = (), more_priors: Sequence[Entry] = (),
  adjoint: Implicit | Unrolled | None = None,
):  # fmt: skip
  """Shape, camera, texture, light and the poses of F keyframes from their images and landmarks.

  The free albedo layer is estimated in closed form between Gauss-Newton solves. Without it, photometry makes a face
  whose texture is outside the basis worse than landmarks alone.

  Args:
    surface, model: of the unfolded head.
    shared, appearance, xs: start; `xs` (F, E + 14).
    observed, crops: leading axis F.
    focal_prior: (mean, sd) of log focal, and of the principal point if it is known (`priors.camera_priors`).
    more, more_priors: as for `bundle_normal`.
    adjoint: how derivatives pass, None: they do not. With `Implicit` every solve goes on to its minimum.
    pixels: () how many independent pixels a frame counts for at first. How much the colours know depends on how well
      the model explains this person (hair, make-up, beards), and their residual does not tell: the free albedo layer
      hides it. The identity tells: colours that are trusted too much drive it out of the range of people. So they are
      trusted more while the rms of the code (`mean_square`) stays below PLAUSIBLE_SHAPE, and less above.

  Returns:
    shared, appearance, xs, pixels, cost per outer step (outer_steps,), the last one's information (m, m) on what is
    shared, in the order of `shared_layout` with the texture (T,) and the light (9, 3) as unknowns of their own, and how
    far the solves ended from their minima, the farthest (None without an adjoint).
  """
  exact = adjoint is not None
  images = jnp.asarray(crops.rgb) if exact else jax.vmap(with_gradient)(crops.rgb)
  geometry = blocks(shared)  # the colours' own unknowns come after these

  def normal(theta, xs, flat, whole=None):
    model, observed, weights, focal_prior, start, colours, xs_start, hold, held, more, more_priors = theta
    priors = [*_colour_priors(xs.dtype), *held, *more_priors]
    frames = [(HeldFrame(hold), xs_start), *more]
    arrow = bundle_normal(model, xs, flat, observed, weights, focal_prior, frames, priors, shared=start)
    painted, free = [(UnknownColours(weights, exact), colours)], with_landmarks(model, start)
    return arrow + assemble.arrow_normal(painted, free, start, xs, flat, in_turn=True, whole=whole)

  def outer(state, step):
    shared, appearance, xs, pixels = state[:4]
    # Colours first: geometry must not bend to explain a texture that is not estimated yet.
    hold = jnp.where(step < APPEARANCE_STEPS, HELD, 0.0)
    held = [(Near(name, blocks(shared)[name], 1.0 / jnp.sqrt(hold)), None) for name in geometry]
    colours, gains = _observe(
      surface, appearance, shared, crops, images, xs, weights, pixels, step > 0, step * STRIDE, n_samples=n_samples,
      exact=exact,
    )  # fmt: skip
    start = shared.replace(own={**(shared.own or {}), "texture": appearance.texture, "light": appearance.light})
    if exact:  # `normal` is given a copy that JAX has made, which sorts names: that is the unknowns' order
      start = jax.tree.map(jnp.asarray, start)
    theta = model, observed, weights, focal_prior, start, colours, xs, hold, held, list(more), list(more_priors)
    layout = with_landmarks(model, start).shared
    begin = with_common(xs), extract(layout, start)
    if adjoint is None:
      at = functools.partial(normal, theta)
      solution = levenberg_marquardt_shared(at, *begin, max_steps=INNER_STEPS, only_cost=True)
    else:
      solution = minimise_shared(normal, theta, *begin, adjoint, INNER_STEPS)
    found = insert(layout, solution.shared, start)
    xs = solution.frames[:, : xs.shape[1]]
    appearance = appearance.replace(texture=found.brought("texture"), light=found.brought("light"))
    shared = found.replace(own=shared.own and {name: found.brought(name) for name in shared.own})
    layer = estimate_layer(surface, shared, appearance, xs, crops, gains, weights, exact)
    appearance = appearance.replace(layer=layer)
    excess = mean_square(surface.vertices.shapedirs, shared.shape) / PLAUSIBLE_SHAPE**2
    change = jnp.where(step < APPEARANCE_STEPS, 1.0, jnp.clip(1.0 / jnp.maximum(excess, 1e-6), 0.5, 2.0))
    pixels = jnp.clip(pixels * change, FEWEST_PIXELS, weights.photo_pixels)
    state = (shared, appearance, xs, pixels)
    return (*state, solution.shared_information), (state, solution.cost, solution.distance)

  # Every step looks at other pixels, so the steps end in a cloud round the solution, whose middle is nearer to it.
  m = sum(a.size for a in [*geometry.values(), appearance.texture, appearance.light])
  begin = shared, appearance, xs, pixels, jnp.zeros((m, m), xs.dtype)
  end, (states, costs, distances) = scan(outer, begin, jnp.arange(outer_steps), outer_steps, recomputed(adjoint))
  last = jax.tree.map(lambda a: jnp.mean(a[-max(int(AVERAGED * outer_steps), 1) :], axis=0), states)
  return *last, costs, end[-1], jax.tree.map(lambda a: jnp.max(a, axis=0), distances)


def _observe(
  surface: Surface, appearance: Appearance, shared: Shared, crops: Crop, images: Array, xs: Array, weights: Weights,
  pixels: Array, exposed: Array, first: Array, *, n_samples: int, exact: bool,
) -> tuple[ObservedColours, Array]:  # fmt: skip
  """The keyframes' colours and their exposures (F,), which are 1 as long as it is not `exposed` ()."""
  F, n_texture = xs.shape[0], appearance.texture.shape[0]
  samples = jax.lax.map(lambda a: sample_pixels(surface, a[0], shared, a[1], n_samples, pixels, first), (xs, crops))
  flat_basis = surface.texture_basis.reshape(*surface.texture_basis.shape[:2], -1)
  look_up = functools.partial(shade.sample_texture, forward_mode=exact)
  basis = jax.lax.map(lambda uv: look_up(flat_basis, uv), samples.uv)
  basis = basis.reshape(F, n_samples, 3, n_texture)
  layer = jax.image.resize(appearance.layer, surface.texture_mean.shape, "linear")
  base = jax.vmap(lambda uv: look_up(surface.texture_mean + layer, uv))(samples.uv)
  albedo = jnp.clip(base + jnp.matmul(basis, appearance.texture, precision=HIGHEST), 0.0, 1.0)
  gains = jax.vmap(lambda s, a: estimate_gain(s, a, appearance.light, weights))(samples, albedo)
  # The light takes the common factor.
  gains = jnp.where(exposed, gains / jnp.exp(jnp.mean(jnp.log(gains))), 1.0)
  return ObservedColours(samples, base, crops, images / gains[:, None, None, None], basis), gains


def _colour_priors(dtype):
  light_sd = jnp.full((9, 1), LIGHT_SD, dtype).at[0].set(CONSTANT_LIGHT_SD)
  return [
    (Near("texture", jnp.zeros((), dtype), jnp.asarray(TEXTURE_SD, dtype)), None),
    (Near("light", jnp.zeros((), dtype), light_sd), None),
  ]


def mean_square(shapedirs: Array, shape: Array) -> Array:
  """Mean square () of an identity code (S,) over the components (V, 3, S) that move the head visibly."""
  moved = jnp.mean(jnp.sum(shapedirs**2, axis=1), axis=0)  # (S,) m^2
  seen = (moved >= SEEN_COMPONENT**2).astype(shape.dtype)
  return jnp.sum(seen * shape**2) / jnp.maximum(jnp.sum(seen), 1.0)
