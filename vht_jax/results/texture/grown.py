"""`--offsets` without `--texture`: what has grown gets the colours that images show there.

The fit has seen bare skin where hair and clothes are now, and colours that skin does not have are hidden from it. A
few frames, coarsely, are enough for the eye to see hair and a shirt; the face keeps the fit's colours.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vht_jax.head import flame
from vht_jax.results.offsets.skin import eased
from vht_jax.results.texture.bake import baked
from vht_jax.tracking.protocols import Clip
from vht_jax.types import FlameModel, TrackResult

SIDE = 512  # texels: a strand is 1 mm
FRAMES = 16  # as many as the outline is taken from
GROWN = (0.002, 0.008)  # m of its offset, over which a surface is no longer what the fit has seen


def coloured(
  model: FlameModel, clip: Clip, result: TrackResult, progress: Callable[[int], None] = lambda n: None
) -> TrackResult:
  """A result with offsets whose free albedo is that of the images where its head has grown.

  Args:
    model: the head, without the offsets.
    clip, result, progress: as for `baked`.
  """
  offset = result.identity.static_offset
  share = eased(np.linalg.norm(np.asarray(offset), axis=1), *GROWN).astype(np.float32)
  return baked(flame.with_offset(model, offset), clip, result, SIDE, progress, share=share, most=FRAMES)
