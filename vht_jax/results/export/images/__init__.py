"""Images, masks and crops of an exported clip."""

from vht_jax.results.export.format import Format, Option
from vht_jax.results.export.scene import Scene

FORMATS: tuple[Format, ...] = ()
OPTIONS: tuple[Option, ...] = ()
SCENE_OPTIONS: tuple[str, ...] = ()  # those of `OPTIONS` that change the scene that every format is given


def prepared(scene: Scene) -> Scene:
  """The scene with the images that the options ask for, and the camera that belongs to them."""
  return scene
