"""vht_jax: a differentiable FLAME head tracker in JAX.

  import vht_jax as vht

  model = vht.load_head()
  clip = vht.FrameFolder("data")  # vht.extract_frames and vht.annotate make it from a video
  result = vht.track(model, clip)
  pose = jax.tree.map(lambda a: a[0], result.poses)
  vertices = vht.skin(model, result.identity.shape, pose)
  picture = vht.render_head(model, result.identity, pose, (512, 512))

Functions take one frame; `jax.vmap` makes them take many. The names in `__all__` are imported when they are first used.
"""

from __future__ import annotations

import importlib

from vht_jax.host.launch import leave_working_folder

leave_working_folder()  # before any module is looked for that a file there could stand in for

_HOME = {
  "types": (
    "Camera", "FlameModel", "Fragments", "Identity", "Observations", "Pose", "RawPose", "Status", "TrackResult",
  ),
  "config": ("TrackConfig", "Weights"),
  "errors": ("InputError",),
  "cameras": ("intrinsics", "make_camera", "project"),
  "head.load": ("load_head",),
  "head.flame": (
    "JOINT_LIMITS", "albedo", "dense_landmarks", "limit_pose", "neutral_pose", "skin", "unlimit_pose",
    "vertex_normals", "with_identity", "without_lower_neck",
  ),
  "render.raster": ("rasterize",),
  "render.shade": ("interpolate", "sample_texture", "shading", "spherical_harmonics"),
  "render.edges": ("antialias", "edge_table"),
  "render.soft": ("soft_render",),
  "render.picture": ("map_frames", "render_head", "render_mesh"),
  "render.uv_bake": ("bake_texture",),
  "fit.adjoint": ("Implicit", "Unrolled"),
  "tracking.pipeline": ("track",),
  "tracking.pure": (
    "PosedHead", "fit_frame", "fit_frames", "fit_identity", "landmarks_only", "residuals", "track_fn", "with_pose",
  ),
  "tracking.compiled": ("export_tracker", "load_tracker"),
  "video.codec": ("read_video", "write_video"),
  "dataset.folder": ("FrameFolder",),
  "dataset.extract": ("extract_frames",),
  "dataset.annotate": ("annotate",),
  "landmarks": ("make_detector",),
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
