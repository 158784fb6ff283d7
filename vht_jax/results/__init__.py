"""Results on disk (`vht_npz`, `export`) and the figures that say how good they are (`quality`)."""

from vht_jax.results.heads import head_id
from vht_jax.results.person import ALONE, known_shape
from vht_jax.results.quality import (
  align,
  angle_deg,
  direction_deg,
  face_detail,
  frame_confidence,
  geometry_figures,
  jitter,
  landmark_figures,
  nme,
  pose_errors,
  posed_vertices,
  projected_landmarks,
  region_confidence,
  vertex_errors,
)
from vht_jax.results.read import kind_of, load_tracked
from vht_jax.results.trust import judged
from vht_jax.results.vht_keys import camera_from_vht, continuous, vht_camera
from vht_jax.results.vht_npz import (
  FILE_NAME,
  Tracked,
  fit_components,
  for_frames,
  read_npz,
  save_tracked,
  tracked_arrays,
  tracked_of,
  write_npz,
)

__all__ = [
  "ALONE",
  "FILE_NAME",
  "Tracked",
  "align",
  "angle_deg",
  "camera_from_vht",
  "continuous",
  "direction_deg",
  "fit_components",
  "for_frames",
  "face_detail",
  "frame_confidence",
  "geometry_figures",
  "head_id",
  "jitter",
  "judged",
  "kind_of",
  "known_shape",
  "landmark_figures",
  "load_tracked",
  "nme",
  "pose_errors",
  "posed_vertices",
  "projected_landmarks",
  "read_npz",
  "region_confidence",
  "save_tracked",
  "tracked_arrays",
  "tracked_of",
  "vertex_errors",
  "vht_camera",
  "write_npz",
]
