"""report.html: its numbers, its words, and (slow) the page itself in a real browser."""

import base64
import dataclasses
import gzip
import io
import json
import math
import os
import re
import shutil
import tempfile
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from glb_reader import Glb

from vht_jax import cameras
from vht_jax.app.options import settings
from vht_jax.app.overlay import draw, window
from vht_jax.app.report import page, page_data
from vht_jax.app.report.advice import advice, doubtful_frames, logged_warnings, spans
from vht_jax.head import flame, mouth
from vht_jax.results.plain import frame_numbers, number_sds
from vht_jax.types import Identity, Status, TrackResult

SIZE = (180, 240)  # H, W px
N = 40
PER_SECOND = 20.0


@pytest.fixture(scope="module")
def result(open_head):
  """A head that turns to its left, nods, opens its jaw, looks up and blinks; ten frames are doubtful, five lost."""
  t = jnp.linspace(0.0, 1.0, N)
  neutral = flame.neutral_pose(open_head)
  poses = jax.tree.map(lambda x: jnp.broadcast_to(x, (N, *x.shape)), neutral)
  zero = jnp.zeros(N)
  lids = jnp.array([open_head.expr_names.index(f"eyelid{side}") for side in ("Left", "Right")])
  poses = poses.replace(
    neck=jnp.stack([zero, 0.5 * t, zero], 1),  # rad about y: to the subject's left
    jaw=jnp.stack([0.3 * t, zero, zero], 1),
    eyes=jnp.broadcast_to(jnp.array([[-0.2, 0.0, 0.0]]), (N, 2, 3)),  # up
    expr=poses.expr.at[:, lids].set(t[:, None]),
  )
  identity = Identity(
    shape=jnp.zeros(open_head.shapedirs.shape[-1]),
    texture=jnp.zeros(open_head.texture_basis.shape[-1]),
    light=jnp.zeros((9, 3)).at[0].set(math.sqrt(4 * math.pi)),
    camera=cameras.make_camera(2.0),
    lmk_offset=jnp.zeros((70, 3)),
  )
  return TrackResult(
    identity=identity,
    poses=poses,
    energies={"photometric_l1": 0.02 + 0.01 * t},
    status=np.where((np.arange(N) >= 30) & (np.arange(N) < 35), Status.INTERPOLATED, Status.TRACKED),
    confidence=np.where((np.arange(N) >= 10) & (np.arange(N) < 20), 0.2 + 0.01 * np.arange(N), 0.9).astype(np.float32),
    pose_sd=jax.tree.map(lambda x: jnp.full_like(x, 0.01), poses),
    focal_sd=jnp.float32(0.15),
  )


@pytest.fixture(scope="module")
def run():
  return page.Run(
    title="a <clip> & more",
    frames=np.arange(1, N + 1),
    size=SIZE,
    frame_rate=PER_SECOND,
    nme=np.where(np.arange(N) == 31, np.nan, 1.0),
    summary={
      "nme68_median": 1.0,
      "seconds_total": 20.0,
      "stage_seconds": {"detect": 3.0, "frames": 17.0},
      "photometric_l1": 0.02,
    },  # fmt: skip
    settings=settings.make_settings({"n_shape": 50}),
    advice=[{"level": "warning", "text": "The head turns by only 9 degrees: a guess, known to +-15 %."}],
    panels=window.panel_boxes(SIZE),
  )


def test_plain_numbers_of_known_poses(open_head, result):
  numbers = frame_numbers(open_head, result)
  t = np.linspace(0, 1, N)
  np.testing.assert_allclose(numbers["turn"], np.degrees(0.5 * t), atol=1e-3)
  np.testing.assert_allclose(numbers["nod"], 0, atol=1e-3)
  np.testing.assert_allclose(numbers["tilt"], 0, atol=1e-3)
  np.testing.assert_allclose(numbers["jaw"], np.degrees(0.3 * t), atol=1e-3)
  np.testing.assert_allclose(numbers["gaze_up"], np.degrees(0.2), atol=1e-3)
  np.testing.assert_allclose(numbers["gaze_side"], 0, atol=1e-3)
  for eye in ("left", "right"):
    blink = numbers[f"blink_{eye}"]
    assert abs(blink[0]) < 1e-6 and blink[-1] > 0.7 and (np.diff(blink) > 0).all()
  np.testing.assert_allclose(numbers["distance"], 1.0, atol=0.2)


@pytest.mark.parametrize("axis, angle, name, sign", [(1, 0.3, "turn", 1), (0, 0.3, "nod", -1), (2, 0.3, "tilt", -1)])
def test_signs_of_the_head_angles(open_head, result, axis, angle, name, sign):
  """About the head's y (up) it turns left, about x (to its left) it nods down, about z (out) to the right shoulder."""
  turned = result.replace(poses=result.poses.replace(neck=jnp.zeros((N, 3)).at[:, axis].set(angle)))
  numbers = frame_numbers(open_head, turned)
  np.testing.assert_allclose(numbers[name], sign * np.degrees(angle), atol=1e-3)


def test_standard_deviations_are_those_of_drawn_poses(open_head, result):
  rng = np.random.default_rng(0)
  drawn = result.poses.replace(
    neck=jnp.tile(jnp.array([[0.1, 0.2, -0.1]]), (4000, 1)),
    **{
      name: jnp.asarray(np.asarray(getattr(result.poses, name))[:1] + 0.01 * rng.standard_normal((4000, *shape)), "f4")
      for name, shape in (("rotation", (3,)), ("jaw", (3,)), ("eyes", (2, 3)))
    },
    **{name: jnp.repeat(getattr(result.poses, name)[:1], 4000, 0) for name in ("expr", "translation")},
  )
  spread = {k: v.std() for k, v in frame_numbers(open_head, result.replace(poses=drawn)).items()}
  one = result.poses.replace(neck=jnp.tile(jnp.array([[0.1, 0.2, -0.1]]), (N, 1)))
  for name, sd in number_sds(result.replace(poses=one)).items():
    assert sd[0] == pytest.approx(spread[name], rel=0.06), name
  lost = result.replace(pose_sd=jax.tree.map(lambda v: jnp.full_like(v, jnp.inf), result.pose_sd))
  assert all(np.isinf(sd).all() for sd in number_sds(lost).values())
  assert number_sds(result.replace(pose_sd=None)) == {}


def test_doubtful_frames_become_spans(result):
  assert spans(doubtful_frames(result)) == [(10, 19), (30, 34)]
  assert spans(np.array([True])) == [(0, 0)] and spans(np.zeros(3, bool)) == []


GUESSED = "the head turns by only 9 degrees: the focal length is a guess (+-12 %). The head lies"


def test_warnings_in_plain_words(result, run):
  said = advice(result, run.summary, [GUESSED, "the disk is slow"])
  texts = [a["text"] for a in said]
  assert texts[0].startswith("5 of 40 frames show no face that can be used: poses between those of their neighbours")
  assert "10 of 40 frames were tracked with little confidence" in texts[1]
  assert texts[2] == "The disk is slow."
  # Why, from the beginning of the run; how much, from its end; what it means, and what to do. Once.
  assert texts[3].startswith("The head turns by only 9 degrees: the focal length is a guess, known to +-15 %. ")
  assert "distance" in texts[3] and "--fov" in texts[3] and "--focal" in texts[3]
  assert sum("focal" in t for t in texts) == 1 and not any("12 %" in t for t in texts)
  assert any("known only to +-15 %" in a["text"] for a in advice(result, run.summary, []))
  good = result.replace(status=np.zeros(N, int), confidence=np.ones(N), focal_sd=jnp.float32(0.02))
  assert advice(good, run.summary, [GUESSED]) == []  # what tracks have made sure of since is no guess
  given = advice(good.replace(focal_sd=jnp.float32(0.0)), run.summary, [])
  assert [a["level"] for a in given] == ["note"] and "given" in given[0]["text"]
  assert any("Only landmarks" in a["text"] for a in advice(good.replace(energies={}), run.summary, []))
  covered = advice(good, {**run.summary, "covered": {"mouth": 20}}, [])
  assert [a["level"] for a in covered] == ["note"] and "mouth is covered in 20 of 40 frames" in covered[0]["text"]


def test_a_run_says_the_same_on_page_terminal_and_in_its_files(open_head, result, run, tmp_path):
  """One list: what `advice` says is in summary.json, below the printed figures, in the log and on the page."""
  from vht_jax.app.report import summary as summary_
  from vht_jax.app.report.outcome import Outcome

  (tmp_path / "track.log").write_text(f"2026-11-26 00:31:36,151 WARNING vht_jax: {GUESSED}\n")
  outcome = Outcome(tmp_path, None, open_head, None, result)
  told = outcome.advice(run.summary)
  texts = {a["text"] for a in told if a["level"] == "warning"}
  assert len(texts) == 3
  counted = {"frames": N, "tracked": 35, **run.summary, "warnings": sorted(texts)}
  printed = " ".join(summary_.summary_text(counted, tmp_path, []).split())
  page_says = page_data.page_data(open_head, result, dataclasses.replace(run, advice=told))["advice"]
  for text in texts:
    assert f"! {text}" in printed
    assert text.replace("+-", "±") in [a["text"] for a in page_says]
  assert all(len(line) <= 120 for line in summary_.summary_text(counted, tmp_path, []).splitlines()[:-1])


def test_warnings_come_from_the_log(tmp_path):
  log = tmp_path / "track.log"
  log.write_text(
    "2026-11-26 00:31:36,151 WARNING vht_jax: the head turns by only 7 degrees\n"
    "2026-11-26 00:31:36,151 INFO vht_jax: camera: 1 done\nTraceback: WARNING not this\n"
    "2026-11-26 00:41:36,151 WARNING absl: another\n2026-11-26 00:51:36,151 WARNING vht_jax: "
    "the head turns by only 7 degrees\n"
  )
  assert logged_warnings(log) == ["the head turns by only 7 degrees", "another"]
  assert logged_warnings(tmp_path / "none.log") == []


def test_numbers_of_the_page(open_head, result, run):
  data = page_data.page_data(open_head, result, run)
  assert json.loads(json.dumps(data, allow_nan=False)) == json.loads(json.dumps(data))
  assert data["doubtful"] == [{"first": 10, "last": 19, "worst": 10}, {"first": 30, "last": 34, "worst": 30}]
  titles = [p["title"] for p in data["plots"]]
  assert titles == ["Confidence", "Landmark misfit", "Head", "Jaw open", "Gaze", "Eyes closed", "Image misfit"]
  assert all(len(s["values"]) == N for p in data["plots"] for s in p["series"])
  assert data["plots"][1]["series"][0]["values"][31] is None
  assert len(data["units"]["names"]) == len(data["units"]["values"]) == 40
  assert [s["name"] for s in data["settings"] if s["changed"]] == ["n_shape"]
  assert data["figures"][0] == {"label": "Tracked", "value": "35", "detail": "of 40 frames", "level": "bad"}


def test_further_numbers_per_frame_are_plotted(open_head, result, run):
  @flax.struct.dataclass
  class Richer(TrackResult):
    of_shirt: dict | None = None
    glasses: jax.Array | None = None

  richer = Richer(
    **vars(result.replace(visible=np.zeros((N, 4)), misplaced=np.zeros(N))),
    of_shirt={"collar": np.full(N, 0.5), "too_long": np.zeros(3)},
    glasses=np.zeros(N),
  )
  plots = page_data.page_data(open_head, richer, run)["plots"]
  assert [(p["title"], [s["name"] for s in p["series"]]) for p in plots[-4:]] == [
    ("Regions visible", ["right eye", "left eye", "mouth", "contour"]),
    ("Landmarks beside the face", ["misplaced"]),
    ("Of shirt", ["collar"]),
    ("Glasses", ["glasses"]),
  ]


@pytest.mark.parametrize("size", [(60, 80), (90, 50)])
def test_boxes_are_where_the_pictures_are(size):
  """Each box of the video holds the picture of its name."""
  grey = np.full((*size, 3), 90, np.uint8)
  points = np.full((70, 2), 20.0)
  shown = draw.Shown(grey, np.full((*size, 3), 0.8), np.ones(size), points, np.ones(70), points + 10.0)
  picture = draw.compose(shown)
  means = {}
  for name, left, top, width, height in window.panel_boxes(size):
    h, w = picture.shape[:2]
    box = picture[round(top * h) : round((top + height) * h), round(left * w) : round((left + width) * w)]
    assert box.shape == (*size, 3)
    means[name] = box.mean()
  assert means["input"] == 90 and means["render"] == 204 and 90 < means["overlay"] < 204


def embedded(text, name):
  return re.search(rf'<script[^>]* id="{name}">(.*?)</script>', text, re.S).group(1)


def test_the_page_is_one_closed_file(open_head, result, run):
  text = page.make_page(open_head, result, run)
  assert text == page.make_page(open_head, result, run)  # the same bytes
  assert "@@" not in text and "a &lt;clip&gt; &amp; more" in text
  assert json.loads(embedded(text, "data"))["title"] == run.title
  assert len(Glb(gzip.decompress(base64.b64decode(embedded(text, "head-data")))).frames()[0]) == N
  assert embedded(text, "video-data") == ""
  assert "default-src 'none'" in text
  own = text.replace(page.WEB.joinpath("vendor/three.min.js").read_text().strip(), "")
  assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", own)
  assert len(text) < 2_000_000


def test_size_for_500_frames(open_head, result, run):
  """Below 3 MB besides the video, of poses that do not compress."""
  rng = np.random.default_rng(1)
  noise = lambda x: jnp.asarray(0.05 * rng.standard_normal((500, *x.shape[1:])), jnp.float32)
  noisy = jax.tree.map(lambda x: jnp.asarray(x)[np.arange(500) % N] + noise(x), result.poses)
  long = result.replace(
    poses=noisy, pose_sd=noisy.replace(expr=jnp.abs(noisy.expr)), status=np.zeros(500, int), confidence=rng.random(500),
    energies={},
  )  # fmt: skip
  clip = dataclasses.replace(run, frames=np.arange(1, 501), nme=rng.random(500))
  assert len(page.make_page(open_head, long, clip)) < 3_000_000


def test_a_long_video_stays_beside_the_page(open_head, result, run, tmp_path, monkeypatch):
  video = tmp_path / "overlay.mp4"
  video.write_bytes(b"0" * 100)
  inside = page.make_page(open_head, result, dataclasses.replace(run, video=video))
  assert base64.b64decode(embedded(inside, "video-data")) == b"0" * 100
  monkeypatch.setattr(page, "LARGEST_VIDEO", 99)
  beside = page.make_page(open_head, result, dataclasses.replace(run, video=video))
  assert embedded(beside, "video-data") == "" and json.loads(embedded(beside, "data"))["videoFile"] == "overlay.mp4"


def test_a_result_that_is_not_finite_still_gives_a_page(open_head, result, run):
  broken = result.replace(poses=result.poses.replace(jaw=result.poses.jaw.at[3].set(jnp.nan)))
  text = page.make_page(open_head, broken, run)
  assert embedded(text, "head-data") == ""


@pytest.mark.parametrize("origin", ["mediapipe", "face-alignment"])
def test_the_page_made_again_has_the_landmarks_of_the_datasets_detector(
  open_head, result, tmp_path, monkeypatch, origin
):
  import cv2

  from vht_jax import results
  from vht_jax.dataset.keypoints import write_keypoints
  from vht_jax.landmarks import Detection

  points = np.random.default_rng(0).uniform(20, 160, (68, 2)).astype(np.float32)
  for number in (1, 2):
    frame = tmp_path / "dataset" / f"frame_{number:04d}"
    frame.mkdir(parents=True)
    assert cv2.imwrite(str(frame / "image_0000.png"), np.zeros((*SIZE, 3), np.uint8))
    write_keypoints(frame / "keypoints_static_0000.json", Detection(np.zeros(5, np.float32), points), origin)
  chosen = settings.make_settings({"tracking_resolution": SIZE})
  settings.write_ini(tmp_path / "config.ini", chosen)
  short = jax.tree.map(lambda x: x[:2] if np.ndim(x) and len(x) == N else x, result)
  results.save_tracked(tmp_path / results.FILE_NAME, short, np.array([1, 2]), SIZE, chosen.track, open_head)
  (tmp_path / "summary.json").write_text("{}")
  asked = []

  def load(*args, detector, **rest):
    asked.append(detector)
    return open_head

  monkeypatch.setattr("vht_jax.app.inputs.load_head", load)
  assert page.page_of_folder(tmp_path).is_file() and asked == [origin]


# The page in a browser


@pytest.fixture(scope="module")
def browser():
  webdriver = pytest.importorskip("selenium.webdriver")
  from selenium.webdriver.chrome.service import Service

  chromium = shutil.which("chromium") or shutil.which("google-chrome")
  driver = shutil.which("chromedriver")
  if not (chromium and driver):
    pytest.skip("no chromium with chromedriver here")
  options = webdriver.ChromeOptions()
  options.binary_location = chromium
  flags = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    "disable-sync use-angle=swiftshader enable-unsafe-swiftshader window-size=1200,900"
  )
  with tempfile.TemporaryDirectory() as profile:
    for flag in [*flags.split(), f"user-data-dir={profile}"]:
      options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_script_timeout(60)
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def opened(browser, open_head, result, run, tmp_path_factory):
  """The page in the browser, its video numbered by colour: frame i is i / N grey."""
  from vht_jax.video.codec import write_video

  folder = tmp_path_factory.mktemp("page")
  height, width = 2 * SIZE[0], 2 * SIZE[1]
  grey = (np.full((height, width, 3), 255 * i // N, np.uint8) for i in range(N))
  write_video(folder / "overlay.mp4", grey, PER_SECOND)
  page.write_page(folder / "report.html", open_head, result, dataclasses.replace(run, video=folder / "overlay.mp4"))
  os.remove(folder / "overlay.mp4")  # the page has it
  browser.get((Path(folder) / "report.html").as_uri())
  wait(browser, "await report.ready; await report.pictureShown();")
  return browser


def wait(browser, script):
  """Runs an async script in the page and returns its value."""
  return browser.execute_async_script(
    "const done = arguments[arguments.length - 1];"
    f"(async () => {{ {script} }})().then(done, (error) => done('error: ' + error.stack));"
  )


def grey_shown(browser):
  return wait(
    browser,
    "const c = new OffscreenCanvas(1, 1), x = c.getContext('2d'); x.drawImage("
    "document.getElementById('picture'), 0, 0, 1, 1); return x.getImageData(0, 0, 1, 1).data[0];",
  )


@pytest.mark.slow
def test_scrubbing_shows_the_frame_everywhere(opened):
  for frame in (0, 7, 39, 22):
    wait(opened, f"report.setFrame({frame}); await report.pictureShown();")
    assert abs(grey_shown(opened) - 255 * frame // N) <= 2  # half of the step between two frames
    assert f"frame {frame + 1} " in opened.find_element("id", "now").text
    jaw = np.degrees(0.3 * frame / (N - 1))
    shown = [e.text for e in opened.find_elements("css selector", ".plot") if "Jaw open" in e.text]
    assert f"{jaw:.1f}" in shown[0] or f"{jaw:.2f}" in shown[0]


@pytest.mark.slow
def test_fast_keys_end_with_the_right_picture(opened):
  """What is painted, not what the video believes: Chromium painted pictures that it had sought before."""
  from selenium.webdriver.common.keys import Keys
  from selenium.webdriver.support.ui import WebDriverWait

  body = opened.find_element("tag name", "body")
  for back in (30, 17, 8):
    body.send_keys(Keys.END, Keys.ARROW_LEFT * back)
    wait(opened, "await report.pictureShown(); await new Promise((r) => setTimeout(r, 200));")
    frame = opened.execute_script("return report.state.frame")
    assert frame == N - 1 - back
    expected = 255 * frame // N  # a busy machine decodes it later, and what is painted then stays
    WebDriverWait(opened, 20).until(lambda browser: abs(grey_shown(browser) - expected) <= 2)


@pytest.mark.slow
def test_a_film_of_varying_rate_is_in_step(browser, opened, open_head, result, run, tmp_path):
  from vht_jax.video.codec import write_video

  times = np.cumsum(np.where(np.arange(N) % 3 == 0, 0.11, 0.03))
  grey = (np.full((64, 64, 3), 255 * i // N, np.uint8) for i in range(N))
  write_video(tmp_path / "overlay.mp4", grey, PER_SECOND, times.tolist())
  varying = dataclasses.replace(run, video=tmp_path / "overlay.mp4", times=times, video_times=times, panels=())
  before = browser.current_url
  try:
    page.write_page(tmp_path / "report.html", open_head, result, varying)
    browser.get((tmp_path / "report.html").as_uri())
    wait(browser, "await report.pictureShown();")
    for frame in (1, 14, 38, 39, 3):
      wait(browser, f"report.setFrame({frame}); await report.pictureShown();")
      assert abs(grey_shown(browser) - 255 * frame // N) <= 2
      at = browser.execute_script("return frameAtTime(document.getElementById('video').currentTime)")
      assert at == frame
  finally:
    browser.get(before)
    wait(browser, "await report.ready; await report.pictureShown();")


@pytest.mark.slow
def test_the_mouth_has_the_light_of_the_overlay(opened, open_head, result):
  """The page's hole between the lips is that of `head.mouth`, from which the light follows."""
  inside = jnp.asarray(mouth.inside_mouth(open_head), jnp.float32)
  for frame in (15, 39):
    found = wait(
      opened,
      f"head3d.select('As filmed'); report.setFrame({frame}); await new Promise((r) => setTimeout(r, 500));"
      "const u = head3d.mouth.uniforms; return [u.mouthCentre.value.toArray(), u.mouthNormal.value.toArray(),"
      "u.mouthArea.value];",
    )
    pose = jax.tree.map(lambda x: x[frame], result.poses)
    vertices = flame.skin(open_head, result.identity.shape, pose)
    hole = mouth.opening(vertices, flame.landmarks(open_head, vertices)[mouth.INNER_LIPS], inside)
    flip = np.array([-1, 1, -1])
    np.testing.assert_allclose(found[0], np.asarray(hole.centre) * flip, atol=1e-4)
    assert np.dot(found[1], np.asarray(hole.normal) * flip) > 0.999
    assert found[2] == pytest.approx(float(hole.area), rel=0.02)


@pytest.mark.slow
def test_keys_jump_to_the_doubtful_frames(opened):
  from selenium.webdriver.common.keys import Keys

  body = opened.find_element("tag name", "body")
  wait(opened, "report.setFrame(0);")
  where = lambda: opened.execute_script("return report.state.frame")
  body.send_keys("j")
  assert where() == 10
  body.send_keys("j")
  assert where() == 30
  body.send_keys("j")
  assert where() == 30
  body.send_keys("k")
  assert where() == 10
  body.send_keys(Keys.ARROW_RIGHT)
  assert where() == 11
  body.send_keys(Keys.SHIFT + Keys.ARROW_LEFT)
  assert where() == 1
  button = opened.find_elements("css selector", "#doubtful button")[1]
  opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
  button.click()
  assert where() == 30


@pytest.mark.slow
def test_it_plays(opened):
  wait(opened, "report.setFrame(0); await report.pictureShown(); report.setPlaying(true);")
  wait(opened, "while (report.state.frame < 5) await new Promise((r) => setTimeout(r, 50)); report.setPlaying(false);")
  wait(opened, "await report.pictureShown();")
  frame = opened.execute_script("return report.state.frame")
  assert abs(grey_shown(opened) - 255 * frame // N) <= 2


def canvas_shown(browser):
  """(h, w, 3) picture of the head's canvas."""
  from PIL import Image

  wait(browser, "await new Promise((r) => setTimeout(r, 300));")
  return np.asarray(Image.open(io.BytesIO(browser.find_element("id", "head").screenshot_as_png)).convert("RGB"), int)


@pytest.mark.slow
def test_the_head_is_the_tracked_one(opened, open_head, result):
  """three.js, from the file in the page: vertices as of `flame.skin`, in the image where `project` has them."""
  frame = 25
  found = wait(
    opened,
    f"head3d.select('As filmed'); report.setFrame({frame}); await report.pictureShown();"
    "await new Promise((r) => setTimeout(r, 300));"
    "const m = head3d.mesh, p = m.position.clone(), out = [], number = m.geometry.attributes._vertex;"
    "for (let i = 0; i < number.count; i += 50) { m.getVertexPosition(i, p); p.applyMatrix4(m.matrixWorld);"
    "const at = [p.x, p.y, p.z]; p.project(head3d.camera); out.push([number.getX(i), ...at, p.x, p.y]); }"
    "return [out, head3d.width, head3d.height];",
  )
  rows, (width, height) = np.array(found[0]), found[1:]
  pose = jax.tree.map(lambda x: x[frame], result.poses)
  vertices = flame.skin(open_head, result.identity.shape, pose)
  numbers = rows[:, 0].astype(int)
  assert 1000 * np.abs(rows[:, 1:4] - np.asarray(vertices)[numbers] * [-1, 1, -1]).max() < 0.05  # mm
  pixels = np.asarray(cameras.project(result.identity.camera, vertices, SIZE))[numbers, :2]
  shrink = min(width / SIZE[1], height / SIZE[0])  # of the image in the window, in whose middle it is
  inside = np.stack([(1 + rows[:, 4]) / 2 * width, (1 - rows[:, 5]) / 2 * height], 1)
  offset = np.array([width - shrink * SIZE[1], height - shrink * SIZE[0]]) / 2
  assert np.abs((inside - offset) / shrink - pixels).max() < 0.02


@pytest.mark.slow
def test_the_head_can_be_turned(opened):
  from selenium.webdriver import ActionChains

  wait(opened, "report.setFrame(3); head3d.select('Follow');")
  before = canvas_shown(opened)
  assert before.std() > 10  # there is something
  canvas = opened.find_element("id", "head")
  ActionChains(opened).move_to_element(canvas).click_and_hold().move_by_offset(60, 10).release().perform()
  assert abs(opened.execute_script("const p = head3d.camera.position; return Math.atan2(p.x, p.z)")) > 0.2
  assert np.abs(canvas_shown(opened) - before).mean() > 3


@pytest.mark.slow
def test_no_error_and_no_request(opened):
  wait(opened, "await new Promise((r) => setTimeout(r, 300));")
  # Chromium's software renderer says how long a screenshot of WebGL takes.
  messages = [m["message"] for m in opened.get_log("browser") if "ReadPixels" not in m["message"]]
  assert messages == []
  events = [json.loads(m["message"])["message"] for m in opened.get_log("performance")]
  sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
  ours = [e["request"]["url"] for e in sent if e.get("documentURL", "").startswith("file:")]
  assert ours and all(url.startswith(("file:", "blob:", "data:")) for url in ours)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_sticks_out_sideways(opened, width):
  opened.execute_cdp_cmd(
    "Emulation.setDeviceMetricsOverride", dict(width=width, height=800, deviceScaleFactor=1, mobile=width < 700)
  )
  wait(opened, "await new Promise((r) => setTimeout(r, 300));")
  assert opened.execute_script("return document.documentElement.scrollWidth") <= width
  opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
