"""Stage 5: all poses together, as far as their noise asks for it; and whether the clip is a video at all."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from vht_jax.fit import frame, unknowns
from vht_jax.fit.solvers import uncertainty
from vht_jax.host.programs import stored
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.motion import smooth
from vht_jax.tracking.run import Run
from vht_jax.tracking.stages.camera import landmarks_of, skin_entries_of
from vht_jax.tracking.stages.landmarks import fold_landmarks, frames_axis, posed
from vht_jax.tracking.state import TrackState, known

CHUNK, MARGIN = 256, 16  # frames smoothed at once, and more of them on both sides
FEWEST = 8  # frames with a pose
# A frame's change, in its own metric, over what the clip's noise has on average: twice that is rare for noise in dozens
# of independent unknowns, and usual where the clip's mean frame is no measure of this one.
MOST_CHANGE = 2.0
HEAD = unknowns.where("rotation", "place")  # rotation and place
SHUFFLES = 500  # random orders with which the clip's own is compared
CHANCE = 0.01  # of a random order being as continuous as the clip's; a video of ten frames has less than 1e-3
UNKNOWN = 1e12  # times the usual variance: the frame says nothing
STILL = 10.0  # mean squared difference of two frames' heads, per coordinate and in variances: less may be noise


def smooth_frames(state: TrackState, run: Run) -> TrackState:
  """Looks whether the clip is a video, and smooths the poses within each shot if it is and the settings ask for it."""
  good = posed(state, run) & finite_rows(known(state.xs))
  if good.sum() < FEWEST:
    return state
  run.progress.stage("smooth", 1)
  motion = Motion(state, run, good)
  run.progress.advance(1)
  if not motion.is_video():
    run.progress.note(
      "the head jumps from frame to frame: they are taken for single pictures and not for a video, so poses are not "
      "smoothed, and frames without a face get none. If they are pictures, --unordered says so from the start and each "
      "is searched by itself; if it is a video, look for frames on which the landmarks are not on the face"
    )
    return state.replace(unordered=True)
  return state.replace(xs=motion.smoothed()) if run.config.smooth else state


class Motion:
  """A clip's unknowns in coordinates whose errors are independent, `smooth.coordinates`; (n_unknowns, T).

  Args:
    state: with unknowns of all frames.
    run: the clip.
    good: (T,) frames that count; the others get values between their neighbours'.
  """

  def __init__(self, state: TrackState, run: Run, good: np.ndarray):
    self.state, self.run, self.good, self.times = state, run, good, run.times
    n = len(good)
    at = np.arange(n) if run.times is None else run.times
    self.cuts = sorted(c for c in run.config.data.cutframes if 0 < c < n)
    xs = np.stack(
      [np.interp(at, at[good], column[good]) for column in np.asarray(known(state.xs), np.float64).T], axis=1
    )
    self.xs = xs.astype(np.float32)
    self.model, self.shared = fold_landmarks(landmarks_of(state, run), known(state.shared))
    self.basis = smooth.coordinates(self._mean_information())
    z = (xs - xs[good].mean(axis=0)) @ self.basis
    self.z = z.T.astype(np.float32)
    basis = self.basis.astype(np.float32)
    variance = self._of_frames(lambda matrices, _: _variance(matrices, basis))
    self.variance = np.where(good, variance.T, np.inf).astype(np.float32)

  def _of_frames(self, solve):
    """`solve(matrices, index)` of all frames, chunk by chunk, with their normal matrices (n_frames, n, n).

    These are made anew each time: kept, they would be most of the memory of a long clip.
    """

    return self.run.per_frame(lambda index: solve(self._matrices(index), index))

  def _matrices(self, index: np.ndarray):
    observed, more = self.run.settled_of(index), skin_entries_of(self.state, self.run, index)
    return _matrices(self.model, observed, self.shared, self.run.weights, self.xs[index], more)

  def _mean_information(self) -> np.ndarray:
    """(n, n) float64, over the good frames."""
    total = self.run.summed(lambda index, weight: _information(self._matrices(index), weight), self.good)
    return total / max(self.good.sum(), 1)

  def is_video(self) -> bool:
    """Whether neighbours are more alike than any two frames are, in where the head is and how it is turned.

    The distances of neighbours are added up and compared with those of random orders. A still head is a video; and
    where most frames start a new shot, there are no neighbours.
    """
    counted = np.isfinite(self.variance).all(axis=0)
    n = counted.size
    shot = np.searchsorted(self.cuts, np.arange(n), side="right")
    if len(self.cuts) >= 0.5 * (n - 1) > 0:
      return False
    rows = np.flatnonzero(counted)
    if len(rows) < smooth.SHORT:
      return True
    places = self.z[HEAD, rows].T
    pairs = shot[rows[1:]] == shot[rows[:-1]]
    return in_order(places, pairs, float(np.median(self.variance[HEAD][:, rows])))

  def smoothed(self) -> np.ndarray:
    """(T, n_unknowns); frames that do not count stay as they are."""
    n, z, variance = self.good.size, self.z, self.variance
    counted = np.where(self.run.seen, variance, np.inf)  # without landmarks there is no expression
    counted[:, self.cuts] = np.inf  # the difference across a cut is no motion
    noise, acceleration = (np.asarray(a) for a in _noise(z, counted, self.times))
    # The head's coordinates accelerate together, the others each for itself.
    each = np.arange(len(z))
    together = each[HEAD][None], np.delete(each, HEAD)[:, None]
    error, free = np.zeros_like(z), np.ones_like(z)
    for first, last in zip([0, *self.cuts], [*self.cuts, n]):
      for start in range(first, last, CHUNK):
        # A fixed length with some frames before and after, which then change nothing any more.
        wanted = np.arange(start - MARGIN, start + CHUNK + MARGIN)
        rows = np.clip(wanted, first, last - 1)
        times = None if self.times is None else (self.times[rows] + wanted - rows).astype(np.float32)
        inside = wanted == rows
        keep = inside.copy()
        keep[:MARGIN] = keep[MARGIN + CHUNK :] = False
        for chosen in together:  # two programs: two loops within one can wait for each other for ever (XLA, two cores)
          claimed = np.where(inside, variance[chosen][..., rows], np.inf)
          part = _left_out(z[chosen][..., rows], claimed, noise[chosen], acceleration[chosen], times)
          for whole, piece in zip((error, free), part):
            whole[chosen[..., None], rows[keep]] = np.asarray(piece)[..., keep]
    change, share = _followed(error, free, variance, noise)
    # What float32 cannot solve changes nothing. Back to the unknowns: z = V^T x.
    change = np.where(np.isfinite(change), change, 0.0)
    change = scipy.linalg.solve_triangular(self.basis.T, np.asarray(change, np.float64)).T.astype(np.float32)
    limit = np.float32(MOST_CHANGE * np.sum(np.asarray(share)))
    change = self._of_frames(lambda matrices, index: _within(matrices, change[index], limit))
    keep = self.good & np.isfinite(change).all(axis=1)
    return np.where(keep[:, None], self.xs + change, known(self.state.xs)).astype(np.float32)


def in_order(places: np.ndarray, pairs: np.ndarray, variance: float) -> bool:
  """Whether a sequence is more continuous than random orders of it, or does not move.

  Args:
    places: (T, d).
    pairs: (T - 1,) bool, which neighbours count.
    variance: of each coordinate's noise.
  """
  distance = lambda order: np.sqrt(((places[order[1:]] - places[order[:-1]]) ** 2).sum(axis=1))[pairs].sum()
  rng = np.random.default_rng(0)
  shuffled = np.array([distance(rng.permutation(len(places))) for _ in range(SHUFFLES)])
  moves = 2 * ((places - places.mean(axis=0)) ** 2).mean() > STILL * variance  # the mean square of a difference
  return bool(not moves or (shuffled <= distance(np.arange(len(places)))).mean() < CHANCE)


@stored
def _matrices(model, observed, shared, weights, xs, more):
  one = lambda t, x, more: frame.frame_normal(model, x, shared, t, weights, more).matrix
  return jax.vmap(one, in_axes=(0, 0, frames_axis(more)))(observed, xs, more)


@functools.partial(stored, rough=True)
def _information(matrices, weight):
  """The sum over the frames, with weights."""
  usable = (weight > 0) & jnp.isfinite(matrices).all(axis=(1, 2))
  return jnp.sum(jnp.where(usable[:, None, None], matrices, 0.0) * weight[:, None, None], axis=0)


@functools.partial(stored, rough=True)
def _variance(matrices, basis):
  def one(matrix):
    root = uncertainty.root_covariance(matrix)
    variance = jnp.sum(jnp.matmul(root, basis, precision=smooth.HIGHEST) ** 2, axis=0)
    return jnp.where(jnp.all(variance < UNKNOWN), variance, jnp.inf)  # also where one is not finite

  return jax.vmap(one)(matrices)


@functools.partial(stored, rough=True)
def _noise(z, variance, times):
  """Variances (n,) of the noise and squared scales (n,) of the accelerations."""
  share = smooth.white_share(z[HEAD], variance[HEAD], times)
  noise, acceleration = jax.vmap(lambda z, v: smooth.measure_noise(z, v, times, share))(z, variance)
  return noise, smooth.USUAL * acceleration


@stored
def _left_out(z, variance, noise, acceleration, times):
  """Of g groups of k coordinates, (g, k, T)."""
  one = lambda *of: smooth.left_out(*of, times=times)
  return jax.vmap(one)(z, variance, noise, acceleration)


@functools.partial(stored, rough=True)
def _followed(error, free, variance, noise):
  """Changes, and the noise in units of what is claimed."""
  claimed = jax.vmap(smooth.claimed_variance)(variance)
  return jax.vmap(smooth.followed)(error, free, variance, noise), noise / claimed


@functools.partial(stored, rough=True)
def _within(matrices, change, limit):
  return jax.vmap(lambda matrix, c: smooth.within(c, matrix, limit))(matrices, change)
