"""One shape from several clips of a person: against the least squares of all at once, and against chance."""

import dataclasses

import numpy as np
import pytest

from vht_jax.errors import InputError
from vht_jax.fit.solvers.uncertainty import MISFIT, beyond_prior, shape_information
from vht_jax.layout import Layout
from vht_jax.results import person

N = 12


def prior():
  rng = np.random.default_rng(1)
  return np.stack([np.full(N, np.sqrt(2.0)), rng.normal(size=N)])


def clip(rng, truth, n_seen=30, sd=0.5):
  """What a clip of a person says, with its rows of the stacked problem: (estimate, rows, right side)."""
  rows = rng.normal(size=(n_seen, N)) / sd
  seen = rows @ truth + rng.normal(size=n_seen)
  before = np.diag(prior()[0] ** 2) + np.outer(prior()[1], prior()[1])
  information = before + rows.T @ rows
  parts = beyond_prior(information, prior())
  shape = np.linalg.solve(information, rows.T @ seen)
  return person.Estimate(shape, parts.prior.astype(float), parts.data.astype(float)), rows, seen


def drawn(rng):
  before = np.diag(prior()[0] ** 2) + np.outer(prior()[1], prior()[1])
  return np.linalg.solve(np.linalg.cholesky(before).T, rng.normal(size=N))


def test_together_is_the_solution_of_all_clips_at_once():
  rng = np.random.default_rng(2)
  clips = [clip(rng, drawn(rng), n) for n in (30, 14, 5)]  # the last has fewer rows than unknowns
  shape, information = person.together([c[0] for c in clips])
  people = np.vstack([np.diag(prior()[0]), prior()[1]])
  rows = np.vstack([people, *(c[1] for c in clips)])
  seen = np.concatenate([np.zeros(N + 1), *(c[2] for c in clips)])
  wanted = np.linalg.lstsq(rows, seen, rcond=None)[0]
  np.testing.assert_allclose(shape, wanted, atol=2e-5)
  np.testing.assert_allclose(information, rows.T @ rows, rtol=1e-4, atol=1e-4)
  one = person.together([clips[0][0]])[0]
  np.testing.assert_allclose(one, clips[0][0].shape, atol=1e-6)  # of one clip: its own


def test_more_clips_are_nearer_to_the_truth():
  rng = np.random.default_rng(3)
  apart, together = [], []
  for _ in range(50):
    truth = drawn(rng)
    clips = [clip(rng, truth, 8)[0] for _ in range(3)]
    apart += [np.square(c.shape - truth).sum() for c in clips]
    together.append(np.square(person.together(clips)[0] - truth).sum())
  assert np.mean(together) < 0.6 * np.mean(apart)


def test_the_chance_of_a_difference_is_what_it_says():
  rng = np.random.default_rng(4)
  chances = []
  for _ in range(400):
    truth = drawn(rng)
    one, *others = [clip(rng, truth, n, sd=1.0)[0] for n in (20, 8, 25)]
    chances.append(person.difference(one, others, doubt=1.0).p)
  for p in (0.05, 0.25, 0.5, 0.75):
    assert abs(np.mean(np.array(chances) < p) - p) < 3 * np.sqrt(p * (1 - p) / 400)


def test_another_person_is_left_out_and_the_others_are_not():
  rng = np.random.default_rng(5)
  truth, other = drawn(rng), drawn(rng)
  clips = {name: clip(rng, truth)[0] for name in "abc"} | {"x": clip(rng, other)[0]}
  kept, apart = person.agreeing(clips)
  assert kept == ["a", "b", "c"] and list(apart) == ["x"]
  assert apart["x"].p < 1e-6 and apart["x"].freedom <= N
  kept, apart = person.agreeing({"a": clips["a"], "x": clips["x"]})  # nobody can say which of two it is
  assert kept == [] and set(apart) == {"a", "x"}
  assert person.agreeing({"a": clips["a"]}) == ([], {})


def test_what_only_one_clip_knows_is_no_difference():
  """Of the directions that the others do not know nothing can be told, however odd the clip is there."""
  rng = np.random.default_rng(6)
  truth = drawn(rng)
  other, odd = clip(rng, truth, 40)[0], clip(rng, truth, 40)[0]
  blind = dataclasses.replace(other, data=other.data * np.append(np.zeros(2), np.ones(N - 2)))
  blind = dataclasses.replace(blind, shape=np.linalg.solve(blind.before + blind.added, blind.added @ truth))
  odd = dataclasses.replace(odd, shape=odd.shape + np.append([4.0, -4.0], np.zeros(N - 2)))
  assert person.difference(odd, [other]).p < 1e-6
  found = person.difference(odd, [blind])
  assert found.p > 0.01 and found.freedom == N - 2
  assert person.difference(blind, [odd]) == pytest.approx(found)  # and it is the same from either side


def test_what_moves_a_shape_that_nothing_tells_is_no_difference():
  """As a lens that is not known does: the fit has held it, its file tells nothing in that direction."""
  rng = np.random.default_rng(12)
  truth = drawn(rng)
  one, other = clip(rng, truth, 40)[0], clip(rng, truth, 20, sd=3.0)[0]
  blind = np.diag(np.append(np.ones(N - 1), 0.0))  # of the last number nothing is told
  one = dataclasses.replace(one, data=np.linalg.cholesky(blind @ one.added @ blind + 1e-14 * np.eye(N)).T @ blind)
  found = [
    person.difference(dataclasses.replace(one, shape=one.shape + np.append(np.zeros(N - 1), by)), [other])
    for by in (0.0, 10.0)
  ]
  assert min(apart.freedom for apart in found) >= 1
  np.testing.assert_allclose(found[1].chi_square, found[0].chi_square, rtol=1e-6)


# --- what a fit says of a shape --------------------------------------------------------------------------------------


def test_everything_else_is_marginalised_and_the_shape_follows_the_focal_length():
  """Against the covariance of all unknowns, of rows in which the focal length is as unsure as it is said to be."""
  rng = np.random.default_rng(7)
  layout = Layout.of(shape=(N,), log_focal=(), principal=(2,), offset=(4, 3))
  rows = rng.normal(size=(60, layout.size)) * np.concatenate([np.ones(N), [30.0], np.full(14, 100.0)])
  held = rows.T @ rows
  at = layout.at("log_focal").start
  held[at, at] += 1e8  # as fits hold it
  rest = np.delete(np.arange(layout.size), at)
  given = np.linalg.inv((rows.T @ rows)[np.ix_(rest, rest)])
  follows = given @ (rows.T @ rows)[rest, at]
  wanted = (given + np.outer(follows, follows) * 0.05**2)[:N, :N]
  np.testing.assert_allclose(np.linalg.inv(shape_information(held, layout, 0.05)), wanted, rtol=1e-6, atol=1e-9)
  np.testing.assert_allclose(np.linalg.inv(shape_information(held, layout, 0.0)), given[:N, :N], rtol=1e-6, atol=1e-9)


def test_what_the_data_take_away_is_not_counted():
  before = np.diag(prior()[0] ** 2) + np.outer(prior()[1], prior()[1])
  less = beyond_prior(0.5 * before, prior())  # a focal length that is unsure, for instance
  assert less.data.shape == (0, N)
  direction = np.arange(1.0, N + 1)
  more = beyond_prior(before + np.outer(direction, direction), prior())
  np.testing.assert_allclose(more.data.T @ more.data, np.outer(direction, direction), rtol=1e-4, atol=1e-3)


def test_estimates_that_do_not_fit_together_are_refused():
  rng = np.random.default_rng(8)
  one = clip(rng, drawn(rng))[0]
  arrays = {
    "shape": np.append(one.shape, np.zeros(3)),
    "vht_jax_shape_prior": one.prior,
    "vht_jax_shape_data": one.data,
  }
  assert person.estimate_of({"shape": one.shape}, "f") is None
  np.testing.assert_array_equal(person.estimate_of(arrays, "f").shape, one.shape)  # results are padded
  for wrong in ({"vht_jax_shape_prior": one.prior[:1]}, {"shape": one.shape[:3]}, {"shape": np.full(N, np.nan)}):
    with pytest.raises(InputError, match="f: what it says of the shape"):
      person.estimate_of(arrays | wrong, "f")


# --- models that do not hold -----------------------------------------------------------------------------------------


def misfitting(rng, truth, n_seen=30, sd=0.5):
  """A clip whose data show another shape than the person's, what that adds to it being as `MISFIT` says."""
  found, rows, seen = clip(rng, truth + MISFIT * drawn(rng), n_seen, sd)
  return dataclasses.replace(found, misfit=MISFIT), rows, seen


def test_together_each_clip_may_be_wrong_by_itself():
  """Against the least squares of all clips at once, with by how much each shows another shape as unknowns."""
  rng = np.random.default_rng(9)
  clips = [misfitting(rng, drawn(rng), n) for n in (30, 14, 40)]
  shape, information = person.together([c[0] for c in clips])
  people = np.vstack([np.diag(prior()[0]), prior()[1]])
  blocks = [np.kron(np.eye(4), people)]
  for k, (_, rows, _) in enumerate(clips):
    own = np.eye(1, 3, k) * MISFIT
    blocks.append(np.kron(np.concatenate([np.ones((1, 1)), own], axis=1), rows))
  rows, seen = np.vstack(blocks), np.concatenate([np.zeros(len(blocks[0])), *(c[2] for c in clips)])
  np.testing.assert_allclose(shape, np.linalg.lstsq(rows, seen, rcond=None)[0][:N], atol=2e-5)
  wanted = np.linalg.inv(rows.T @ rows)[:N, :N]
  np.testing.assert_allclose(np.linalg.inv(information), wanted, rtol=1e-4, atol=1e-6)


def test_a_misfit_is_no_other_person():
  rng = np.random.default_rng(10)
  chances, taken_for_sure = [], 0
  for _ in range(400):
    truth = drawn(rng)
    one, other = [misfitting(rng, truth, 40, sd=0.1)[0] for _ in range(2)]
    chances.append(person.difference(one, [other], doubt=1.0).p)
    sure, other = (dataclasses.replace(e, misfit=0.0) for e in (one, other))
    taken_for_sure += person.difference(sure, [other]).p < person.OTHER
  for p in (0.05, 0.25, 0.5, 0.75):
    assert abs(np.mean(np.array(chances) < p) - p) < 3 * np.sqrt(p * (1 - p) / 400)
  assert taken_for_sure > 390
  assert person.difference(misfitting(rng, drawn(rng))[0], [misfitting(rng, drawn(rng))[0]]).p < person.OTHER


def test_what_was_written_before_there_was_a_misfit_is_read():
  one = clip(np.random.default_rng(11), np.ones(N))[0]
  arrays = {"shape": one.shape, "vht_jax_shape_prior": one.prior, "vht_jax_shape_data": one.data}
  found = [person.estimate_of(arrays | more, "f") for more in ({}, {"vht_jax_shape_misfit": np.array(0.25)})]
  assert [e and e.misfit for e in found] == [0.0, 0.25]
  for wrong in (-1.0, np.nan, [1.0, 1.0]):
    with pytest.raises(InputError, match="f: its misfit"):
      person.estimate_of(arrays | {"vht_jax_shape_misfit": np.array(wrong)}, "f")
