"""Texture tracks: points that stay on the skin, found in the images.

A detector's landmarks slide over a face with the view, by millimetres, and all alike; corners of the skin's texture do
not. `observe` lifts some of a few keyframes onto the mesh, warps the keyframes into every frame by drawing the mesh,
finds the rest by Lucas and Kanade's method, and solves a rigid head for poses and camera.

  skin, view   the part of the head that carries tracks; a frame's window with the mesh drawn into it
  keyframes, corners, warp, lucas_kanade, follow   from keyframes to points in a frame
  rigid, uncertainty, poses   the bundle adjustment on them, how sure its focal length is, its poses as the tracker's
"""

from vht_jax.texture_tracks.rounds import observe
from vht_jax.texture_tracks.types import REGIONS, Observed, Rigid, TextureTracks

__all__ = ["REGIONS", "Observed", "Rigid", "TextureTracks", "observe"]
