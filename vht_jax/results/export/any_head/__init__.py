"""Formats that any head can be written in: meshes, skeletons, curves and cameras."""

from vht_jax.results.export.format import Format, Option

_HERE = "vht_jax.results.export.any_head"

FORMATS: tuple[Format, ...] = (
  Format(
    "glb",
    "animated head, skeleton and camera in one file: Blender, Unreal, Unity, three.js",
    "vht_jax.results.export.glb:to_glb",
    one_surface=True,
    options=("compact",),
  ),
  Format(
    "usda", "the same as USD in text (UsdSkel), the principal point in the camera: Houdini, Maya, Omniverse, Blender",
    f"{_HERE}.usd:to_usda", one_surface=True,
  ),
  Format("usdc", "the same as USD in binary; needs usd-core", f"{_HERE}.usd:to_usdc", one_surface=True),
  Format("obj", "a textured mesh per frame", f"{_HERE}.meshes:to_obj", folder=True),
  Format("ply", "a coloured mesh per frame, binary", f"{_HERE}.meshes:to_ply", folder=True),
  Format("pc2", "point cache and its mesh: Blender's Mesh Cache, 3ds Max", f"{_HERE}.meshes:to_pc2", folder=True),
  Format(
    "arkit", "ARKit's 52 curves, head and eye angles: CSV as Live Link Face writes it (Unreal, Blender add-ons), JSON",
    f"{_HERE}.arkit:to_arkit", instead="csv or glb", options=("arkit_shapes",),
  ),
  Format(
    "nerf", "transforms.json of cameras around a head at rest: nerfstudio, instant-ngp", f"{_HERE}.nerf:to_nerf",
    folder=True, options=("images",),
  ),
  Format(
    "colmap", "the same as COLMAP's text model: Gaussian splatting", f"{_HERE}.colmap:to_colmap", folder=True,
    options=("images",),
  ),
  Format("csv", "a row per frame: time, head angles, gaze, jaw, expression units", f"{_HERE}.numbers:to_csv"),
  Format("arrays", "npz of vertices, joints, plain angles and cameras", f"{_HERE}.numbers:to_arrays"),
)  # fmt: skip
OPTIONS: tuple[Option, ...] = (
  Option("compact", "glb: integers, a JPEG texture and only the units in use (within 0.02 mm)", bool),
  Option(
    "arkit_shapes",
    "arkit: your own shapes instead of the open head's units: a folder with neutral.obj, jawOpen.obj, browInnerUp.obj, "
    "... in the tracked head's topology",
  ),
  Option("images", "write the images too (--noimages: not), with their masks if they have any", bool),
)
