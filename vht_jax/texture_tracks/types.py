"""The data of texture tracks. Pixels, frames of reference and units are those of `vht_jax.types`."""

from __future__ import annotations

from typing import NamedTuple

import flax.struct

from vht_jax.types import AnyArray, Array

# Parts of the face by how well a tracked surface follows its skin, see `skin.REGION_NOISE`.
REGIONS = ("upper", "cheeks", "mouth")


class TextureTracks(flax.struct.PyTreeNode):
  """K points of the skin, seen in T frames of a clip.

  A point is a corner of the image of one keyframe, lifted onto the mesh as it was thought to be there. Where it lies
  on the head is therefore known to some millimetres only, in all three directions; that it is the same point of the
  skin in all frames is what the tracks say.
  """

  vertices: AnyArray  # (K, 3) i32 vertex ids of the head's mesh: the triangle that the point was lifted onto
  bary: AnyArray  # (K, 3) f32 barycentric coordinates in it
  points: AnyArray  # (T, K, 2) f32 px of the clip's images (pixel i covers [i, i+1)); 0 where not seen
  sd: AnyArray  # (T, K) f32 px, standard deviation of a coordinate; inf where not seen
  keyframe: AnyArray  # (K,) i32 position in the clip of the frame that the point is a corner of
  region: AnyArray  # (K,) i32 index into `REGIONS`


class Skin(flax.struct.PyTreeNode):
  """The part of a head that tracks lie on, cut out of its mesh: v vertices, f triangles. Made once per clip."""

  template: AnyArray  # (v, 3) f32 head, m
  faces: AnyArray  # (f, 3) i32 ids among the v
  vertex: AnyArray  # (v,) i32 ids in the head's mesh
  region: AnyArray  # (f,) i32 index into `REGIONS`


class View(flax.struct.PyTreeNode):
  """One frame through a square window of C x C px on the face, with the mesh as it is thought to be there.

  The mesh is drawn into c x c cells of `view.CELL` px.
  """

  X: Array  # (v, 3) f32 camera, m
  lens: Array  # (3,) f32: window px = lens[0] X / Z + lens[1], lens[0] Y / Z + lens[2]
  image: Array  # (C, C) f32, local contrast: mean 0 and about unit variance over a centimetre of skin
  face: Array  # (c, c) i32 triangle seen by each cell, -1: none
  bary: Array  # (c, c, 3) f32
  depth: Array  # (c, c) f32 m, -1: none
  cosine: Array  # (f,) f32 of the triangles' normals to the direction to the camera
  axis: Array  # (3,) f32 unit vector, the camera's axis in the head frame


class Corners(flax.struct.PyTreeNode):
  """K corners of the keyframes' images; `keyframe` counts among the keyframes, -1: none."""

  keyframe: AnyArray  # (K,) i32
  px: AnyArray  # (K, 2) f32 window px
  face: AnyArray  # (K,) i32
  bary: AnyArray  # (K, 3) f32


class Rigid(flax.struct.PyTreeNode):
  """A rigid head of K points in T frames; X_camera = R X + t.

  `turn` and `shift` take the mesh from where the first estimate had it to where it is: X_camera = turn X_before + shift
  with the camera's new focal length and principal point (`poses.moved`).
  """

  points: AnyArray  # (K, 3) f32 m, frame of the mean head of the clip
  R: AnyArray  # (T, 3, 3) f32
  t: AnyArray  # (T, 3) f32 m
  turn: AnyArray  # (T, 3, 3) f32
  shift: AnyArray  # (T, 3) f32 m
  focal: AnyArray  # () f32 in units of the longer side
  principal: AnyArray  # (2,) f32 px
  focal_sd: AnyArray  # () f32, of log focal: what the data say of it, correlated errors included
  focal_noise_sd: AnyArray  # () f32, likewise, were every track's error its own
  view_spread: AnyArray  # () f32 rad, rms angle between the views of the head and their mean
  expr: AnyArray  # (E,) f32 the clip's middle expression, that of `points`
  jaw: AnyArray  # (3,) f32 rad, likewise
  noise: AnyArray  # (len(REGIONS),) f32 factors >= 1 on the tracks' sd: by what they are beside the rigid head
  used: AnyArray  # (T,) bool: frames with enough points; the others are as the first estimate has them


class Observed(NamedTuple):
  """What `observe` found: tracks and their rigid head, or neither and why."""

  tracks: TextureTracks | None
  rigid: Rigid | None
  reason: str  # "" if there are tracks, else a sentence
  timing: dict[str, float]  # part -> seconds
