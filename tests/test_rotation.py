"""Rotations: closed forms, an independent implementation, derivatives where the textbook formulas break."""

import math

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.transform import Rotation

from vht_jax import rotation
from vht_jax.rotation import bound, unbound

# compiled once: most of an eager run is the compilation of single operations
axis_angle_to_matrix = jax.jit(rotation.axis_angle_to_matrix)
matrix_to_axis_angle = jax.jit(rotation.matrix_to_axis_angle)
nearest_axis_angle = jax.jit(rotation.nearest_axis_angle)
AXIS = np.array([0.48, -0.6, 0.64])
# 0, the f32 underflow of the square, both sides of the series' end, pi from both sides, beyond one turn
ANGLES = [0.0, 1e-30, 1e-12, 1e-7, 1e-3, 0.3, 0.9999, 1.0001, 2.0, math.pi - 1e-4, math.pi, math.pi + 1e-4, 6.0, 7.5]


@pytest.mark.parametrize("angle", ANGLES)
def test_matrix_agrees_with_scipy(angle):
  r = AXIS * angle
  R = axis_angle_to_matrix(jnp.asarray(r, jnp.float32))
  np.testing.assert_allclose(R, Rotation.from_rotvec(r).as_matrix(), atol=1e-6)


@hypothesis.given(hnp.arrays(np.float32, 3, elements=st.floats(-8, 8, width=32)))
@hypothesis.settings(max_examples=60, deadline=None)
def test_matrix_is_a_rotation(r):
  R = np.asarray(axis_angle_to_matrix(jnp.asarray(r)), np.float64)
  np.testing.assert_allclose(R @ R.T, np.eye(3), atol=3e-6)
  assert abs(np.linalg.det(R) - 1) < 3e-6


@pytest.mark.parametrize("angle", ANGLES)
def test_matrix_derivatives_of_two_orders(angle):
  with jax.enable_x64(True):
    check_grads(axis_angle_to_matrix, (jnp.asarray(AXIS * angle),), order=2, modes=("fwd", "rev"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-4, 0.5, 0.999, 1.001, 3.0])
def test_derivative_in_closed_form_is_that_of_forward_mode(angle):
  r = angle * jnp.array([0.6, -0.48, 0.64])
  R, d_R = rotation.matrix_and_derivative(r)
  np.testing.assert_allclose(R, rotation.axis_angle_to_matrix(r), atol=1e-7)
  np.testing.assert_allclose(d_R, jax.jacfwd(rotation.axis_angle_to_matrix)(r), atol=1e-6)


def test_matrix_second_derivative_at_the_identity():
  # R = I + K + K^2/2 + ..., K^2 = r r^T - |r|^2 I: the Hessian of R_ab is the symmetrised outer product
  hessian = jax.jit(jax.hessian(rotation.axis_angle_to_matrix))(jnp.zeros(3))
  eye = np.eye(3)
  expected = 0.5 * (np.einsum("ai,bj->abij", eye, eye) + np.einsum("aj,bi->abij", eye, eye))
  expected = expected - np.einsum("ab,ij->abij", eye, eye)
  np.testing.assert_allclose(hessian, expected, atol=1e-6)


@pytest.mark.parametrize("axis", [AXIS, -AXIS, [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.7071068, 0.7071068, 0]])
@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 0.06, 0.07, 1.0, 2.0, 3.0, math.pi - 1e-2, math.pi - 1e-4])
def test_axis_angle_of_a_matrix(axis, angle):
  r = np.asarray(axis) * angle
  R = jnp.asarray(Rotation.from_rotvec(r).as_matrix(), jnp.float32)
  np.testing.assert_allclose(matrix_to_axis_angle(R), r, atol=2e-6)


@pytest.mark.parametrize("axis", [AXIS, [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, -0.6, 0.8]])
def test_axis_angle_of_half_a_turn(axis):
  R = Rotation.from_rotvec(np.asarray(axis) * math.pi).as_matrix()
  r = np.asarray(matrix_to_axis_angle(jnp.asarray(R, jnp.float32)))
  assert abs(np.linalg.norm(r) - math.pi) < 2e-6
  np.testing.assert_allclose(Rotation.from_rotvec(r).as_matrix(), R, atol=2e-6)


def _round_trip(r):
  return rotation.matrix_to_axis_angle(rotation.axis_angle_to_matrix(r))


@jax.jit
def _round_trip_derivatives(r):
  return _round_trip(r), jax.jacfwd(_round_trip)(r), jax.jacrev(_round_trip)(r), jax.hessian(_round_trip)(r)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-4, 0.06, 0.07, 1.0, 3.0, math.pi - 1e-3])
def test_round_trip_has_the_identity_as_jacobian(angle):
  with jax.enable_x64(True):
    r = jnp.asarray(AXIS * angle)
    value, forward, reverse, hessian = _round_trip_derivatives(r)
    np.testing.assert_allclose(value, r, atol=1e-9)
    np.testing.assert_allclose(forward, np.eye(3), atol=1e-7)
    np.testing.assert_allclose(reverse, np.eye(3), atol=1e-7)
    np.testing.assert_allclose(hessian, np.zeros((3, 3, 3)), atol=1e-5)  # of the identity map


def test_half_a_turn_has_finite_derivatives():
  reverse, forward = (jax.jit(jac(rotation.matrix_to_axis_angle)) for jac in (jax.jacrev, jax.jacfwd))
  for axis in (AXIS, [1, 0, 0], [0, 1, 0], [0, 0, 1]):
    R = axis_angle_to_matrix(jnp.asarray(np.asarray(axis) * math.pi, jnp.float32))
    assert np.isfinite(reverse(R)).all()
    assert np.isfinite(forward(R)).all()


@hypothesis.given(
  hnp.arrays(np.float32, 3, elements=st.floats(-4, 4, width=32)),
  hnp.arrays(np.float32, 3, elements=st.floats(-12, 12, width=32)),
)
@hypothesis.settings(max_examples=80, deadline=None)
def test_nearest_branch_against_all_branches(r, reference):
  angle = np.linalg.norm(r)
  hypothesis.assume(angle > 1e-3)
  found = np.asarray(nearest_axis_angle(jnp.asarray(r), jnp.asarray(reference)))
  branches = [r + 2 * math.pi * k * r / angle for k in range(-6, 7)]
  best = min(np.linalg.norm(b - reference) for b in branches)
  assert np.linalg.norm(found - reference) <= best + 1e-4
  np.testing.assert_allclose(axis_angle_to_matrix(jnp.asarray(found)), axis_angle_to_matrix(jnp.asarray(r)), atol=1e-4)


def test_nearest_branch_follows_a_head_that_turns_past_half_a_turn():
  # frame to frame, as the tracker uses it: the matrix flips the sign of the axis at pi, the track must not
  track = np.stack([np.array([0.05, 1.0, -0.02]) * a for a in np.linspace(2.9, 3.4, 21)])
  previous = jnp.asarray(track[0], jnp.float32)
  for r in track[1:]:
    read = matrix_to_axis_angle(jnp.asarray(Rotation.from_rotvec(r).as_matrix(), jnp.float32))
    previous = nearest_axis_angle(read, previous)
    np.testing.assert_allclose(previous, r, atol=1e-5)


def test_nearest_branch_of_the_identity():
  found = nearest_axis_angle(jnp.zeros(3), jnp.array([0.0, 6.0, 0.5]))
  assert abs(np.linalg.norm(found) - 2 * math.pi) < 1e-5
  np.testing.assert_allclose(nearest_axis_angle(jnp.zeros(3), jnp.zeros(3)), np.zeros(3))
  assert np.isfinite(jax.jacrev(nearest_axis_angle)(jnp.zeros(3), jnp.zeros(3))).all()


def test_bound_reaches_and_keeps_the_limits():
  lower, upper = jnp.array([-1.0, -0.1, 0.0]), jnp.array([2.0, 0.1, 5.0])
  np.testing.assert_allclose(bound(jnp.full(3, -20.0), lower, upper), lower, atol=1e-6)
  np.testing.assert_allclose(bound(jnp.full(3, 20.0), lower, upper), upper, atol=1e-6)
  np.testing.assert_allclose(bound(jnp.zeros(3), lower, upper), (lower + upper) / 2, atol=1e-7)


def test_unbound_inverts_and_stays_finite():
  lower, upper = jnp.array([-1.0, -0.1, 0.0]), jnp.array([2.0, 0.1, 5.0])
  for raw in (-3.0, -0.5, 0.0, 1.2, 3.0):
    np.testing.assert_allclose(unbound(bound(jnp.full(3, raw), lower, upper), lower, upper), raw, rtol=1e-4, atol=1e-5)
  for angle in (lower, upper, lower - 1.0, upper + 1.0):
    raw = unbound(angle, lower, upper)
    assert np.isfinite(raw).all()
    np.testing.assert_allclose(bound(raw, lower, upper), jnp.clip(angle, lower, upper), atol=1e-5)
    assert (abs(unbound(angle, lower, upper, margin=0.02)) < 2.5).all()


def test_one_frame_equals_many():
  r = jnp.asarray(np.random.default_rng(0).normal(size=(7, 3)) * 2, jnp.float32)
  many = jax.vmap(axis_angle_to_matrix)(r)
  back = jax.vmap(matrix_to_axis_angle)(many)
  for k in range(7):
    np.testing.assert_allclose(many[k], axis_angle_to_matrix(r[k]), atol=1e-6)
    np.testing.assert_allclose(back[k], matrix_to_axis_angle(many[k]), atol=1e-6)
