"""The tracker as pure functions: what other JAX programs call, differentiate, batch, shard and export.

  with_identity   once per clip: a head with its shape folded in            (`head.flame.with_identity`)
  with_pose       once per frame: vertices, joints and landmarks
  residuals       of the landmarks of one frame, in standard deviations
  fit_identity    camera, identity and start poses from a clip
  fit_frame       the pose of one frame; `fit_frames` of many
  track_fn        a whole clip

Nothing here looks at values, talks to the host or keeps state. Three methods are offered, chosen by `TrackConfig`:

  photometric=False                   landmarks, Gauss-Newton; adjoints `Implicit` (default) and `Unrolled`
  photometric=True                    the same with images
  photometric=True, solver='adam'     VHT's energy on images, Adam; adjoint `Unrolled`

What cannot be differentiated is refused (`check_adjoint`, `without_influence`).
"""

from vht_jax.tracking.pure.clip import fit_frames_in_turn, fit_identity, track_fn
from vht_jax.tracking.pure.frame import fit_frame, fit_frames, landmark_problem, residuals
from vht_jax.tracking.pure.heads import PosedHead, landmarks_only, with_pose
from vht_jax.tracking.pure.inputs import initial_result, observations, observations_from
from vht_jax.tracking.pure.requests import check_adjoint, frames_with_face, without_influence

__all__ = [
  "PosedHead", "check_adjoint", "fit_frame", "fit_frames", "fit_frames_in_turn", "fit_identity", "frames_with_face",
  "initial_result", "landmark_problem", "landmarks_only", "observations", "observations_from", "residuals", "track_fn",
  "with_pose", "without_influence",
]  # fmt: skip
