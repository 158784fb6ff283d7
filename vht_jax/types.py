"""Every pytree of the package, and nothing else.

No type carries a batch dimension: a batch of frames is the same type with a leading axis, added by `jax.vmap`.

Frames of reference used throughout:

* *head*: FLAME's canonical frame, metres; x to the subject's left, y up, z out of the face.
* *world*: the frame in which `Pose.rotation` and `Pose.translation` live; x left, y up, z into the scene. It equals
  PyTorch3D's view frame with R=I, T=0, so poses are stored in VHT's files unchanged. A face that looks into the
  camera has a rotation of about (0, +-pi, 0).
* *camera*: OpenCV's; x right, y down, z into the scene (`Camera.R`, `Camera.T` map world to camera).
* *screen*: pixels, x right, y down, origin at the top left corner of the image; pixel i covers [i, i+1), its centre
  is i + 0.5. The third component of a screen point is its depth z in metres.
"""

from __future__ import annotations

import enum
from typing import Any

import flax.struct
import jax
import numpy as np

Array = jax.Array
AnyArray = jax.Array | np.ndarray  # of what is made on the host and used there as well as in programs


class ViewBias(flax.struct.PyTreeNode):
  """How a detector's points slide over the face with the view, the mean of people (`head.view_bias`)."""

  gain: Array  # (2,) yaw, pitch: how much farther than the head the points turn; negative, they lag behind
  slopes: Array  # (70 + M, 3, 2) landmarks, then dense ones; head axes by [yaw, pitch], in outer eye distances


class FlameModel(flax.struct.PyTreeNode):
  """A head in FLAME's layout. Joints: 0 root, 1 neck, 2 jaw, 3 left eye (+x), 4 right eye (-x)."""

  v_template: Array  # (V, 3) f32, head, m
  shapedirs: Array  # (V, 3, S) f32, m per standard deviation of identity
  exprdirs: Array  # (V, 3, E) f32, m per unit of expression
  posedirs: Array  # (36, V*3) f32, m; rows follow (R_1..R_4 - I).flatten()
  j_template: Array  # (5, 3) f32, joint regressor applied to v_template, head, m
  j_shapedirs: Array  # (5, 3, S+E) f32, joint regressor applied to [shapedirs, exprdirs]
  lbs_weights: Array  # (V, 5) f32, rows sum to 1
  faces: Array  # (F, 3) i32 vertex ids, counter-clockwise seen from outside
  uv: Array  # (F, 3, 2) f32 per corner, in [0, 1], v up (OBJ convention)
  texture_mean: Array  # (Ht, Wt, 3) f32 RGB albedo in [0, 1]; row 0 is v = 1
  texture_basis: Array  # (Ht, Wt, 3, T) f32, change of albedo per unit of texture code
  lmk_vertices: Array  # (70, 3) i32 vertex ids of each landmark's triangle; 0-67 iBUG, 68/69 irises (68: x<0 eye)
  lmk_bary: Array  # (70, 3) f32
  dense_vertices: Array  # (M, 3) i32, as above for the MediaPipe face mesh points `dense_index`; M may be 0
  dense_bary: Array  # (M, 3) f32
  dense_index: Array  # (M,) i32, MediaPipe's number of each dense landmark
  masks: dict[str, Array]  # region name -> (V,) bool
  view_bias: ViewBias | None = None  # of the detector whose points the landmarks are; None: not known to slide
  expr_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())  # (E,) or () when unnamed
  # One-sided units (the open head's named expressions) must not go far below zero; FLAME's PCA codes are two-sided.
  expr_one_sided: bool = flax.struct.field(pytree_node=False, default=False)
  name: str = flax.struct.field(pytree_node=False, default="")


class Camera(flax.struct.PyTreeNode):
  """A pinhole camera without distortion, resolution independent."""

  focal: Array  # () f32, focal length in pixels divided by max(H, W)
  principal: Array  # (2,) f32, principal point (cx / W, cy / H) from the top left corner
  R: Array  # (3, 3) f32, world -> camera (OpenCV axes)
  T: Array  # (3,) f32, world -> camera, m


class Identity(flax.struct.PyTreeNode):
  """What a whole clip shares."""

  shape: Array  # (S,) f32, standard deviations
  texture: Array  # (T,) f32
  light: Array  # (9, 3) f32, spherical harmonics coefficients per colour channel, world frame
  camera: Camera
  # Constant bias of the landmark detector, head frame, m (docs/method.md: the largest systematic error there is).
  lmk_offset: Array  # (70, 3) f32
  # Free albedo beyond the texture basis, in the texture's layout; None: the basis alone.
  texture_layer: Array | None = None  # (Hl, Wl, 3) f32
  # How far the surface is from what the codes say, before skinning, head frame, m: hair, ears, neck. The head that is
  # posed has to have it (`flame.with_offset`); None: nothing.
  static_offset: Array | None = None  # (V, 3) f32


class Pose(flax.struct.PyTreeNode):
  """What changes from frame to frame. Angles are radians; axis-angle vectors."""

  expr: Array  # (E,) f32
  rotation: Array  # (3,) f32, head -> world about the root joint
  translation: Array  # (3,) f32, world position of the root joint, m
  neck: Array  # (3,) f32, within flame.JOINT_LIMITS, as are jaw and eyes
  jaw: Array  # (3,) f32
  eyes: Array  # (2, 3) f32, [joint 3 (subject's left, +x), joint 4 (subject's right, -x)]
  # How far the surface is in this frame from the person's, as `Identity.static_offset`: hair that swings. None: 0.
  offset: Array | None = None  # (V, 3) f32


# Of a pose, what is estimated: all but what the surface does beside it.
POSE_FIELDS = ("expr", "rotation", "translation", "neck", "jaw", "eyes")


class RawPose(flax.struct.PyTreeNode):
  """`Pose` with neck, jaw and eyes before the tanh that bounds them: VHT's file format and optimiser variables."""

  expr: Array  # (E,) f32
  rotation: Array  # (3,) f32, unbounded, same as Pose.rotation
  translation: Array  # (3,) f32
  neck: Array  # (3,) f32, raw
  jaw: Array  # (3,) f32, raw
  eyes: Array  # (2, 3) f32, raw


class Fragments(flax.struct.PyTreeNode):
  """What the rasteriser saw, PyTorch3D's names and meaning for one face per pixel; -1 marks the background."""

  pix_to_face: Array  # (H, W) i32
  bary_coords: Array  # (H, W, 3) f32, perspective correct
  zbuf: Array  # (H, W) f32, camera z, m


class Rendered(flax.struct.PyTreeNode):
  """A picture of a mesh."""

  rgb: Array  # (H, W, C), composed with the background; not clamped
  alpha: Array  # (H, W) in [0, 1], coverage
  fragments: Fragments  # what the pixel centres see


class Observations(flax.struct.PyTreeNode):
  """What one frame shows. Missing points have confidence 0."""

  rgb: Array  # (H, W, 3) f32 in [0, 1]
  landmarks: Array  # (70, 2) f32 screen px; 0-67 iBUG order, 68 iris of eye 36-41, 69 iris of eye 42-47
  confidence: Array  # (70,) f32 in [0, 1]
  valid: Array  # () bool, a face was found
  dense: Array | None = None  # (478, 2) f32 screen px, MediaPipe face mesh with irises
  alpha: Array | None = None  # (H, W) f32 in [0, 1], foreground mask


class Status(enum.IntEnum):
  """How a frame of a result came about."""

  TRACKED = 0
  INTERPOLATED = 1  # no face was found; the pose is bridged from its neighbours
  NO_FACE = 2  # no face and nothing to bridge from: a placeholder, in pictures that are no video the nearest pose
  DIVERGED = 3  # the fit gave a non-finite or absurd pose; replaced by its neighbours'


class Stationary(flax.struct.PyTreeNode):
  """How far a fit ended from where the gradient of its cost vanishes, in standard deviations of what it estimates."""

  frames: Array  # (T,) of each frame's unknowns, what frames share being held
  shared: Array  # () of what frames share, the frames being at their minima; 0 where it was given


class ShapeInformation(flax.struct.PyTreeNode):
  """What is known of a shape code (S,): its inverse covariance is P + (D^-1 + misfit^2 P^-1)^-1, P = diag(a^2) + b b^T,
  D = data^T data; without a misfit P + D."""

  prior: AnyArray  # (2, S): a, and b for the head's size, as before anything is seen; its mean is 0
  data: AnyArray  # (K, S), what the clip adds, all else that is estimated marginalised, if the models hold
  misfit: AnyArray  # () by how many standard deviations of people the shape is wrong because they do not


class TrackResult(flax.struct.PyTreeNode):
  """A tracked clip of T frames."""

  identity: Identity
  poses: Pose  # leading axis T
  energies: dict[str, Array]  # name -> (T,) f32, unweighted terms at the solution
  status: Array  # (T,) i32, `Status`
  confidence: Array | None = None  # (T,) f32 in [0, 1], see `results.frame_confidence`
  # Of the regions of a face, `landmarks.regions.REGIONS`: as `confidence`, and how visible they are.
  region_confidence: Array | None = None  # (T, R) f32 in [0, 1]
  visible: Array | None = None  # (T, R) f32 in [0, 1]
  misplaced: Array | None = None  # (T,) f32 eye distances, how far the landmarks are beside the face; NaN: unknown
  # Standard deviations of every number of `poses` as its own frame knows it (`uncertainty`), inf where not tracked.
  pose_sd: Pose | None = None  # leading axis T
  focal_sd: Array | None = None  # () relative standard deviation of the focal length; 0: given
  shape_information: ShapeInformation | None = None  # None: the shape was given, or VHT's method has found it
  # Of fits by Gauss-Newton in `track_fn`: what their derivatives rest on (`Implicit.stationary`).
  stationary: Stationary | None = None
  # () i32, frames without a derivative, because they or what all share are farther away; only `Implicit` has any.
  left_out: Array | None = None
  timing: dict[str, Any] = flax.struct.field(pytree_node=False, default_factory=dict)  # stage -> seconds
