"""The focal length that is known: in the units of cameras, lenses and files, and as the tracker wants it.

The tracker counts in units of the longer image side. A "35 mm equivalent" goes by the diagonal, 43.27 mm of the film,
as EXIF's FocalLengthIn35mmFilm does (CIPA DCG-001): an image of another shape than 3:2 shows the same diagonal.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from vht_jax.errors import InputError

if TYPE_CHECKING:
  from vht_jax.app.options.app_config import AppConfig
  from vht_jax.config import TrackConfig
  from vht_jax.dataset.folder import FrameFolder

log = logging.getLogger("vht_jax")

FILM_DIAGONAL = math.hypot(36.0, 24.0)  # mm
# No lens that keeps straight lines straight sees more than 160 degrees, and none in use less than 1.5 (1400 mm).
MIN_FOV, MAX_FOV = 1.5, 160.0  # degrees along the longer side
# A number without unit is in longer sides. More than this is a lens of 360 mm and more; far more likely it is a number
# in millimetres (the shortest lenses of cameras are 12 mm) or pixels.
MAX_BARE = 10.0
SPREAD = 0.02  # equivalent focal lengths are whole millimetres: 26 and 27 are two zooms, 200 and 201 may be one


def fov_of(focal: float) -> float:
  """Field of view along the longer side in degrees, of a focal length in units of that side."""
  return math.degrees(2 * math.atan(0.5 / focal))


def focal_of_fov(fov: float) -> float:
  """The reverse of `fov_of`."""
  return 0.5 / math.tan(math.radians(fov) / 2)


def focal_of_px(px: float, size: tuple[int, int]) -> float:
  """Focal length in longer sides, of one in pixels of an image of `size` (H, W)."""
  return px / max(size)


def focal_of_35mm(mm: float, size: tuple[int, int]) -> float:
  """Focal length in longer sides, of a 35 mm equivalent in mm and an uncropped image of `size` (H, W)."""
  return mm / FILM_DIAGONAL * math.hypot(*size) / max(size)


def check_bare(focal: float) -> None:
  """Raises `InputError` for a number that makes no sense in units of the longer side."""
  if focal > MAX_BARE:
    raise InputError(
      f"focal: {focal:g} longer image sides is a field of view of {fov_of(focal):.2g} degrees; if it is in pixels "
      f"write --focal={focal:g}px, if in mm (35 mm equivalent) --focal={focal:g}mm"
    )
  check(f"focal: {focal:g} longer image sides", focal)


def check_fov(fov: float) -> None:
  """Raises `InputError` for a field of view that no lens has."""
  if not MIN_FOV <= fov <= MAX_FOV:
    hint = f"; if it is in radians give --fov={math.degrees(fov):.3g}" if MIN_FOV < math.degrees(fov) < MAX_FOV else ""
    raise InputError(f"fov: expected {MIN_FOV:g} to {MAX_FOV:g} degrees; found {fov:g}{hint}")


def check(what: str, focal: float) -> None:
  """Raises `InputError`, beginning with `what`, for a focal length (in longer sides) that no lens has."""
  if not MIN_FOV <= fov_of(focal) <= MAX_FOV:
    raise InputError(
      f"{what} is a field of view of {fov_of(focal):.3g} degrees; expected {MIN_FOV:g} to {MAX_FOV:g} along the longer "
      "image side"
    )


def known_focal(app: AppConfig, config: TrackConfig, dataset: FrameFolder) -> float:
  """The focal length in units of the longer side that the user or the photographs' EXIF names; 0: to be estimated.

  Raises:
    InputError: no lens has it.
  """
  size = dataset.source_size
  if config.camera.focal:
    return config.camera.focal
  if app.lens.focal_px or app.lens.focal_35mm:
    if app.lens.focal_px:
      focal, what = focal_of_px(app.lens.focal_px, size), f"focal: {app.lens.focal_px:g} px"
    else:
      focal, what = focal_of_35mm(app.lens.focal_35mm, size), f"focal: {app.lens.focal_35mm:g} mm (35 mm equivalent)"
    check(f"{what} with images of {size[1]}x{size[0]}", focal)
    log.info("%s is %.3f of the longer side of images of %dx%d", what, focal, size[1], size[0])
    return focal
  return _of_photographs(dataset)


def _of_photographs(dataset: FrameFolder) -> float:
  found = [mm for mm in dataset.focal_35mm if mm]
  if not found:
    return 0.0
  if len(found) < len(dataset) or max(found) > (1 + SPREAD) * min(found):
    some = f"{len(found)} of {len(dataset)} photographs" if len(found) < len(dataset) else "the photographs"
    span = f"{min(found):g}" if max(found) == min(found) else f"{min(found):g} to {max(found):g}"
    log.warning("the EXIF data of %s name focal lengths of %s mm: not one camera, so it is estimated", some, span)
    return 0.0
  mm = sum(found) / len(found)
  focal = focal_of_35mm(mm, dataset.source_size)
  if not MIN_FOV <= fov_of(focal) <= MAX_FOV:
    log.warning("the EXIF data name a focal length of %g mm, which no lens has: it is estimated", mm)
    return 0.0
  log.warning(
    "the focal length is taken from EXIF: %.4g mm (35 mm equivalent), a field of view of %.0f degrees; to replace it "
    "give --focal or --fov", mm, fov_of(focal),
  )  # fmt: skip
  return focal
