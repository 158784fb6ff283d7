"""A driver of GAGAvatar: `optim.pkl`, and its images as an LMDB.

Its camera is fixed: six image sides of focal length, the principal point in the middle of 512 x 512 px. The head of
another camera is moved so that it is seen where it was, as far as one camera can stand for another.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
from pathlib import Path

import numpy as np

from vht_jax.cameras import WORLD_TO_OPENCV
from vht_jax.errors import InputError
from vht_jax.results.export.flame_codes.consumers import Consumer, for_consumer, notes_file, padded
from vht_jax.results.export.flame_codes.places import still_head
from vht_jax.results.export.flame_codes.torch_file import pickled
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import rgb_png
from vht_jax.results.export.motion import matrices
from vht_jax.results.export.scene import Scene

GAGAVATAR = Consumer("gagavatar", "2020", 300, 100)
SIDE, FOCAL, SCALE = 512, 6.0, 5.0  # px; in sides; of FLAME
_SAME = 1e-3  # px; a camera nearer than this to the fixed one is it
_STEPS, _STRIDE = 8, 10  # of Gauss-Newton, on every tenth vertex
_FAR = 3.0  # px on average, from which on the moved head is warned of

log = logging.getLogger("vht_jax")


def to_gagavatar(
  scene: Scene, *, images: bool = True, flame_model_path: str | None = None, flame_release: str | None = None
) -> Files:
  """`optim.pkl`; with images also img_lmdb/, which GAGAvatar cannot do without.

  Raises:
    InputError: images that are not 512 x 512 px; lmdb is not installed.
  """
  if scene.size != (SIDE, SIDE):
    raise InputError(
      f"gagavatar: its images have 512 x 512 px; these have {scene.size[1]} x {scene.size[0]}: add --crop=head "
      "--size=512"
    )
  if images and scene.pictures is not None and importlib.util.find_spec("lmdb") is None:
    raise InputError("gagavatar: its images are an LMDB: pip install lmdb, or leave them out by --noimages")
  scene, notes = for_consumer(scene, GAGAVATAR, flame_model_path, flame_release)
  rotations, translations = still_head(scene, neck=True)
  exact = np.array([FOCAL * SIDE, SIDE / 2, SIDE / 2])
  if np.abs(scene.intrinsics - exact).max() > _SAME:
    rotations, translations, off = _before_fixed_camera(scene, rotations, translations)
    level = logging.WARNING if off > _FAR else logging.INFO
    log.log(level, "gagavatar: its camera is another (--focal=6 tracks with it); moved, the head is %.2f px off", off)
    notes["moved_px"] = off
  flip = np.array(WORLD_TO_OPENCV).T  # OpenCV's axes -> PyTorch3D's
  f32 = lambda x: np.asarray(x, np.float32)
  expr, shape = padded(scene.expr, GAGAVATAR.n_expr), padded(scene.shape, GAGAVATAR.n_shape)
  records = {}
  for i in range(len(scene)):
    R, T = (flip @ rotations[i]).T, SCALE * flip @ translations[i]
    pixels = scene.pixels(i)
    low, high = (np.clip(f(pixels, axis=0), 0, SIDE) for f in (np.min, np.max))
    records[f"{scene.name.replace('_', '-')}_{i}"] = {  # the part after the last _ is the frame's number
      "bbox": f32([*low, *high]) / SIDE,
      "shapecode": shape,
      "expcode": expr[i],
      "posecode": f32([0.0, 0.0, 0.0, *scene.angles["jaw"][i]]),
      "eyecode": f32(scene.angles["eyes"][i]),
      "transform_matrix": f32(np.concatenate([R, T[:, None]], axis=1)),
    }
  yield "optim.pkl", pickled(records)
  if images and scene.pictures is not None:
    yield from _database({key: rgb_png(scene.pictures.rgb(i)) for i, key in enumerate(records)})
  else:
    log.warning("gagavatar: wants the images as well, in img_lmdb/")
  yield notes_file(notes)


def _before_fixed_camera(
  scene: Scene, rotations: np.ndarray, translations: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
  """World -> camera that shows the head through the fixed lens most like it is seen, and how far off that is, px."""
  R, t, off = rotations.copy(), translations.copy(), []
  for i in range(len(scene)):
    points = ((scene.camera_vertices(i) - translations[i]) @ rotations[i])[::_STRIDE]
    seen = scene.pixels(i)[::_STRIDE]
    f, cx, cy = scene.intrinsics[i]
    depth = t[i, 2] * FOCAL * SIDE / f
    t[i] = [*(t[i, :2] + t[i, 2] * (np.array([cx, cy]) - SIDE / 2) / f), depth]
    for _ in range(_STEPS):
      q = points @ R[i].T + t[i]
      residual = seen - (FOCAL * SIDE * q[:, :2] / q[:, 2:] + SIDE / 2)
      per_point = (
        FOCAL
        * SIDE
        / q[:, 2:, None]
        * np.concatenate([np.tile(np.eye(2), (len(q), 1, 1)), -(q[:, :2] / q[:, 2:])[..., None]], axis=2)
      )
      turned = np.cross(np.eye(3)[None], (q - t[i])[:, None]).transpose(0, 2, 1)
      J = np.concatenate([per_point @ turned, per_point], axis=2).reshape(-1, 6)
      step = np.linalg.lstsq(J, residual.ravel(), rcond=None)[0]
      R[i], t[i] = matrices(step[:3]) @ R[i], t[i] + step[3:]
    q = points @ R[i].T + t[i]
    off.append(np.linalg.norm(FOCAL * SIDE * q[:, :2] / q[:, 2:] + SIDE / 2 - seen, axis=1).mean())
  return R, t, float(np.mean(off))


def _database(images: dict[str, bytes]) -> Files:
  """An LMDB of encoded images by their names."""
  import lmdb  # late: optional

  with tempfile.TemporaryDirectory() as folder:
    size = 2 * sum(map(len, images.values())) + (1 << 24)
    with lmdb.open(folder, map_size=size) as database:
      with database.begin(write=True) as transaction:
        for name, content in images.items():
          transaction.put(name.encode(), content)
    yield "img_lmdb/data.mdb", (Path(folder) / "data.mdb").read_bytes()
