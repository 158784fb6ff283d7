"""Crops, padding, masks and the order of exported images: each against a closed form or the clip's own truth."""

import dataclasses
import shutil

import cv2
import numpy as np
import pytest
from export_clip import FRAMES, SIZE, background, true_pixels

from vht_jax.dataset.folder import FrameFolder
from vht_jax.dataset.layout import MASK
from vht_jax.errors import InputError
from vht_jax.masks import boxes, silhouette
from vht_jax.results.export import images, registry
from vht_jax.results.export.images import centred, choice, mask_of, prepared
from vht_jax.results.export.images.masks import fade_of
from vht_jax.results.export.images.pictures import FolderPictures, straight
from vht_jax.results.export.images.png import grey_png, over_white, rgb_png, rgba_png
from vht_jax.results.export.images.views import Viewed, Views, resampled, seen_through
from vht_jax.results.export.selection import frames_of
from vht_jax.video.pixels import over_background

CROPS = [("head", None), ("head", 256), ("head", 700), ("frame", 192), ("square", None), ("none", 300), ("frame", None)]


def dots(size, points, sigma=2.5):
  """(H, W) uint8 of round dots whose centres of mass are `points` (px, pixel centres at i + 0.5)."""
  rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
  image = np.zeros(size)
  for x, y in points:
    image += np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def centre_of(image, near, reach):
  """Centre of mass of a dot."""
  rows, columns = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
  weight = image.astype(float) * (np.hypot(columns - near[0], rows - near[1]) < reach)
  return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def iou(a, b):
  return (a & b).sum() / max((a | b).sum(), 1)


def seen_silhouette(scene, i):
  screen = np.concatenate([scene.pixels(i), scene.camera_vertices(i)[:, 2:]], axis=1)
  return silhouette(screen, np.asarray(scene.model.faces), scene.size) > 127


@pytest.mark.parametrize("crop,side", CROPS)
def test_a_crops_camera_projects_as_the_crop_moves_pixels(clip_with_images, crop, side):
  scene = prepared(clip_with_images, "none", crop, side)
  truth, views = true_pixels(clip_with_images), scene.pictures.views
  assert scene.size[0] == scene.size[1] == (side or scene.size[0])
  for i in range(len(scene)):
    expected = (truth[i] - views.origin[i]) * views.scale[i]
    assert np.abs(scene.pixels(i) - expected).max() < 1e-3 * max(views.scale[i], 1)
  f, cx, cy = scene.intrinsics[1]
  assert f == pytest.approx(clip_with_images.intrinsics[1, 0] * views.scale[1], rel=1e-9)
  assert [cx, cy] == pytest.approx((clip_with_images.intrinsics[1, 1:] - views.origin[1]) * views.scale[1], abs=1e-9)


def test_head_crops_cover_the_head(clip_with_images):
  for crop in ("head", "frame"):
    scene = prepared(clip_with_images, "none", crop, 256)
    for i in range(len(scene)):
      points = scene.pixels(i)
      assert points.min() > 0.02 * 256 and points.max() < 0.98 * 256, (crop, i)
  assert np.ptp(prepared(clip_with_images, "none", "head", 256).intrinsics, axis=0).max() == 0
  with pytest.raises(InputError, match="one camera for the whole clip"):
    prepared(clip_with_images, "none", "frame", 256).lens  # noqa: B018


VIEWS = [
  ((0.0, 0.0), 1.0), ((-7.0, 12.0), 1.0), ((3.3, -4.8), 1.0), ((10.25, 20.5), 0.37), ((31.7, 5.2), 1.9),
  ((-40.0, -30.0), 0.5),
]  # fmt: skip


@pytest.mark.parametrize("origin,scale", VIEWS)
def test_dots_stay_where_the_view_puts_them(origin, scale):
  points = np.array([[60.3, 70.8], [150.0, 61.5], [97.4, 140.9]])
  image = dots((200, 240), points, sigma=2.5 / min(scale, 1))
  size = (round(190 * scale), round(210 * scale))
  box = np.concatenate([origin, np.array(origin) + np.array(size[::-1]) / scale])
  view = resampled(image, box, size, 0)
  assert view.shape == size
  for point in points:
    where = (point - origin) * scale
    found = centre_of(view, where, 7 * max(scale, 1))
    assert np.abs(found - where).max() < 0.1
    if scale not in (1.0,):  # pixel centres at i instead of i + 0.5 would be seen
      wrong = (point - 0.5 - origin) * scale + 0.5
      assert np.abs(found - wrong).max() > 0.15


def test_dots_at_vertices_stay_on_them(clip_with_images):
  vertices = [3, 700, 1500]
  i = 2
  points = clip_with_images.pixels(i)[vertices]
  image = np.repeat(dots(SIZE, points, 4.0)[..., None], 3, axis=2)

  class Drawn:
    masks = ""
    rgb = staticmethod(lambda i: image)
    alpha = staticmethod(lambda i: None)

  scene = dataclasses.replace(clip_with_images, pictures=Drawn())
  for changed in (prepared(scene, "none", "head", 300), prepared(scene, "none", "frame", 333), centred(scene)[0]):
    seen = changed.pictures.rgb(i)[..., 0].astype(float)
    seen[changed.pictures.alpha(i) == 0] = 0
    for point in changed.pixels(i)[vertices]:
      others = np.delete(changed.pixels(i)[vertices], 0, axis=0)
      assert len(others)
      reach = 10 * changed.intrinsics[i, 0] / scene.intrinsics[i, 0]
      assert np.abs(centre_of(seen, point, reach) - point).max() < 0.1


def test_the_principal_point_is_padded_to_the_middle(clip_with_images):
  scene, added = centred(clip_with_images)
  height, width = scene.size
  assert np.abs(scene.intrinsics[:, 1:] - [width / 2, height / 2]).max() < 0.01
  f, cx, cy = clip_with_images.intrinsics[0]
  assert width == round(2 * (SIZE[1] - cx)) and 0 <= height - 2 * cy < 2  # cy lies below the middle, cx beside it
  assert scene.intrinsics[0, 0] == f
  assert centred(scene)[0] is scene and not centred(scene)[1].any()
  assert np.allclose(scene.intrinsics[:, 1:] - clip_with_images.intrinsics[:, 1:], added, atol=0.01)
  padding = mask_of(scene, 0) == 0
  assert padding.any() and (scene.pictures.rgb(0)[padding] == 255).all()
  whole = dataclasses.replace(clip_with_images, intrinsics=np.tile([f, 231.0, 205.0], (6, 1)))
  copied, _ = centred(whole)
  origin = copied.pictures.views.origin[0]
  assert (origin == np.round(origin)).all()
  x, y = (-origin).astype(int)
  part = copied.pictures.rgb(3)[y : y + SIZE[0], x : x + SIZE[1]]
  assert np.array_equal(part, clip_with_images.pictures.rgb(3))


def test_a_centred_crop_keeps_the_size_that_was_asked_for(clip_with_images):
  crop = prepared(clip_with_images, "none", "head", 256)
  scene, _ = centred(crop)
  assert scene.size == (256, 256)
  assert np.abs(scene.intrinsics[:, 1:] - 128).max() < 1e-9
  views = scene.pictures.views
  truth = true_pixels(clip_with_images)
  for i in range(len(scene)):
    assert np.abs(scene.pixels(i) - (truth[i] - views.origin[i]) * views.scale[i]).max() < 1e-3
    seen = (scene.pictures.rgb(i) > 200).all(-1) & (mask_of(scene, i) > 0)
    assert iou(seen, seen_silhouette(scene, i) & (mask_of(scene, i) > 0)) > 0.97


def test_some_of_the_frames_keep_their_pictures_and_size(clip_with_images):
  whole, rows = prepared(clip_with_images, "head", "frame", 200), np.array([1, 4, 5])
  part = frames_of(whole, rows)
  assert [int(n) for n in part.frame_ids] == [2, 6, 7] and part.pictures.masks == whole.pictures.masks
  for k, i in enumerate(rows):
    assert np.array_equal(part.pictures.rgb(k), whole.pictures.rgb(int(i)))
    assert np.array_equal(part.pictures.alpha(k), whole.pictures.alpha(int(i)))
    assert np.allclose(part.pixels(k), whole.pixels(int(i)))
  assert centred(part)[0].size == (200, 200)
  plain = frames_of(clip_with_images, rows)
  assert np.array_equal(plain.pictures.rgb(2), clip_with_images.pictures.rgb(5))
  assert plain.pictures.alpha(2) is None and plain.pictures.masks == ""


def test_a_crop_of_no_asked_size_is_centred_without_scaling(clip_with_images):
  scene, _ = centred(prepared(clip_with_images, "none", "head"))
  assert np.allclose(scene.intrinsics[:, 0], clip_with_images.intrinsics[:, 0], rtol=1e-12)
  assert np.abs(scene.intrinsics[:, 1:] - np.array(scene.size[::-1]) / 2).max() < 0.01


@pytest.mark.parametrize("crop,side", [("none", None), ("head", 256), ("frame", 320), ("square", 400)])
def test_every_frame_gives_its_own_image(clip_with_images, crop, side):
  scene = prepared(clip_with_images, "none", crop, side)
  for i, number in enumerate(FRAMES):
    image = cv2.imdecode(np.frombuffer(rgb_png(scene.pictures.rgb(i)), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    inside = (mask_of(scene, i) > 0) & ~seen_silhouette(scene, i)
    assert np.array_equal(np.median(image[inside], axis=0), background(number))


@pytest.mark.parametrize("crop,side", [("none", None), ("head", 300), ("frame", 300)])
def test_the_exported_cameras_silhouette_is_the_masks(clip_with_images, crop, side):
  scene = prepared(clip_with_images, "head", crop, side)
  face = np.asarray(scene.model.masks["face"])[np.asarray(scene.model.faces)].all(-1)
  for i in range(len(scene)):
    region = np.zeros(scene.size, np.uint8)
    for triangle in scene.pixels(i)[np.asarray(scene.model.faces)[face]]:
      cv2.fillConvexPoly(region, np.round((triangle - 0.5) * 16).astype(np.int32), 255, shift=4)
    region = (region > 0) & (fade_of(scene, i) > 0.9)
    rendered, mask = seen_silhouette(scene, i), mask_of(scene, i) > 127
    assert iou(rendered & region, mask & region) > 0.98
    # The image has the head in white: through the exported camera it is found there, and not beside.
    rgb = scene.pictures.rgb(i)
    drawn = (rgb > 200).all(-1) & (np.any(rgb != 255, axis=-1) | rendered)
    assert iou(drawn, rendered) > 0.98
  beside = dataclasses.replace(scene, intrinsics=scene.intrinsics + [0, 8, 8])
  assert iou(drawn, seen_silhouette(beside, i)) < 0.95


def test_forms_of_an_image(clip_with_images):
  scene = prepared(clip_with_images, "head")
  i, mask = 1, mask_of(prepared(clip_with_images, "head"), 1)
  rgb = scene.pictures.rgb(i)
  decoded = lambda data, code: cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), code)
  white = decoded(over_white(rgb, mask), cv2.COLOR_BGR2RGB)
  assert np.array_equal(white[mask == 0], np.full_like(white[mask == 0], 255))
  assert np.array_equal(white[mask == 255], rgb[mask == 255])
  between = (mask > 0) & (mask < 255)
  exact = rgb[between] * (mask[between, None] / 255) + 255 - mask[between, None].astype(float)
  assert between.any() and np.abs(white[between] - exact).max() <= 0.51
  assert np.array_equal(decoded(rgba_png(rgb, mask), cv2.COLOR_BGRA2RGBA), np.dstack([rgb, mask]))
  assert (decoded(rgba_png(rgb, None), cv2.COLOR_BGRA2RGBA)[..., 3] == 255).all()
  assert np.array_equal(decoded(over_white(rgb, None), cv2.COLOR_BGR2RGB), rgb)
  assert np.array_equal(cv2.imdecode(np.frombuffer(grey_png(mask), np.uint8), cv2.IMREAD_UNCHANGED), mask)
  faded = mask_of(scene, i, fade=True)
  assert (faded <= mask).all()
  below = fade_of(scene, i) == 0
  assert below.any() and (faded[below] == 0).all()
  assert "silhouette" in scene.pictures.masks
  assert prepared(clip_with_images, "none").pictures.masks == ""
  assert (mask_of(prepared(clip_with_images, "none"), i) == 255).all()


def test_what_cannot_be_is_refused(clip_with_images, clip_scene):
  for options, message in (
    ({"mask": "hair"}, "--mask: expected auto, person"),
    ({"mask": ""}, "--mask: expected auto, person"),
    ({"crop": "face"}, "--crop: expected one of"),
    ({"crop": "head", "size": 3}, "--size: expected 16 to"),
  ):
    with pytest.raises(InputError, match=message):
      prepared(clip_with_images, **options)
  with pytest.raises(InputError, match="needs the clip's images"):
    prepared(clip_scene, mask="head")
  with pytest.raises(InputError, match="--mask has no effect on glb"):
    registry.check([registry.FORMATS["glb"]], clip_with_images, {"mask": "head"})
  registry.check([registry.FORMATS["nerf"], registry.FORMATS["glb"]], clip_with_images, {"mask": "head", "size": 99})
  assert prepared(clip_scene).pictures is None
  crop = prepared(clip_scene, crop="head", size=128)  # a camera alone
  assert crop.size == (128, 128) and crop.pictures is None
  assert {o.name for o in images.OPTIONS} == set(images.SCENE_OPTIONS)


def test_images_are_those_of_the_dataset(clip_folder, clip_with_images):
  """A clip that was tracked at half its size: images and camera are those of the frames as they were extracted."""
  folder = FrameFolder(clip_folder / "dataset", tracking_resolution=(180, 250))
  small = seen_through(
    dataclasses.replace(clip_with_images, pictures=None), Views(np.zeros((6, 2)), np.full(6, 0.5), (180, 250))
  )
  small = dataclasses.replace(small, pictures=FolderPictures(folder, np.arange(6)))
  scene = prepared(small, "none")
  assert scene.size == SIZE
  assert np.allclose(scene.intrinsics, clip_with_images.intrinsics, rtol=1e-12)
  drawn = (scene.pictures.rgb(0) > 200).all(-1)
  assert iou(drawn, seen_silhouette(clip_with_images, 0)) > 0.98


def test_the_clips_own_alpha_is_the_mask(clip_folder, clip_with_images, tmp_path):
  """Extracted over grey; over white there is no grey seam. A mask that was put beside a frame changes no colours."""
  rng = np.random.default_rng(0)
  colours = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
  alpha = np.round(np.clip(np.linspace(-0.3, 1.3, 50), 0, 1) * 255).astype(np.uint8)[None].repeat(40, 0)
  over, kept = over_background(np.dstack([colours, alpha]))
  found = straight(over, kept)
  error = np.abs(found.astype(int) - colours).max(axis=-1)
  assert (error[alpha > 0] <= 1 + 127 / alpha[alpha > 0]).all()
  assert np.array_equal(straight(colours, alpha), colours)

  shutil.copytree(clip_folder / "dataset", tmp_path / "dataset")
  for folder in (tmp_path / "dataset").glob("frame_*"):
    cv2.imwrite(str(folder / MASK), dots(SIZE, [(250, 180)], 60.0))
  for kind in ("auto", "person"):
    own = dataclasses.replace(
      clip_with_images, pictures=FolderPictures(FrameFolder(tmp_path / "dataset"), np.arange(6))
    )
    scene = prepared(own, kind)
    assert np.array_equal(mask_of(scene, 3), dots(SIZE, [(250, 180)], 60.0))
    assert scene.pictures.masks == "the clip's own alpha"
    assert np.array_equal(scene.pictures.rgb(3), clip_with_images.pictures.rgb(3))


def test_mattes_from_files_are_checked_against_the_head(clip_with_images, tmp_path, caplog):
  heads = [seen_silhouette(clip_with_images, i).astype(np.uint8) * 255 for i in range(6)]
  for name, turned in (("mattes", False), ("inverted", True)):
    (tmp_path / name).mkdir()
    for number, head in zip(FRAMES, heads):
      cv2.imwrite(str(tmp_path / name / f"{number:03d}.png"), 255 - head if turned else head)
    cv2.imwrite(str(tmp_path / name / "004.png"), heads[0])  # of the frame that the result lacks
    caplog.clear()
    scene = prepared(clip_with_images, str(tmp_path / name))
    assert np.array_equal(mask_of(scene, 3), 255 - heads[3] if turned else heads[3])
    mask_of(scene, 0)
    assert ("is white the person there" in caplog.text) == turned


def test_sizes_that_are_rounded_differently_displace_nothing():
  """Tracked at 1/3 of 360 x 500, 120 x 167: pixels of the images are not square ones of the tracked size."""
  points = np.array([[50.2, 340.6], [470.1, 20.9], [300.0, 200.0]])
  stretch = (500 / 167, 3.0)
  image = dots(SIZE, points, 3.0)
  views = Views(np.zeros((1, 2)), np.array([500 / 167]), SIZE)
  shown = Viewed(lambda i: image, None, str, views, stretch)
  for point in points:
    where = point / stretch * views.scale[0]
    assert np.abs(centre_of(shown.rgb(0), where, 9) - where).max() < 0.1


def test_the_persons_matte_goes_with_the_images(clip_with_images, monkeypatch, caplog):
  """With a model that takes bright pixels for a person; without any the head's silhouette takes its place, or not."""

  class Bright:
    name = "bright"

    def __call__(self, rgb):
      return np.clip((rgb[..., 0].astype(np.float32) - 170) / 60, 0, 1)

  def missing(*_):
    raise InputError("no model here")

  monkeypatch.setattr(boxes, "make_detector", missing)  # nobody else is looked for
  monkeypatch.setattr(choice, "make_segmenter", Bright)
  caplog.set_level("INFO")
  for crop, side in (("none", None), ("frame", 200)):
    scene = prepared(clip_with_images, "auto", crop, side)
    for i in (5, 0):
      assert iou(mask_of(scene, i) > 127, seen_silhouette(scene, i)) > 0.97
  assert scene.pictures.masks == "bright, of the tracked person" and scene.pictures.masks in caplog.text
  assert "masks: other people are not looked for (no model here)" in caplog.text
  monkeypatch.setattr(choice, "make_segmenter", missing)
  assert "silhouette" in prepared(clip_with_images, "auto").pictures.masks
  assert "no model here; the head's own silhouette instead" in caplog.text
  with pytest.raises(InputError, match="no model here"):
    prepared(clip_with_images, "person")


def test_a_format_that_refuses_costs_no_other(clip_with_images, tmp_path):
  with pytest.raises(InputError, match=r"^glb: .*\(written: .*colmap\)"):
    registry.export(clip_with_images, "glb,colmap", tmp_path, crop="frame", size=64, mask="none")
  assert (tmp_path / "colmap").is_dir() and not list(tmp_path.glob("*.glb"))
