"""The public names and where they come from: type checkers read this, and `__init__.py` imports from it lazily."""

from .cameras import intrinsics as intrinsics, make_camera as make_camera, project as project
from .config import TrackConfig as TrackConfig, Weights as Weights
from .dataset.annotate import annotate as annotate
from .dataset.extract import extract_frames as extract_frames
from .dataset.folder import FrameFolder as FrameFolder
from .errors import InputError as InputError
from .fit.solvers.adjoint import Implicit as Implicit, Unrolled as Unrolled
from .fit.terms.term import Linearised as Linearised, Term as Term, by_autodiff as by_autodiff
from .head.flame import (
  JOINT_LIMITS as JOINT_LIMITS,
  albedo as albedo,
  dense_landmarks as dense_landmarks,
  limit_pose as limit_pose,
  neutral_pose as neutral_pose,
  skin as skin,
  unlimit_pose as unlimit_pose,
  vertex_normals as vertex_normals,
  with_identity as with_identity,
  without_lower_neck as without_lower_neck,
)
from .head.load import load_head as load_head
from .host.programs import compiled as compiled
from .host.programs.spread import over_devices as over_devices
from .landmarks import make_detector as make_detector
from .render.edges import antialias as antialias, edge_table as edge_table
from .render.gather import map_frames as map_frames
from .render.picture import render_head as render_head, render_mesh as render_mesh
from .render.raster import rasterize as rasterize
from .render.shade import (
  interpolate as interpolate,
  sample_texture as sample_texture,
  shading as shading,
  spherical_harmonics as spherical_harmonics,
)
from .render.soft import soft_render as soft_render
from .render.uv_bake import bake_texture as bake_texture
from .results import load_tracked as load_tracked, save_tracked as save_tracked
from .tracking.pure.compiled import export_tracker as export_tracker, load_tracker as load_tracker
from .tracking.pipeline import track as track
from .tracking.pure import (
  PosedHead as PosedHead,
  fit_frame as fit_frame,
  fit_frames as fit_frames,
  fit_identity as fit_identity,
  initial_result as initial_result,
  landmarks_only as landmarks_only,
  observations as observations,
  observations_from as observations_from,
  residuals as residuals,
  track_fn as track_fn,
  with_pose as with_pose,
)
from .types import (
  Camera as Camera,
  FlameModel as FlameModel,
  Fragments as Fragments,
  Identity as Identity,
  Observations as Observations,
  Pose as Pose,
  RawPose as RawPose,
  Stationary as Stationary,
  Status as Status,
  TrackResult as TrackResult,
)
from .video.codec import read_video as read_video, write_video as write_video

__version__: str
