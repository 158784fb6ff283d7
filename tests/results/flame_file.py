"""A stand-in for FLAME's file: its layout and sizes, of the open head's parts; few components move anything."""

import pickle

import numpy as np

N_SHAPE, N_EXPR = 24, 12


def write_flame(path, arrays):
  """A pickle in the layout of FLAME's."""
  wide = lambda a, n: np.concatenate([a, np.zeros((*a.shape[:-1], n - a.shape[-1]), np.float32)], -1)
  content = {
    "v_template": arrays["v_template"],
    "f": arrays["faces"].astype(np.uint32),
    "shapedirs": np.concatenate([wide(arrays["shapedirs"], 300), wide(arrays["exprdirs"], 100)], -1),
    "posedirs": arrays["posedirs"],
    "weights": arrays["weights"],
    "J_regressor": arrays["J_regressor"],
    "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
  }
  path.write_bytes(pickle.dumps(content, 2))
  return path


def flame_arrays(flame_head):
  """A head of FLAME's layout with joints that follow its vertices."""
  f32 = lambda x: np.asarray(x, np.float32)
  vertices = f32(flame_head.v_template)
  regressor = np.zeros((5, len(vertices)), np.float32)
  for j, place in enumerate(f32(flame_head.j_template)):
    regressor[j, np.argsort(np.linalg.norm(vertices - place, axis=1))[:25]] = 1 / 25
  return {
    "v_template": vertices,
    "faces": np.asarray(flame_head.faces),
    "shapedirs": f32(flame_head.shapedirs)[..., :N_SHAPE],
    "exprdirs": f32(flame_head.exprdirs)[..., :N_EXPR],
    "posedirs": f32(flame_head.posedirs).reshape(36, -1, 3).transpose(1, 2, 0),
    "weights": f32(flame_head.lbs_weights),
    "J_regressor": regressor,
  }


def without_its_landmarks(monkeypatch):
  """The stand-in has not FLAME's triangles, by which its landmarks are known."""
  from vht_jax.head.load import flame_files

  none = {"lmk_faces": np.zeros(70, int), "lmk_bary": np.full((70, 3), 1 / 3)}
  monkeypatch.setattr(flame_files, "mediapipe_points", lambda faces: none)
  monkeypatch.setattr(flame_files, "view_bias", lambda head: None)
