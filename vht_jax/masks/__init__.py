"""What belongs to the person and what does not: mattes from a model, from the head's own surface, from files."""

from vht_jax.masks.agreement import covered
from vht_jax.masks.boxes import Heads, face_finder, heads_of, heads_of_points, other_faces
from vht_jax.masks.files import UserMattes
from vht_jax.masks.kept import Kept, Mask
from vht_jax.masks.person import person_mattes
from vht_jax.masks.selfie import make_segmenter
from vht_jax.masks.silhouette import Neck, neck_fade, neck_of, silhouette

__all__ = [
  "Heads",
  "Kept",
  "Mask",
  "Neck",
  "UserMattes",
  "covered",
  "face_finder",
  "heads_of",
  "heads_of_points",
  "make_segmenter",
  "neck_fade",
  "neck_of",
  "other_faces",
  "person_mattes",
  "silhouette",
]
