"""Results in the formats of other programs.

  scene = make_scene(model, result, size)          # or of a folder: vht_jax.app.result.source.open_scene("out/clip")
  export(scene, "glb,arkit", "out/clip/export")    # files
  dict(to_arkit(scene))                            # the same in memory: {name: bytes}
"""

from vht_jax.results.export.glb import to_glb
from vht_jax.results.export.registry import FORMATS, OPTIONS, export
from vht_jax.results.export.scene import Lens, Pictures, Scene, make_scene

__all__ = ["FORMATS", "OPTIONS", "Lens", "Pictures", "Scene", "export", "make_scene", "to_glb"]
