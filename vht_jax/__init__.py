"""vht_jax: a differentiable FLAME head tracker in JAX.

  import vht_jax as vht

  model = vht.load_head()
  clip = vht.FrameFolder("data")  # vht.extract_frames and vht.annotate make it from a video
  result = vht.track(model, clip)
  pose = jax.tree.map(lambda a: a[0], result.poses)
  vertices = vht.skin(model, result.identity.shape, pose)
  picture = vht.render_head(model, result.identity, pose, (512, 512))

Functions take one frame; `jax.vmap` makes them take many. The public names are those of `__init__.pyi`, which type
checkers read. Each is imported when it is first used: what JAX reads on import (XLA's log level, devices) can be set
after `import vht_jax`.
"""

from __future__ import annotations

from vht_jax.host.launch import leave_working_folder

leave_working_folder()  # before any module is looked for that a file there could stand in for

import lazy_loader

__version__ = "0.1.0"  # the only place: pyproject.toml reads it here

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
