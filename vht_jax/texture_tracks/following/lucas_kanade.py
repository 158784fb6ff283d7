"""Where a small picture is in an image, to a fraction of a pixel: Lucas and Kanade's method for many at once.

Inverse compositional Gauss-Newton (Baker and Matthews, 2004) for a shift, on differences whose mean and contrast are
adapted to the picture's, so that what changes the brightness of a window does not move it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from vht_jax.types import Array

WINDOW = 17  # px, side of what is compared
HALF = WINDOW // 2
MARGIN = 2  # px on either side of the window in a patch, for gradients and for the way back
PATCH = WINDOW + 2 * MARGIN
MOST_STEPS = 8  # a point that needs more has lost its way
SETTLED = 0.02  # px, steps shorter than this are the last: below the noise of the best points
LONGEST_STEP = 2.0  # px
WEAKEST = 0.02  # of the mean squared gradient: a smaller eigenvalue is none


def inner(patch: Array) -> Array:
  """The window (N, WINDOW, WINDOW) in the middle of patches (N, PATCH, PATCH)."""
  return patch[:, MARGIN:-MARGIN, MARGIN:-MARGIN]


def windows(image: Array, base: Array, shift: Array, side: int) -> Array:
  """(N, side, side) squares of an image (H, W) about the pixels `base` (N, 2) i32, moved by `shift` (N, 2) px.

  Bilinear. A square that would leave the image stays at its border.
  """
  whole = jnp.floor(shift)
  first = base + whole.astype(jnp.int32) - side // 2
  # A slice for each is ten times as fast on a CPU as a lookup of every pixel.
  one = lambda start: jax.lax.dynamic_slice(image, (start[1], start[0]), (side + 1, side + 1))  # noqa: E731
  return _between(jax.vmap(one)(first), shift - whole)


def _between(taken: Array, t: Array) -> Array:
  """(N, s, s) from (N, s + 1, s + 1) at the fraction t (N, 2) of a pixel."""
  tx, ty = t[:, 0, None, None], t[:, 1, None, None]
  rows = taken[:, :-1] + ty * (taken[:, 1:] - taken[:, :-1])
  return rows[:, :, :-1] + tx * (rows[:, :, 1:] - rows[:, :, :-1])


def from_patch(patch: Array, shift: Array) -> Array:
  """The window of patches (N, PATCH, PATCH) moved by `shift` (N, 2) px, which is less than `MARGIN`."""
  whole = jnp.clip(jnp.floor(shift), -MARGIN, MARGIN - 1)
  one = lambda p, start: jax.lax.dynamic_slice(p, (start[1], start[0]), (WINDOW + 1, WINDOW + 1))  # noqa: E731
  return _between(jax.vmap(one)(patch, whole.astype(jnp.int32) + MARGIN), shift - whole)


def gradients(patch: Array) -> tuple[Array, Array]:
  """d/dx and d/dy, central differences, of (N, s, s) without its border: (N, s - 2, s - 2)."""
  return (patch[:, 1:-1, 2:] - patch[:, 1:-1, :-2]) / 2, (patch[:, 2:, 1:-1] - patch[:, :-2, 1:-1]) / 2


def settle(sample, picture: Array, weight: Array, start: Array, reach: float) -> tuple[Array, Array]:
  """Finds the shifts at which samples look like the pictures.

  Args:
    sample: shifts (N, 2) -> windows (N, WINDOW, WINDOW).
    picture: (N, WINDOW + 2, WINDOW + 2), with a border for its gradients.
    weight: (N, WINDOW, WINDOW) in [0, 1].
    start: (N, 2) px.
    reach: px, limit of the shifts.

  Returns:
    Shifts (N, 2) and the correlation (N,) there: normalised, 0 where the picture has no texture to hold on to.
  """
  gx, gy = gradients(picture)
  picture = picture[:, 1:-1, 1:-1]
  total = lambda a: jnp.sum(a * weight, axis=(1, 2))
  n = jnp.maximum(total(jnp.ones_like(weight)), 1.0)
  centred = lambda a: a - (total(a) / n)[:, None, None]
  gx, gy, picture = centred(gx), centred(gy), centred(picture)
  xx, xy, yy = total(gx * gx), total(gx * gy), total(gy * gy)
  root = jnp.sqrt((xx - yy) ** 2 + 4 * xy**2)
  textured = xx + yy - root > WEAKEST * (xx + yy) + 1e-6 * n
  det = jnp.where(textured, xx * yy - xy**2, 1.0)
  size = jnp.sqrt(total(picture**2))

  def compare(shift):
    seen = centred(sample(shift))
    contrast = jnp.sqrt(total(seen**2))
    seen = seen * (size / jnp.maximum(contrast, 1e-6))[:, None, None]
    return seen, total(seen * picture) / jnp.maximum(size**2, 1e-6)

  def step(state):
    k, shift, _ = state
    seen, _ = compare(shift)
    difference = seen - picture
    bx, by = total(gx * difference), total(gy * difference)
    move = jnp.stack([yy * bx - xy * by, xx * by - xy * bx], -1) / det[:, None]
    length = jnp.sqrt(jnp.sum(move**2, -1, keepdims=True) + 1e-20)
    move = jnp.where(textured[:, None], move * jnp.minimum(1.0, LONGEST_STEP / length), 0.0)
    moved = jnp.clip(shift - move, -reach, reach)
    return k + 1, moved, jnp.max(jnp.abs(moved - shift))

  go_on = lambda state: (state[0] < MOST_STEPS) & (state[2] > SETTLED)  # noqa: E731
  start = jnp.clip(start, -reach, reach)
  _, shift, _ = jax.lax.while_loop(go_on, step, (jnp.int32(0), start, jnp.asarray(jnp.inf, start.dtype)))
  return shift, jnp.where(textured, compare(shift)[1], 0.0)


def there(image: Array, patch: Array, weight: Array, base: Array, start: Array, reach: float) -> tuple[Array, Array]:
  """Forward: where in an image (H, W) the windows of patches about the pixels `base` are; as `settle`."""
  sample = lambda shift: windows(image, base, shift, WINDOW)  # noqa: E731
  return settle(sample, patch[:, MARGIN - 1 : 1 - MARGIN, MARGIN - 1 : 1 - MARGIN], weight, start, reach)


def back(image: Array, patch: Array, base: Array, shift: Array) -> Array:
  """(N,) px: how far beside its window in the patch one ends that starts from where the image was found to show it.

  Begins as far away as the way there was long, as far as the patch reaches.
  """
  picture = windows(image, base, shift, WINDOW + 2)
  ones = jnp.ones(picture.shape[:1] + (WINDOW, WINDOW), picture.dtype)
  away, _ = settle(lambda s: from_patch(patch, s), picture, ones, shift, MARGIN - 1.0)
  return jnp.sqrt(jnp.sum(away**2, -1))
