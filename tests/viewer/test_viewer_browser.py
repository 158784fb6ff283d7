"""vht-view in a real browser (headless Chromium with software WebGL): see, scrub, edit, save, load again."""

import time
import urllib.parse

import browser
import cv2
import numpy as np
import pytest
from test_viewer import make_result

from vht_jax import results
from vht_jax.config import TrackConfig
from vht_jax.dataset.layout import IMAGE, frame_name
from vht_jax.head import flame

pytest.importorskip("viser", reason="viser is not installed (pip install 'vht-jax[viewer]')")
if browser.find() is None:
  pytest.skip("no Chromium here (Debian: apt install chromium)", allow_module_level=True)

pytestmark = pytest.mark.slow

SIZE = (256, 224)
N = 12

# The text field, slider or box of the row that has a label, and what can be clicked.
HELPERS = """
window.row = (label) => {
  const names = [...document.querySelectorAll('label, div, span')].filter(
    e => e.children.length === 0 && e.textContent.trim() === label && e.getBoundingClientRect().width > 0);
  for (let e of names) {
    for (let up = e, k = 0; up && k < 5; up = up.parentElement, k++) {
      const input = [...up.querySelectorAll('input')].filter(i => i.type !== 'hidden')[0];
      if (input) return input;
    }
  }
};
window.place = (e) => {
  e.scrollIntoView({block: 'center'});
  const r = e.getBoundingClientRect();
  return [r.x + r.width / 2, r.y + r.height / 2];
};
window.button = (text) => [...document.querySelectorAll('button, [role=tab], [role=option]')].filter(
  e => e.textContent.trim() === text && e.getBoundingClientRect().width > 0)[0];
"""


class Page:
  """The viewer's page as a person uses it."""

  def __init__(self, folder, port):
    self.browser = browser.Browser(folder)
    self.browser.open(f"http://localhost:{port}")
    self.browser.wait_for("document.querySelector('canvas') && document.body.innerText.includes('Surface')", 90)
    self.browser.evaluate(HELPERS)

  def press(self, text):
    self.browser.wait_for(f"!!button({text!r})")
    self.browser.click(*self.browser.evaluate(f"place(button({text!r}))"))

  def set(self, label, value):
    """Types a value into the field of a row."""
    self.browser.wait_for(f"!!row({label!r})")
    x, y = self.browser.evaluate(f"place(row({label!r}))")
    self.browser.click(x, y)
    self.browser.evaluate("document.activeElement.select()")
    self.browser.type(str(value))

  def value(self, label):
    return self.browser.evaluate(f"row({label!r}).value")

  def check(self, label):
    self.browser.click(*self.browser.evaluate(f"place(row({label!r}))"))

  def choose(self, label, option):
    def opened():  # a click while another list closes is lost
      self.browser.click(*self.browser.evaluate(f"place(row({label!r}))"))
      time.sleep(0.5)
      return self.browser.evaluate(f"!!button({option!r})")

    until(opened)
    self.press(option)
    time.sleep(0.5)

  def picture(self):
    """(H, W, 3) uint8 of the 3D view alone."""
    page = cv2.imdecode(np.frombuffer(self.browser.screenshot(), np.uint8), 1)[..., ::-1]
    box = "(r => [r.x, r.y, r.width, r.height])(document.querySelector('canvas').getBoundingClientRect())"
    x, y, w, h = (round(n) for n in self.browser.evaluate(box))
    view = page[y : y + h, x : x + w].copy()
    view[: h // 4, : w // 3] = view[: h // 4, -w // 3 :] = 255  # notices come and go in the corners
    return view


@pytest.fixture(scope="module")
def run(tmp_path_factory, open_head):
  """The output folder of a small run: drawn frames, and the parameters that they were drawn with."""
  from vht_jax.viewer.editing.session import Session
  from vht_jax.viewer.surface import Surface

  folder = tmp_path_factory.mktemp("view") / "clip"
  result = make_result(open_head, N)
  numbers = np.arange(1, N + 1)
  results.save_tracked(folder / results.FILE_NAME, result, numbers, SIZE, TrackConfig(), head=open_head.name)
  surface = Surface(flame.without_lower_neck(open_head), Session(result), result.identity)
  for i in range(N):
    rgb, alpha = surface.picture(surface.vertices(i), SIZE)
    image = np.where(alpha[..., None] > 0.5, rgb, [0.2, 0.3, 0.25])
    path = folder / "dataset" / frame_name(i + 1) / IMAGE
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.round(255 * image[..., ::-1]).astype(np.uint8))
  return folder


@pytest.fixture
def shown(run, tmp_path):
  """Opens results in a page: shown(path, ...) -> (page, viewer)."""
  from vht_jax.app.result import source
  from vht_jax.viewer import serve

  pages = []

  def show(*paths):
    server, viewer, _ = serve.serve([source.open_result(str(p)) for p in paths], "localhost", 8790)
    thread = viewer.start()
    folder = tmp_path / f"browser_{len(pages)}"
    folder.mkdir()
    page = Page(folder, server.get_port())
    pages.append((page, server, viewer, thread))
    return page, viewer

  yield show
  for page, server, viewer, thread in pages:
    page.browser.close()
    viewer.stop()
    thread.join(30)
    server.stop()


def settled(viewer, drawn, seconds=60):
  """Waits until the viewer has drawn again and the browser had time to show it."""
  until(lambda: viewer.drawn > drawn, seconds)
  time.sleep(2.5)  # software WebGL


def apart(a, b):
  """Part of the pixels that differ clearly and not only along edges: a slow page draws at a lower resolution."""
  differs = (np.abs(a.astype(int) - b).max(-1) > 30).astype(np.uint8)
  return cv2.erode(differs, np.ones((5, 5), np.uint8)).mean()


def until(condition, seconds=30):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.5)


def test_the_head_is_there_while_the_clip_plays(run, shown):
  # Software WebGL draws slower than pictures come: a mesh that is replaced before it is unpacked would never be seen.
  page, viewer = shown(run)
  viewer.look(image=False)
  settled(viewer, viewer.drawn)
  head = lambda: (page.picture().min(-1) < 200).mean()
  still = head()
  assert still > 0.01
  viewer.play(True)
  begun = viewer.drawn
  until(lambda: viewer.drawn > begun + 3)
  for _ in range(10):
    assert head() > 0.5 * still
    time.sleep(0.3)
  viewer.play(False)
  assert page.browser.errors == []


def test_head_lies_over_the_image(shown, run, open_head):
  """The browser's silhouette and colours against the tracker's renderer, at the size of the browser's window."""
  page, viewer = shown(run)
  drawn = viewer.drawn
  page.check("image")
  settled(viewer, drawn)
  picture = page.picture()
  drawn = viewer.drawn
  page.choose("Surface", "normals")  # none of whose colours is the white of the page
  settled(viewer, drawn)
  outline = page.picture()
  height, width = picture.shape[:2]
  session, surface = viewer.session, viewer.surfaces[0]
  # The same view: a camera whose axis is in the middle of the window, with the window's field of view.
  from vht_jax.viewer.scene import field_of_view

  fov = field_of_view(session.edited_camera, SIZE, width / height)
  focal = 0.5 * height / np.tan(fov / 2) / max(height, width)
  camera = session.edited_camera.replace(focal=np.float32(focal), principal=np.float32([0.5, 0.5]))
  from vht_jax.viewer.surface import _jax, _picture

  vertices = surface.vertices(0)
  rgb, alpha = _picture(
    surface.shown(vertices), surface.faces, surface.head.uv, surface.texture(vertices), _jax(camera), (height, width)
  )
  head = np.asarray(alpha) > 0.5
  found = outline.astype(int).min(-1) < 235  # the page is white
  kernel = np.ones((5, 5), np.uint8)  # 2 px on either side
  grown, shrunk = cv2.dilate(head.astype(np.uint8), kernel) > 0, cv2.erode(head.astype(np.uint8), kernel) > 0
  assert head.mean() > 0.1
  assert (found & ~grown).sum() < 1e-3 * head.sum(), "the browser's head sticks out by more than 2 px"
  assert (shrunk & ~found).sum() < 1e-3 * head.sum(), "the browser's head is smaller by more than 2 px"
  rgb = np.clip(np.asarray(rgb), 0.0, 1.0)
  difference = np.abs(picture / 255.0 - rgb)[shrunk & (rgb.max(-1) < 0.95)]  # brighter ones cannot be sent (`glb`)
  print(f"silhouette: {(found & ~grown).sum()} px out, {(shrunk & ~found).sum()} px in of {head.sum()}; "
        f"colours: median {np.median(difference):.4f}, mean {difference.mean():.4f}")  # fmt: skip
  assert np.median(difference) < 0.02 and difference.mean() < 0.04


def test_scrub_edit_blend_undo_save_and_load(shown, run, open_head):
  page, viewer = shown(run)
  drawn = viewer.drawn
  page.set("Frame", 6)
  settled(viewer, drawn)
  assert viewer.frame == 5 and "frame 6" in page.browser.evaluate("document.body.innerText")
  before = page.picture()

  drawn = viewer.drawn
  page.set("jaw open", 30)
  settled(viewer, drawn)
  assert np.degrees(viewer.session.poses.jaw[5, 0]) == pytest.approx(30, abs=1e-3)
  after = page.picture()
  assert apart(after, before) > 0.003, "the mouth does not open"

  drawn = viewer.drawn
  page.set("blend over", 2)
  page.press("Blend")
  settled(viewer, drawn)
  assert viewer.session.edited.nonzero()[0].tolist() == [3, 4, 5, 6, 7]

  drawn = viewer.drawn
  page.press("Undo")
  settled(viewer, drawn)
  assert viewer.session.edited.nonzero()[0].tolist() == [5]
  page.press("Undo")
  until(lambda: not viewer.session.edited.any())
  until(lambda: apart(page.picture(), before) < 0.0003)
  page.press("Redo"), page.press("Redo")
  until(lambda: viewer.session.edited.sum() == 5)

  page.set("save as", "from_the_page.npz")
  page.press("Save")
  until(lambda: (run / "from_the_page.npz").exists())
  poses = results.load_tracked(run / "from_the_page.npz", open_head).result.poses
  assert np.degrees(poses.jaw[5, 0]) == pytest.approx(30, abs=1e-3)

  # In a page of its own the saved file shows the edit.
  again, other = shown(run / "from_the_page.npz")
  drawn = other.drawn
  again.set("Frame", 6)
  settled(other, drawn)
  assert float(again.value("jaw open")) == pytest.approx(30, abs=0.01)
  until(lambda: apart(again.picture(), after) < 0.0003)
  for shown_page in (page, again):
    assert not shown_page.browser.errors
    asked = [urllib.parse.urlsplit(request) for request in shown_page.browser.requests]
    hosts = {address.hostname for address in asked if address.scheme not in ("data", "blob", "about")}
    assert hosts == {"localhost"}, hosts


def test_every_look_two_results_play_and_exports(shown, run, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  arrays = results.read_npz(run / results.FILE_NAME)
  results.write_npz(other / results.FILE_NAME, arrays | {"jaw_pose": arrays["jaw_pose"] + np.float32([0.5, 0, 0])})
  page, viewer = shown(run, other)
  pictures = []
  for look in ("shading", "normals", "wireframe", "clay", "error", "texture"):
    drawn = viewer.drawn
    page.choose("Surface", look)
    settled(viewer, drawn)
    pictures.append(page.picture())
  for a, b in zip(pictures, pictures[1:]):
    assert np.abs(a.astype(int) - b).mean() > 1.0
  drawn = viewer.drawn
  page.press("Both results")
  time.sleep(2)
  page.choose("Second result", "difference")
  settled(viewer, drawn)
  assert "mm apart" in page.browser.evaluate("document.body.innerText")
  drawn = viewer.drawn
  page.press("Play")
  settled(viewer, drawn + 5)
  page.press("Pause")
  page.press("Export")
  page.press("PLY, coloured")
  until(lambda: page.browser.evaluate("1") and list(page.browser.downloads.glob("*.ply")))
  assert next(page.browser.downloads.glob("*.ply")).read_bytes().startswith(b"ply")
  assert not page.browser.errors
