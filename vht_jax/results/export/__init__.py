"""Results in the formats of other programs.

scene = make_scene(model, result, size)          # or of a folder: vht_jax.app.result.source.open_scene("out/clip")
export(scene, "glb,arkit", "out/clip/export")    # files
dict(to_arkit(scene))                            # the same in memory: {name: bytes}
"""

from vht_jax.results.export.any_head.arkit import to_arkit
from vht_jax.results.export.any_head.colmap import to_colmap
from vht_jax.results.export.any_head.meshes import to_obj, to_pc2, to_ply
from vht_jax.results.export.any_head.nerf import to_nerf
from vht_jax.results.export.any_head.numbers import to_arrays, to_csv
from vht_jax.results.export.any_head.usd import to_usda, to_usdc
from vht_jax.results.export.flame_family.arrays import to_flame_arrays
from vht_jax.results.export.flame_family.cap4d import to_cap4d
from vht_jax.results.export.flame_family.gagavatar import to_gagavatar
from vht_jax.results.export.flame_family.gaussian_avatars import to_gaussian_avatars
from vht_jax.results.export.flame_family.imavatar import to_imavatar
from vht_jax.results.export.flame_family.metrical import to_metrical
from vht_jax.results.export.flame_family.nersemble import to_nersemble
from vht_jax.results.export.flame_family.nha import to_nha
from vht_jax.results.export.flame_family.vhap import to_vhap
from vht_jax.results.export.glb import to_glb
from vht_jax.results.export.registry import FORMATS, OPTIONS, export
from vht_jax.results.export.scene import Lens, Pictures, Scene, make_scene

__all__ = [
  "FORMATS", "OPTIONS", "Lens", "Pictures", "Scene", "export", "make_scene", "to_arkit", "to_arrays", "to_cap4d",
  "to_colmap", "to_csv", "to_flame_arrays", "to_gagavatar", "to_gaussian_avatars", "to_glb", "to_imavatar",
  "to_metrical", "to_nerf", "to_nersemble", "to_nha", "to_obj", "to_pc2", "to_ply", "to_usda", "to_usdc", "to_vhap",
]  # fmt: skip
