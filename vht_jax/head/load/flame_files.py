"""The user's FLAME: the model pickle of any year, with the texture, UV, landmark and mask files around it.

File names are those of VHT's assets/flame folder first, then those under which the same data is published elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from vht_jax.errors import InputError
from vht_jax.head.load.build import flame_model_from_arrays
from vht_jax.head.load.flame_landmarks import mediapipe_points, of_mediapipe
from vht_jax.head.load.slide import view_bias
from vht_jax.head.load.teeth import with_teeth
from vht_jax.head.load.unpickle import load_pickle, loads
from vht_jax.host.npz import npz_shapes, read_npy, read_npz, read_texels
from vht_jax.types import FlameModel

FLAME_SITE = "https://flame.is.tue.mpg.de (free registration, Downloads)"
VHT_SITE = "https://github.com/philgras/video-head-tracker (folder assets/flame)"

MODEL_FILES = (
  "generic_model.pkl", "flame2023.pkl", "flame2023_no_jaw.pkl", "flame2023_Open.pkl", "flame2023_open.pkl",
  "flame2020.pkl", "FLAME_NEUTRAL.pkl", "FLAME2023/flame2023.pkl", "FLAME2020/generic_model.pkl",
)  # fmt: skip
_TEXTURE_FILES = ("FLAME_texture.npz", "albedoModel2020_FLAME_albedoPart.npz", "FLAME_albedo_from_BFM.npz")
_EMBEDDING_FILES = ("landmark_embedding_with_eyes.npy", "landmark_embedding.npy")
_MESH_FILES = ("head_template_mesh.obj", "head_template.obj")
_MASK_FILES = ("FLAME_masks.pkl", "FLAME_masks/FLAME_masks.pkl")
_DENSE_FILES = (
  "mediapipe_landmark_embedding.npz", "mediapipe_landmark_embedding/mediapipe_landmark_embedding.npz",
)  # fmt: skip
_LOWER_NECK_FILES = ("lower_neck_face_idcs.npy",)

N_IDENTITY = 300  # FLAME's shapedirs are 300 identity components followed by 100 of expression
_TEXTURE_SIZE = 256  # VHT's: FLAME's 512 texels per side, every second one


def load_flame(
  path: Path,
  folders: Sequence[Path],
  n_shape: int | None,
  n_expr: int | None,
  n_texture: int | None,
  detector: str = "mediapipe",
  teeth: bool = False,
) -> FlameModel:
  """Reads a FLAME model.

  Args:
    path: the model's pickle.
    folders: where to look for the files that go with it, in order. Without a texture the head is grey, without UVs the
      texture is left out, both with a warning.
    n_shape, n_expr, n_texture: components to keep; None means all.
    detector: whose landmarks. MediaPipe's are those of our table, all others' those of FLAME's embedding, which must
      then be there; so must it for a mesh that is not FLAME's.
    teeth: add some, which FLAME has not.

  Raises:
    InputError: a file is missing, broken, or not FLAME's.
  """
  model = _read_model(path)
  shapedirs = model["shapedirs"]
  faces = model["f"]

  uv = {}
  mesh_path = _find(folders, _MESH_FILES)
  if mesh_path is not None:
    mesh = read_obj(mesh_path)
    if len(mesh["v"]) != len(model["v_template"]) or mesh["faces"].shape != faces.shape:
      raise InputError(
        f"{mesh_path}: expected FLAME's template with {len(model['v_template'])} vertices and {len(faces)} triangles, "
        f"found {len(mesh['v'])} and {len(mesh['faces'])}"
      )
    faces = mesh["faces"]  # VHT's landmark and neck lists count the faces of this file
    uv = {"vt": mesh["vt"], "faces_vt": mesh["faces_vt"]} if len(mesh["vt"]) else {}

  texture = {}
  texture_path = _find(folders, _TEXTURE_FILES)
  if texture_path is None:
    logging.warning(
      "no texture model (%s) in %s: the head is grey. FLAME's is at %s",
      ", ".join(_TEXTURE_FILES), _names(folders), FLAME_SITE,
    )  # fmt: skip
  else:
    if not uv:
      packed = read_npz(texture_path, ("vt", "ft"))
      if packed.keys() >= {"vt", "ft"} and packed["ft"].shape == faces.shape:
        uv = {"vt": packed["vt"], "faces_vt": packed["ft"]}
    if uv:
      mean, basis = read_texture(texture_path, n_texture)
      texture = {"texture_mean": mean, "texture_basis": basis}
    else:
      logging.warning("no UV map (%s) in %s: the texture is not used", _MESH_FILES[0], _names(folders))

  points = mediapipe_points(faces) if of_mediapipe(detector) else None
  slides = points is not None
  if points is None:
    lmk_faces, lmk_bary = _read_landmarks(folders, faces, model)
    points = {"lmk_faces": lmk_faces, "lmk_bary": lmk_bary, **_read_dense(folders)}
  arrays: dict[str, Any] = dict(
    v_template=model["v_template"],
    faces=faces,
    shapedirs=_used(shapedirs[..., :N_IDENTITY])[..., :n_shape],
    exprdirs=_used(shapedirs[..., N_IDENTITY:])[..., :n_expr],
    posedirs=model["posedirs"],
    weights=model["weights"],
    J_regressor=model["J_regressor"],
    kintree_table=model["kintree_table"],
    masks=_read_masks(folders),
    lower_neck_faces=_read_lower_neck(folders, faces, model["weights"]),
    name=f"FLAME ({path.name})",
    **uv,
    **texture,
    **points,
  )
  head = flame_model_from_arrays(**(with_teeth(arrays) if teeth else arrays))
  return head.replace(view_bias=view_bias(head)) if slides else head


def find_model(folders: Sequence[Path]) -> Path | None:
  """The first FLAME pickle in `folders`."""
  return _find(folders, MODEL_FILES)


def read_texture(path: Path, n_texture: int | None) -> tuple[np.ndarray, np.ndarray]:
  """A texture space in FLAME's UV map, RGB in [0, 1], at VHT's 256 x 256.

  Knows FLAME_texture.npz (mean, tex_dir; 0..255) and the albedo models in its UV map (MU, PC; 0..1): AlbedoMM and
  BFM_to_FLAME. All three are stored BGR.

  Args:
    path: of the npz.
    n_texture: components kept; None means all. Only these are held in memory.

  Returns:
    mean (256, 256, 3) and basis (256, 256, 3, n) float32, row 0 at v = 1.
  """
  shapes = npz_shapes(path)
  keys = next((pair for pair in (("mean", "tex_dir"), ("MU", "PC")) if shapes.keys() >= set(pair)), None)
  if keys is None:
    raise InputError(f"{path}: expected the arrays mean and tex_dir (or MU and PC), found {', '.join(shapes)}")
  mean = read_npz(path, (keys[0],))[keys[0]]
  side = round((mean.size / 3) ** 0.5)
  if side * side * 3 != mean.size:
    raise InputError(f"{path} [{keys[0]}]: expected a square RGB image, found shape {mean.shape}")
  stride = max(1, side // _TEXTURE_SIZE)
  mean = mean.reshape(side, side, 3)[::stride, ::stride].astype(np.float32)
  available = shapes[keys[1]][-1] if shapes[keys[1]] else 0
  n = available if n_texture is None else min(n_texture, available)
  basis = read_texels(path, keys[1], (side, side), stride, n)
  scale = np.float32(1.0 / 255.0 if mean.max() > 2.0 else 1.0)
  return np.ascontiguousarray(mean[..., ::-1]) * scale, np.ascontiguousarray(basis[:, :, ::-1]) * scale


def read_obj(path: Path) -> dict[str, np.ndarray]:
  """Vertices "v", triangles "faces", UVs "vt" and their ids per corner "faces_vt" of a Wavefront OBJ."""
  rows: dict[str, list] = {"v": [], "vt": [], "f": []}
  try:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
      key, _, rest = line.partition(" ")
      if key in rows:
        rows[key].append(rest.split())
    corners = np.array([[(c.split("/") + [""])[:2] for c in face] for face in rows["f"]])
    if corners.ndim != 3 or corners.shape[1] != 3:
      raise InputError(f"{path}: expected triangles only")
    has_uv = len(rows["vt"]) > 0 and (corners[..., 1] != "").all()
    return {
      "v": np.array([row[:3] for row in rows["v"]], np.float32).reshape(-1, 3),
      "faces": corners[..., 0].astype(np.int64) - 1,
      "vt": np.array([row[:2] for row in rows["vt"]] if has_uv else [], np.float32).reshape(-1, 2),
      "faces_vt": corners[..., 1].astype(np.int64) - 1 if has_uv else np.zeros((0, 3), np.int64),
    }
  except (OSError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise InputError(f"{path}: not a readable triangle mesh ({error})") from error


def _read_model(path: Path) -> dict[str, np.ndarray]:
  model = load_pickle(path)
  needed = ("v_template", "f", "shapedirs", "posedirs", "weights", "J_regressor", "kintree_table")
  missing = [key for key in needed if not isinstance(model, dict) or not isinstance(model.get(key), np.ndarray)]
  if missing:
    raise InputError(f"{path}: not a FLAME model, it lacks {', '.join(missing)}")
  if model["shapedirs"].ndim != 3:
    raise InputError(f"{path}: shapedirs must have shape (V, 3, 400), found {model['shapedirs'].shape}")
  return model


def _used(directions: np.ndarray) -> np.ndarray:
  """Without trailing components that move nothing: models cut to their first ones are often padded with zeros.

  They would make the code of a strange identity look common (its rms over the components steers the photometric stage).
  """
  moving = np.flatnonzero(np.any(directions != 0, axis=(0, 1)))
  return directions[..., : moving[-1] + 1] if len(moving) else directions[..., :0]


def _read_landmarks(folders, faces: np.ndarray, model: dict) -> tuple[np.ndarray, np.ndarray]:
  path = _find(folders, _EMBEDDING_FILES)
  if path is None:
    raise InputError(
      f"landmark embedding not found: looked for {', '.join(_EMBEDDING_FILES)} in {_names(folders)}; "
      f"it comes with VHT, {VHT_SITE}"
    )
  content = read_npy(path)
  embedding = loads(content, str(path)) if isinstance(content, bytes) else None
  keys = ("full_lmk_faces_idx", "full_lmk_bary_coords")
  if not isinstance(embedding, dict) or not all(isinstance(embedding.get(key), np.ndarray) for key in keys):
    raise InputError(f"{path}: not a FLAME landmark embedding, it lacks {' or '.join(keys)}")
  lmk_faces, lmk_bary = embedding[keys[0]].reshape(-1), embedding[keys[1]].reshape(-1, 3)
  if len(lmk_faces) == 68:
    iris_faces, iris_bary = _irises(faces, model)
    lmk_faces, lmk_bary = np.concatenate([lmk_faces, iris_faces]), np.concatenate([lmk_bary, iris_bary])
  return lmk_faces, lmk_bary


def _irises(faces: np.ndarray, model: dict) -> tuple[np.ndarray, np.ndarray]:
  """Iris landmarks for embeddings without: the front vertex of the eyeballs, the one at x < 0 (joint 4) first."""
  found_faces, found_bary = [], []
  for joint in (4, 3):
    eyeball = np.flatnonzero(model["weights"][:, joint] > 0.99)
    if not len(eyeball):
      raise InputError(f"no vertex moves with eye joint {joint} alone: cannot place the iris landmark")
    front = eyeball[np.argmax(model["v_template"][eyeball, 2])]
    face, corner = np.argwhere(faces == front)[0]
    found_faces.append(face)
    found_bary.append(np.eye(3)[corner])
  return np.array(found_faces), np.array(found_bary)


def _read_dense(folders) -> dict[str, np.ndarray]:
  path = _find(folders, _DENSE_FILES)
  if path is None:
    return {}
  data = read_npz(path)
  keys = {"dense_faces": "lmk_face_idx", "dense_bary": "lmk_b_coords", "dense_index": "landmark_indices"}
  missing = [key for key in keys.values() if key not in data]
  if missing:
    raise InputError(f"{path}: not a MediaPipe landmark embedding, it lacks {', '.join(missing)}")
  return {ours: data[theirs].reshape(-1, 3) if ours == "dense_bary" else data[theirs].reshape(-1)
          for ours, theirs in keys.items()}  # fmt: skip


def _read_masks(folders) -> dict[str, np.ndarray]:
  path = _find(folders, _MASK_FILES)
  if path is None:
    return {}
  masks = load_pickle(path)
  if not isinstance(masks, dict):
    raise InputError(f"{path}: expected a dictionary of vertex lists")
  return {str(name): np.asarray(ids) for name, ids in masks.items()}


def _read_lower_neck(folders, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
  path = _find(folders, _LOWER_NECK_FILES)
  if path is None:
    # As on the open head: what hangs mostly on the root joint moves with the shoulders
    return np.flatnonzero((weights[:, 0] > 0.6)[faces].all(1))
  content = read_npy(path)
  if isinstance(content, bytes):
    content = np.asarray(loads(content, str(path)))
  return content.reshape(-1)


def _find(folders: Sequence[Path], names: Sequence[str]) -> Path | None:
  return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def _names(folders: Sequence[Path]) -> str:
  return ", ".join(str(folder) for folder in folders)
