"""The clip that the tests of exporters share: six frames of a moving head, not square, the principal point not central.

`tests/conftest.py` has its fixtures: `clip_scene` (open head), `flame_scene` (a head in FLAME's sizes), `clip_folder`
(the open head's as the output folder of a run, with images), `flame_folder` likewise. `assert_reprojects` is the check
that every format gets.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras, results
from vht_jax.config import TrackConfig
from vht_jax.dataset.layout import IMAGE, frame_name
from vht_jax.head import flame
from vht_jax.results.export import make_scene
from vht_jax.types import Identity, Status, TrackResult

SIZE = (360, 500)  # H, W px
FOCAL, PRINCIPAL = 1.9, (0.46, 0.57)  # of the longer side; of the sides
FRAMES = np.array([1, 2, 3, 5, 6, 7])  # ids; one is missing
TIMES = np.array([0.0, 0.04, 0.08, 0.16, 0.205, 0.24])  # s, not even
FPS = 25.0
WITHIN, BESIDE = 0.02, 5.0  # px: what a right reader finds at most, and a wrong one at least


def make_result(head, seed=3) -> TrackResult:
  """Every degree of freedom in use, within the limits of the joints, every vertex before the camera."""
  n, rng = len(FRAMES), np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  neutral = flame.neutral_pose(head)
  poses = jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), neutral)
  poses = poses.replace(
    expr=0.3 * jnp.abs(draw(n, head.exprdirs.shape[-1])),
    rotation=poses.rotation + 0.3 * draw(n, 3),
    translation=poses.translation + 0.05 * draw(n, 3),
    neck=0.2 * draw(n, 3),
    jaw=jnp.abs(draw(n, 3)) * jnp.array([[0.2, 0.001, 0.001]]),
    eyes=jnp.clip(0.2 * draw(n, 2, 3), -0.5, 0.5) * jnp.array([[[1.0, 1.0, 0.0]]]),
  )
  identity = Identity(
    shape=draw(head.shapedirs.shape[-1]),
    texture=0.3 * draw(head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(3.5),
    camera=cameras.make_camera(FOCAL, PRINCIPAL),
    lmk_offset=jnp.zeros((70, 3)),
    texture_layer=0.05 * draw(16, 16, 3),
  )
  return TrackResult(identity=identity, poses=poses, energies={}, status=jnp.full(n, Status.TRACKED))


def flame_like(open_head, name="FLAME (flame2023.pkl)"):
  """A head with FLAME's sizes (5023 vertices, 300 + 100 components, unnamed) and name, of the open head's parts.

  Its shape is nobody's; formats only see that it is an LBS head of FLAME's layout.
  """
  n, V = open_head.shapedirs.shape[-1], 5023
  uv, weights = np.asarray(open_head.uv), np.asarray(open_head.lbs_weights)
  j_dirs = open_head.j_shapedirs
  eyes = (weights[:, 3:] > 0.5).any(1)  # both eyeballs, so that mixed up eyes are seen
  chosen = np.sort(np.concatenate([np.flatnonzero(eyes), np.flatnonzero(~eyes)[: V - eyes.sum()]]))
  number = np.full(len(weights), -1)
  number[chosen] = np.arange(V)
  faces = number[np.asarray(open_head.faces)]
  keep = (faces >= 0).all(1)
  wide = lambda a, width: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, width - a.shape[-1])])
  corner = lambda a: jnp.asarray(np.maximum(number[np.asarray(a)], 0).astype(np.int32))
  return open_head.replace(
    v_template=open_head.v_template[chosen],
    shapedirs=wide(open_head.shapedirs[chosen], 300),
    exprdirs=wide(open_head.exprdirs[chosen], 100),
    posedirs=open_head.posedirs.reshape(36, -1, 3)[:, chosen].reshape(36, -1),
    j_shapedirs=jnp.concatenate([wide(j_dirs[..., :n], 300), wide(j_dirs[..., n:], 100)], -1),
    lbs_weights=open_head.lbs_weights[chosen],
    faces=jnp.asarray(faces[keep].astype(np.int32)),
    uv=jnp.asarray(uv[keep]),
    lmk_vertices=corner(open_head.lmk_vertices),
    dense_vertices=corner(open_head.dense_vertices),
    masks={k: m[chosen] for k, m in open_head.masks.items() if len(m) == len(open_head.v_template)},
    expr_names=(),
    expr_one_sided=False,
    name=name,
  )  # fmt: skip


def scene_of_head(head, **changes):
  """The clip of a head as the scene that writers get, without images."""
  return make_scene(head, make_result(head), SIZE, frame_ids=FRAMES, times=TIMES, fps=FPS, name="clip", **changes)


def write_folder(folder, head):
  """The clip as the output folder of a run: tracked_flame_params.npz and dataset/ with images.

  Each image has the silhouette of the head in white before a grey that says its frame: (20 * id, 60, 120) RGB.
  """
  result = make_result(head)
  config = TrackConfig.of(
    n_shape=head.shapedirs.shape[-1], n_expr=head.exprdirs.shape[-1], n_tex=head.texture_basis.shape[-1]
  )
  results.save_tracked(folder / results.FILE_NAME, result, FRAMES, SIZE, config, head, times=TIMES)
  scene = scene_of_head(head)
  faces = np.asarray(head.faces)
  for i, number in enumerate(FRAMES):
    image = np.full((*SIZE, 3), background(number), np.uint8)
    for triangle in scene.pixels(i)[faces]:
      cv2.fillConvexPoly(image, np.round((triangle - 0.5) * 16).astype(np.int32), (255, 255, 255), shift=4)
    path = folder / "dataset" / frame_name(number) / IMAGE
    path.parent.mkdir(parents=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
  return folder


def background(number) -> tuple[int, int, int]:
  """The colour that a frame's image has around the head."""
  return (20 * int(number), 60, 120)


_TRUE: dict[int, tuple] = {}


@partial(jax.jit, static_argnames="size")
def _projected(model, shape, camera, poses, size):
  vertices = jax.vmap(lambda pose: flame.skin(model, shape, pose))(poses)
  return cameras.project(camera, vertices, size)[..., :2]


def true_pixels(scene) -> np.ndarray:
  """(T, V, 2) by the tracker's own skinning and projection, which the exporters do not use."""
  if id(scene) not in _TRUE:
    identity = scene.result.identity
    model = scene.model.replace(name="")  # one program, whatever it is called
    found = _projected(model, identity.shape, identity.camera, scene.result.poses, scene.size)
    _TRUE[id(scene)] = np.asarray(found, np.float64), scene
  return _TRUE[id(scene)][0]


def assert_reprojects(found, scene, vertices=slice(None)) -> None:
  """A second reader's pixels (T, V', 2) are ours for every frame, of all vertices or of those numbered."""
  error = np.abs(np.asarray(found) - true_pixels(scene)[:, vertices])
  assert error.max() < WITHIN, error.max(axis=(1, 2))


def mistaken(scene):
  """Scenes as a writer would see them that makes one mistake: what it writes has to fail `assert_reprojects`."""
  result, lens = scene.result, scene.intrinsics.copy()
  lens[:, 2] = scene.size[0] - lens[:, 2]
  poses, identity = result.poses, result.identity
  turned = identity.camera.replace(R=jnp.diag(jnp.array([-1.0, -1.0, 1.0])).dot(identity.camera.R))
  changed = lambda **fields: dataclasses.replace(scene, result=result.replace(**fields))
  return {
    "transposed rotation": changed(poses=poses.replace(rotation=-poses.rotation)),
    "flipped axes": changed(identity=identity.replace(camera=turned)),
    "principal point from the bottom": dataclasses.replace(scene, intrinsics=lens),
  }


MISTAKES = ("transposed rotation", "flipped axes", "principal point from the bottom")


def assert_wrong(found, scene, vertices=slice(None)) -> None:
  """A reader that makes a mistake is seen to: the same check fails by pixels."""
  assert np.abs(np.asarray(found) - true_pixels(scene)[:, vertices]).max() > BESIDE
