"""Numbers that go wrong in one frame: caught, solved again, reported, and kept away from the other frames."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_track import unknowns_at

from vht_jax.cameras import make_camera
from vht_jax.config import Weights
from vht_jax.head.flame import neutral_pose
from vht_jax.tracking.checks import check_stage
from vht_jax.tracking.keyframes import finite_rows
from vht_jax.tracking.motion.gaps import bridge
from vht_jax.tracking.stages import adam as adam_stage
from vht_jax.tracking.stages.frames import guarded, strayed
from vht_jax.types import Identity, Pose, RawPose, Status

pytestmark = pytest.mark.faults


def unknowns(n=5):
  return np.stack([unknowns_at(0.1, -0.05, 0.5)] * n).astype(np.float32)


def test_what_counts_as_astray():
  start = unknowns(6)
  x = start.copy()
  x[1, 0] = np.nan
  x[2, -3] = np.inf
  x[3, -14 + 3] += 1.0  # a whole image side away
  x[4, -14 + 5] += 1.0  # nearly three times as large
  x[5, -14 + 3] += 0.01
  assert strayed(x, start).tolist() == [False, True, True, True, True, False]
  start[0] = np.nan  # nothing to compare with: any finite place will do
  assert not strayed(x, start)[0]


class Solver:
  """Returns its start; in frame 2 what is listed, call by call."""

  def __init__(self, *answers):
    self.answers, self.pixels, self.starts = list(answers), [], []

  def __call__(self, pixels, x0):
    self.pixels.append(pixels)
    self.starts.append(x0.copy())
    x = x0 + 0.001
    x[2] = x[2] + self.answers.pop(0)
    call = len(self.starts)
    return x, np.full(len(x), 0.1, np.float32), {"expr": np.full((len(x), 4), call, np.float32)}


ALL = np.ones(5, bool)


def solved(solver, landmark_fit, seen):
  return guarded(solver(50.0, unknowns()), solver, 50.0, landmark_fit, seen)


def test_a_healthy_batch_is_solved_once():
  solver = Solver(0.0)
  x, error, sd = solved(solver, unknowns(), ALL)
  assert len(solver.pixels) == 1 and np.isfinite(x).all() and np.isfinite(error).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30, 3.0])
def test_a_frame_that_goes_astray_is_solved_again_damped_from_its_landmarks(wrong):
  solver, landmark_fit = Solver(wrong, 0.0), unknowns() + 0.01
  x, error, sd = solved(solver, landmark_fit, ALL)
  assert solver.pixels[1] < solver.pixels[0]
  np.testing.assert_array_equal(solver.starts[1], landmark_fit)
  np.testing.assert_allclose(x[2], landmark_fit[2] + 0.001)
  np.testing.assert_array_equal(x[[0, 1, 3, 4]], unknowns()[[0, 1, 3, 4]] + np.float32(0.001))  # the first answer
  assert np.isfinite(error).all()
  np.testing.assert_array_equal(sd["expr"][:, 0], [1, 1, 2, 1, 1])  # of the answer that was kept


def test_what_strays_twice_is_no_number_and_alone():
  x, error, _ = solved(Solver(np.nan, 3.0), unknowns(), ALL)
  np.testing.assert_array_equal(finite_rows(x), [True, True, False, True, True])
  assert np.isnan(error[2]) and np.isfinite(error[[0, 1, 3, 4]]).all()
  solver = Solver(np.nan)
  solved(solver, unknowns(), ALL & (np.arange(5) != 2))  # no face: nothing to be gained
  assert len(solver.pixels) == 1


def poses(n):
  column = lambda k: jnp.tile(jnp.arange(n, dtype=jnp.float32)[:, None], (1, k))
  return Pose(
    expr=column(4), rotation=0.1 * column(3), translation=column(3), neck=0.01 * column(3), jaw=0.01 * column(3),
    eyes=0.01 * column(6).reshape(n, 2, 3),
  )  # fmt: skip


def test_a_frame_that_diverged_is_bridged_and_touches_no_other():
  given = poses(7)
  broken = jax.tree.map(lambda a: a.at[3].set(jnp.nan), given)
  good = np.arange(7) != 3
  found, status = bridge(broken, np.ones(7, bool), good)
  assert status.tolist() == [0, 0, 0, Status.DIVERGED, 0, 0, 0]
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(given), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)  # linear in the frame: what was lost is what lies between


def test_nothing_is_bridged_across_a_cut():
  seen = np.array([1, 1, 0, 0, 0, 0, 1, 1, 0, 0], bool)
  found, status = bridge(poses(10), seen, cuts=[4, 9])
  np.testing.assert_allclose(found.translation[:, 0], [0, 1, 1, 1, 6, 6, 6, 7, 7, 7])
  assert (status[~seen] == Status.INTERPOLATED).all()
  plain, _ = bridge(poses(10), seen)
  np.testing.assert_allclose(plain.translation[:, 0], [0, 1, 2, 3, 4, 5, 6, 7, 7, 7], atol=1e-6)


def test_a_shot_without_a_face_stays_still():
  seen = np.array([1, 1, 0, 0, 0, 1, 1], bool)
  found, _ = bridge(poses(7), seen, cuts=[2, 5])
  np.testing.assert_allclose(found.translation[:, 0], [0, 1, 1, 1, 1, 5, 6])


# --- Adam, frame after frame ---


def adam(n=6, sick=()):
  """As much of a `Run` as the stage needs, raw poses, and a solver that adds 1 to every number, NaN in listed calls."""
  run = types.SimpleNamespace(seen=np.ones(n, bool), weights=Weights(), config=None, colored=None, calls=[])
  zeros = lambda *shape: np.zeros((n, *shape), np.float32)
  raw = RawPose(zeros(4), zeros(3), zeros(3), zeros(3), zeros(3), zeros(2, 3))

  def solver(model, observations, identity, rows, references, config, weights, steps):
    run.calls.append(float(weights.lr))
    wrong = np.nan if len(run.calls) - 1 in sick else 1.0
    return jax.tree.map(lambda a: a + wrong, rows), {"total": np.full((len(rows.expr), 1, 1), wrong)}

  return run, raw, solver


@pytest.mark.parametrize(("sick", "n_calls", "lost"), [((), 1, False), ((0,), 2, False), ((0, 1), 2, True)])
def test_adam_tries_again_at_lower_rates(monkeypatch, sick, n_calls, lost):
  run, raw, solver = adam(sick=sick)
  monkeypatch.setattr(adam_stage, "_fit_frames", solver)
  monkeypatch.setattr(adam_stage, "observations", lambda run, index: None)
  rows, last = adam_stage.solve(run, None, np.array([2]), jax.tree.map(lambda a: a[[1]], raw), 3)
  assert len(run.calls) == n_calls and np.isnan(rows.expr).any() == lost == np.isnan(last["total"]).any()
  if n_calls == 2:
    assert run.calls[1] == pytest.approx(run.calls[0] / 10)


def test_a_frame_that_diverged_is_not_where_the_next_one_starts():
  _, raw, _ = adam()
  assert adam_stage.last_sound(raw, 3) == 3
  raw.expr[3] = np.nan
  raw.rotation[2, 0] = np.inf
  assert [adam_stage.last_sound(raw, i) for i in (3, 4, 0)] == [1, 4, 0]


# --- --debug_checks ---


def test_debug_checks_name_the_stage_and_the_frame(small_head):
  identity = Identity(
    shape=jnp.zeros(small_head.shapedirs.shape[-1]), texture=jnp.zeros(4), light=jnp.zeros((9, 3)),
    camera=make_camera(1.5), lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  pose = neutral_pose(small_head, jnp.array([0.0, 0.0, 1.0], jnp.float32))
  poses = jax.tree.map(lambda a: jnp.broadcast_to(a, (4, *a.shape)), pose)
  check = lambda poses, frames=(0, 1, 2, 3): check_stage("frames", small_head, identity, poses, frames, (48, 64))
  check(poses)
  broken = poses.replace(expr=poses.expr.at[2, 3].set(jnp.nan))
  with pytest.raises(FloatingPointError, match="after stage frames, frame at position 2: expr is not finite"):
    check(broken)
  check(broken, frames=(0, 1, 3))  # a frame without a face is nobody's business
  behind = poses.replace(translation=poses.translation.at[1, 2].set(-1.0))
  with pytest.raises(FloatingPointError, match="position 1: the head is behind the camera"):
    check(behind)
  with pytest.raises(FloatingPointError, match="position 0: (division by zero|nan|focal)"):
    check_stage("camera", small_head, identity.replace(camera=make_camera(np.nan)), poses, [0], (48, 64))
