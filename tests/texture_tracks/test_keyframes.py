"""Which frames the tracks start in."""

import numpy as np

from vht_jax.texture_tracks import keyframes

STILL = np.zeros((8, 3))


def views(yaw_deg, pitch_deg=0.0):
  """(T, 3) the camera's axis in the head frame."""
  yaw, pitch = np.deg2rad(yaw_deg), np.deg2rad(pitch_deg) * np.ones_like(yaw_deg)
  return np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), -np.cos(yaw) * np.cos(pitch)], -1)


def shapes(n):
  return np.repeat(STILL[None], n, 0)


def test_middle_and_ends_of_a_turn():
  yaw = 35 * np.sin(np.linspace(0, 2 * np.pi, 73))
  chosen = keyframes.choose(views(yaw), shapes(73), np.ones(73, bool))
  assert len(chosen) == 3
  np.testing.assert_allclose(np.sort(yaw[chosen]), [-35, 0, 35], atol=1)


def test_more_where_views_or_expressions_ask_for_them():
  yaw, pitch = np.meshgrid(np.linspace(-40, 40, 9), np.linspace(-25, 25, 5))
  chosen = keyframes.choose(views(yaw.ravel(), pitch.ravel()), shapes(45), np.ones(45, bool))
  assert 3 < len(chosen) <= keyframes.MOST
  moved = shapes(40)
  moved[20:24] += 0.03  # an expression, in a head that does not turn
  moved[30:33] -= 0.03
  chosen = keyframes.choose(views(np.zeros(40)), moved, np.ones(40, bool))
  assert ((chosen >= 20) & (chosen < 24)).any() and ((chosen >= 30) & (chosen < 33)).any()


def test_bad_frames_are_not_chosen_and_few_frames_suffice():
  yaw = np.linspace(-30, 30, 31)
  good = np.ones(31, bool)
  good[[0, 15, 30]] = False
  chosen = keyframes.choose(views(yaw), shapes(31), good)
  assert good[chosen].all() and (np.diff(chosen) > 0).all()
  assert len(keyframes.choose(views(yaw), shapes(31), np.arange(31) < 2)) == 2
  assert len(keyframes.choose(views(yaw), shapes(31), np.zeros(31, bool))) == 0


def test_turn_is_the_span_of_the_views():
  yaw = 20 * np.sin(np.linspace(0, 2 * np.pi, 101))
  assert abs(np.rad2deg(keyframes.turn(views(yaw), np.ones(101, bool))) - 40) < 2
  assert np.rad2deg(keyframes.turn(views(0 * yaw), np.ones(101, bool))) < 1e-3
  glitch = yaw.copy()
  glitch[50] = 80  # one frame is no turn
  assert np.rad2deg(keyframes.turn(views(glitch), np.ones(101, bool))) < 45
