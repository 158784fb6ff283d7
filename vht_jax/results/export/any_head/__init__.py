"""Formats that any head can be written in: meshes, skeletons, curves and cameras."""

from vht_jax.results.export.format import Format, Option

_HERE = "vht_jax.results.export.any_head"

FORMATS: tuple[Format, ...] = (
  Format(
    "glb",
    "animated head, skeleton and camera in one file: Blender, Unreal, Unity, three.js",
    "vht_jax.results.export.glb:to_glb_files",
    options=("compact",),
  ),
)
OPTIONS: tuple[Option, ...] = (
  Option("compact", "glb: integers, a JPEG texture and only the units in use (within 0.02 mm)", bool),
)
