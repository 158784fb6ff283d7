"""The overlay: the window that is looked at, the head in it, the panels, and the thread that makes them."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vht_jax.app.overlay import draw, film, window
from vht_jax.cameras import make_camera
from vht_jax.head import flame, mouth
from vht_jax.render.picture import render_head
from vht_jax.types import Identity, Status


def panels(size=(40, 60), **changes):
  height, width = size
  image = np.full((height, width, 3), 200, np.uint8)
  rgb = np.zeros((height, width, 3), np.float32)
  rgb[..., 0] = 1.0
  alpha = np.zeros((height, width), np.float32)
  alpha[: height // 2] = 1.0
  points = np.tile(np.array([[30.5, 20.5]]), (70, 1))
  inputs = dict(image=image, rgb=rgb, alpha=alpha, detected=points, confidence=np.ones(70), projected=points + 8.0)
  style = changes.pop("style", "compare")
  return draw.compose(draw.Shown(**{**inputs, **changes}), style)


def test_four_pictures_in_two_rows():
  picture = panels()
  assert picture.shape == (80, 120, 3) and picture.dtype == np.uint8
  source, render, overlay = picture[:40, :60], picture[:40, 60:], picture[40:, :60]
  assert (source == 200).all()
  assert (render[5] == [255, 0, 0]).all() and (render[35] == 40).all()
  np.testing.assert_allclose(overlay[5, 5], [200 * 0.35 + 255 * 0.65, 70, 70], atol=1)
  assert (overlay[35] == 200).all()


def test_a_head_is_drawn_wherever_it_is_and_nothing_where_none_is():
  """Only where it is seen pictures are blended: by the formula for all pixels they are the same."""
  rng = np.random.default_rng(0)
  image, rgb = rng.integers(0, 255, (40, 60, 3), np.uint8), rng.random((40, 60, 3), np.float32)
  for rows, columns in ((slice(3, 9), slice(20, 60)), (slice(39, 40), slice(0, 1)), (slice(0), slice(0))):
    alpha = np.zeros((40, 60), np.float32)
    alpha[rows, columns] = rng.random((40, 60), np.float32)[rows, columns]
    picture = panels(image=image, rgb=rgb, alpha=alpha, confidence=np.zeros(70))
    a = alpha[..., None]
    head = np.clip(rgb * (255.0 * a) + draw.BACKGROUND * (1.0 - a), 0, 255).astype(np.uint8)
    a = np.float32(draw.OPACITY) * a
    over = np.clip(image * (1.0 - a) + rgb * (255.0 * a), 0, 255).astype(np.uint8)
    assert np.array_equal(picture[:40, 60:], head) and np.array_equal(picture[40:, :60], over)


def test_points_are_drawn_where_they_are():
  landmarks = panels(confidence=np.zeros(70))[40:, 60:]
  rows, columns = np.nonzero((landmarks != 200).any(-1))
  # pixel (38, 28) is the one whose centre is (38.5, 28.5), the projected point; nothing else is drawn
  assert (rows.mean(), columns.mean()) == pytest.approx((28, 38), abs=0.4)
  both = panels()[40:, 60:]
  assert tuple(both[20, 30]) == draw.DETECTED and tuple(both[28, 38]) == draw.PROJECTED


def test_points_that_are_not_numbers_do_not_crash():
  points = np.full((70, 2), np.nan)
  panels(detected=points, projected=points * 1e30)


def test_large_and_odd_and_upright_images():
  assert window.panel_size((1080, 1920)) == (288, 512)
  assert window.panel_size((101, 131)) == (100, 132)  # the encoder wants even sides
  assert window.panel_size((40, 60)) == (40, 60)
  image = np.zeros((200, 100, 3), np.uint8)
  image[::2] = 200
  assert (draw.crop(image, np.zeros(2), (200, 100), (100, 50)) == 100).all()  # averaged, not picked
  assert panels((90, 50)).shape == (90, 200, 3)  # a portrait's pictures lie side by side


def test_one_picture_instead_of_four():
  assert (panels(style="texture")[5] == [255, 0, 0]).all() and (panels(style="texture")[35] == 200).all()
  assert tuple(panels(style="landmarks")[28, 38]) == draw.PROJECTED


def test_points_grow_with_the_face():
  marked = lambda points: int((panels((300, 300), projected=points)[300:, 300:] != 200).any(-1).sum())
  rng = np.random.default_rng(0)
  small, large = (rng.uniform(150 - r, 150 + r, (70, 2)) for r in (20, 145))
  assert marked(large) > 1.5 * marked(small)


def test_a_small_head_is_followed_and_a_large_one_is_not():
  rng = np.random.default_rng(0)
  face = rng.uniform(-20, 20, (68, 2))
  path = np.stack([np.linspace(100, 900, 60), np.full(60, 300)], axis=1)
  found = window.windows(path[:, None] + face, (600, 1000))
  assert found.zoomed and found.size[0] == found.size[1] and 80 < found.size[0] < 160
  centre = found.origin + np.array(found.size) / 2
  assert np.abs(centre - path)[15:45].max() < 12  # symmetric smoothing of a straight way does not lag
  assert (found.origin >= 0).all() and (found.origin + found.size <= [1000, 600]).all()
  assert window.window_panel(found) == (384, 384)  # whatever the window: few sizes, few programs
  large = window.windows(path[:, None] * 0.1 + face * 8, (600, 1000))
  assert not large.zoomed and window.window_panel(large) == window.panel_size((600, 1000))


def test_caption_is_readable_and_says_what_was_not_tracked():
  assert film.caption(7, Status.TRACKED) == "frame 7"
  assert film.caption(7, Status.INTERPOLATED) == "frame 7: interpolated"
  assert film.caption(7, Status.NO_FACE) == "frame 7: no face"
  # On white and on black, in whatever place: white letters, and ground that is dark next to every one of them.
  for grey in (255, 0):
    image = np.full((200, 300, 3), grey, np.uint8)
    nothing = dict(image=image, alpha=np.zeros((200, 300), np.float32), style="texture")
    changed = panels((200, 300), caption="frame 7", **nothing)
    letters = (changed > 200).all(-1) & (np.arange(200) > 150)[:, None] & (np.arange(300) < 90)[None]
    letters &= changed.min(-1) > 200 if grey == 0 else cv2.erode((changed < 255).any(-1).astype(np.uint8), None) > 0
    assert letters.sum() > 50
    around = cv2.dilate(letters.astype(np.uint8), np.ones((5, 5))) > 0
    assert changed[around].min(-1).min() < 90
  assert (panels((200, 300), caption="") == panels((200, 300))).all()


def test_the_first_picture_bears_the_number_of_its_folder(open_head, monkeypatch):
  """As frames.csv, the result file and the film do: from 1, and as the folders have it if some are missing."""
  drawn = []
  monkeypatch.setattr(draw, "compose", lambda shown, style: drawn.append(shown.caption))
  monkeypatch.setattr(film.Studio, "__init__", lambda self, *a: setattr(self, "origins", np.zeros((3, 2))))
  monkeypatch.setattr(film.Studio, "render", lambda self, *a: (np.zeros((4, 8, 8, 3)), np.zeros((4, 8, 8))))
  monkeypatch.setattr(film.Studio, "panel", (8, 8), raising=False)

  class Clip:
    size, frame_ids = (8, 8), np.array([1, 5, 6])
    __len__ = lambda self: 3
    image = lambda self, i: np.zeros((8, 8, 3), np.uint8)

  for i in range(3):
    film.still(open_head, None, None, Clip(), i)
  assert drawn == ["frame 1", "frame 5", "frame 6"]


def test_photometric_difference():
  image = np.full((4, 4, 3), 51, np.uint8)
  alpha = np.zeros((4, 4))
  assert np.isnan(film.photometric_l1(image, np.zeros((4, 4, 3)), alpha))
  alpha[1] = 1.0
  assert film.photometric_l1(image, np.full((4, 4, 3), 0.5), alpha) == pytest.approx(0.3)
  assert film.photometric_l1(image, np.full((4, 4, 3), 7.0), alpha) == pytest.approx(0.8)  # clipped, as it is shown


def test_the_neck_fades_from_its_open_end(open_head):
  vertices, faces = np.asarray(open_head.v_template), np.asarray(open_head.faces)
  fade = draw.neck_fade(vertices, faces)
  assert (fade[np.asarray(open_head.masks["boundary"], bool)] < 0.05).all()
  assert (fade[np.asarray(open_head.masks["face"], bool)] == 1).all() and ((0.1 < fade) & (fade < 0.9)).sum() > 30
  closed = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
  assert (draw.neck_fade(np.eye(4, 3), closed) == 1).all()


def test_the_mouth_gets_the_light_that_comes_through_the_lips():
  angle = jnp.arange(8.0) * jnp.pi / 4
  ring = lambda r: jnp.stack([r * jnp.cos(angle), r * jnp.sin(angle), 0 * angle], axis=1)
  vertices = jnp.array([[0.0, 0.0, -0.02], [0.0, 0.0, 0.01], [0.0, 0.0, -0.02]])
  inside = jnp.array([1.0, 1.0, 0.0])
  light, moved = mouth.mouth_light(vertices, ring(0.01), inside)
  area = 8 / 2 * np.sin(np.pi / 4) * 0.01**2
  for k, depth in ((0, 0.02), (1, mouth.TEETH_BEHIND)):  # the second stuck out of the mouth
    assert float(light[k]) == pytest.approx(area / (area + np.pi * depth**2), rel=1e-3)
    np.testing.assert_allclose(moved[k], [0, 0, -depth], atol=1e-6)
  assert float(light[2]) == 1.0 and (moved[2] == vertices[2]).all()
  closed, _ = mouth.mouth_light(vertices, ring(1e-5), inside)
  assert float(closed[0]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("clay", [False, True])
def test_a_picture_is_the_crop_of_the_whole(open_head, clay):
  camera = make_camera(1.6)
  identity = Identity(
    shape=jnp.zeros(open_head.shapedirs.shape[-1]), texture=jnp.zeros(open_head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(3.2), camera=camera, lmk_offset=jnp.zeros((70, 3)),
  )  # fmt: skip
  pose = flame.neutral_pose(open_head, jnp.array([0.0, 0.0, 0.7]))
  look = draw.make_look(open_head, identity)

  def part(origin, size):
    one = jax.jit(lambda *a: draw.picture(*a, jnp.ones(2), jnp.array([96.0, 128.0]), size, clay=clay))
    return map(np.asarray, one(open_head, look, identity, pose, jnp.array(origin, jnp.float32)))

  rgb, alpha = part([0, 0], (96, 128))
  assert alpha.max() == 1.0 and 0.05 < (alpha > 0.5).mean() < 0.7
  assert ((0.1 < alpha) & (alpha < 0.9)).sum() > 30  # outlines and neck
  hard = np.asarray(jax.jit(lambda: render_head(open_head, identity, pose, (96, 128)).alpha)())
  assert ((alpha > 0.5) != (hard > 0.5))[:40].mean() < 2e-3  # where the renderer has the head; the neck fades below
  cropped, alpha_cropped = part([40, 20], (48, 48))
  np.testing.assert_allclose(alpha_cropped[2:-2, 2:-2], alpha[22:66, 42:86], atol=2e-3)
  solid = alpha_cropped[2:-2, 2:-2] > 0.99
  difference = np.abs(cropped[2:-2, 2:-2] - rgb[22:66, 42:86])[solid]
  assert np.percentile(difference, 99) < 5e-3
  if clay:
    assert np.ptp(rgb[alpha > 0.99], axis=-1).max() < 1e-5  # grey


def test_overlay_plays(tmp_path):
  """What write_video makes of the panels is H.264 of the right size and length."""
  av = pytest.importorskip("av")
  from vht_jax.video.codec import write_video

  write_video(tmp_path / "overlay.mp4", (panels((101, 131)) for _ in range(5)), 25)
  with av.open(str(tmp_path / "overlay.mp4")) as container:
    stream = container.streams.video[0]
    assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
    frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
  assert len(frames) == 5 and frames[0].shape == panels((101, 131)).shape
  assert np.abs(frames[2].astype(int) - panels((101, 131))).mean() < 10
  assert cv2.VideoCapture(str(tmp_path / "overlay.mp4")).isOpened()
