"""vht_jax: a differentiable FLAME head tracker in JAX.

  import vht_jax as vht
  from vht_jax.track import track

  model = vht.load_head()
  clip = vht.FrameFolder("data")  # vht.extract_frames and vht.annotate make it from a video
  result = track(model, clip)
  pose = jax.tree.map(lambda a: a[0], result.poses)
  vertices = vht.skin(model, result.identity.shape, pose)
  picture = vht.render_head(model, result.identity, pose, (512, 512))

Functions take one frame; `jax.vmap` makes them take many. The names in `__all__` are imported when they are first used.
(Functions that share their module's name, such as `track` and `energy`, are imported from there.)
"""

from __future__ import annotations

import importlib

from vht_jax.launch import leave_working_folder

leave_working_folder()  # before any module is looked for that a file there could stand in for

_HOME = {
  "types": (
    "Camera", "FlameModel", "Fragments", "Identity", "Observations", "Pose", "RawPose", "Status", "TrackResult",
  ),
  "config": ("TrackConfig", "Weights"),
  "errors": ("InputError",),
  "assets": ("load_head",),
  "flame": (
    "JOINT_LIMITS", "albedo", "dense_landmarks", "limit_pose", "neutral_pose", "skin", "unlimit_pose",
    "vertex_normals", "with_identity", "without_lower_neck",
  ),
  "camera": ("intrinsics", "make_camera", "project"),
  "raster": ("rasterize",),
  "shade": ("interpolate", "sample_texture", "shading", "spherical_harmonics"),
  "render": ("map_frames", "render_head", "render_mesh"),
  "adjoint": ("Implicit", "Unrolled"),
  "functional": (
    "PosedHead", "fit_frame", "fit_frames", "fit_identity", "landmarks_only", "residuals", "track_fn", "with_pose",
  ),
  "export": ("export_tracker", "load_tracker"),
  "video": ("FrameFolder", "extract_frames", "read_video", "write_video"),
  "landmarks": ("annotate", "make_detector"),
  "results": ("load_tracked", "save_tracked"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
  if name not in _MODULE_OF:
    raise AttributeError(f"module 'vht_jax' has no attribute {name!r}")
  return getattr(importlib.import_module(f"vht_jax.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
  return __all__
