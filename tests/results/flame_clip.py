"""The exporters' clip of a head like FLAME, as the programs need it that read its codes, and what is written of it."""

import dataclasses

import export_clip
import jax.numpy as jnp
import numpy as np

from vht_jax import cameras
from vht_jax.head import flame
from vht_jax.results.export import make_scene
from vht_jax.results.export.flame_family import FORMATS

FORMAT = {f.name: f for f in FORMATS}
SIDE = 420  # px, of the square clip


def written(name, scene, **options):
  """An export as {name: bytes}."""
  return dict(FORMAT[name].load()(scene, **options))


def of_release(scene, file):
  return dataclasses.replace(scene, model=scene.model.replace(name=f"FLAME ({file})"))


def within_limits(flame_scene):
  """Of FLAME 2020, its angles within VHT's limits, which NHA has as well."""
  poses = flame_scene.result.poses
  jaw = jnp.asarray(np.clip(poses.jaw, *flame.JOINT_LIMITS["jaw"]))
  result = flame_scene.result.replace(poses=poses.replace(jaw=jaw))
  return of_release(dataclasses.replace(flame_scene, result=result), "generic_model.pkl")


def without_neck(flame_scene):
  """Of FLAME 2020, the neck held."""
  poses = flame_scene.result.poses
  result = flame_scene.result.replace(poses=poses.replace(neck=0 * poses.neck))
  return of_release(dataclasses.replace(flame_scene, result=result), "generic_model.pkl")


def square(flame_scene):
  """Of FLAME 2020, codes within what IMavatar reads, a square image, the principal point beside its middle."""
  result = flame_scene.result
  used = lambda code, n: jnp.where(jnp.arange(code.shape[-1]) < n, code, 0.0)
  result = result.replace(
    identity=result.identity.replace(shape=used(result.identity.shape, 100)),
    poses=result.poses.replace(expr=used(result.poses.expr, 50)),
  )
  scene = make_scene(flame_scene.model, result, (SIDE, SIDE), frame_ids=export_clip.FRAMES)
  return of_release(scene, "generic_model.pkl")


def of_lens(scene, focal, principal, side=512):
  """The clip seen by another camera, in a square image."""
  camera = cameras.make_camera(focal, principal)
  result = scene.result.replace(identity=scene.result.identity.replace(camera=camera))
  return make_scene(scene.model, result, (side, side), frame_ids=scene.frame_ids)


def flipped(scene):
  """The scene of a tracker that counts the principal point from the bottom."""
  camera = scene.result.identity.camera
  other = cameras.make_camera(camera.focal, (camera.principal[0], 1 - camera.principal[1]))
  result = scene.result.replace(identity=scene.result.identity.replace(camera=other))
  return make_scene(scene.model, result, scene.size, frame_ids=scene.frame_ids, times=scene.times, name=scene.name)


def into_middle(scene, width, height):
  """Where the image's corner is on a canvas whose middle is the principal point, which it has to cover."""
  _, cx, cy = scene.intrinsics[0]
  corner = np.array([width, height]) / 2 - [cx, cy]
  assert (corner > -0.02).all() and (corner + scene.size[::-1] < np.array([width, height]) + 0.02).all()
  assert width * height < 1.5 * scene.size[0] * scene.size[1]  # no larger than it takes
  return corner
