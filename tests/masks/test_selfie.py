"""MediaPipe's model on a picture, and what is said where there is none."""

import types

import cv2
import numpy as np
import pytest

from vht_jax.errors import InputError
from vht_jax.masks import heads_of, make_segmenter, person_mattes, selfie
from vht_jax.video.codec import read_video


@pytest.fixture(scope="module")
def segment():
  pytest.importorskip("mediapipe")
  try:
    made = make_segmenter()
  except InputError as error:
    pytest.skip(str(error))
  yield made
  made.close()


def test_a_person_of_a_real_clip(segment, shared_data):
  """The face is the person's and the wall is not, in a webcam's small picture."""
  from vht_jax.landmarks.detection import Detection

  _, frames = read_video(shared_data / "videos" / "webcam_400x300.mp4")
  images = [next(frames) for _ in range(3)]
  # The face's box in the first frames, read off the picture.
  points = np.resize(np.array([[162.0, 130], [260, 130], [162, 240], [260, 240]], np.float32), (68, 2))
  heads = heads_of([Detection(np.zeros(5), points)] * 3)
  for matte in person_mattes(lambda i: images[i], segment, heads):
    assert matte[110:230, 175:245].min() > 240
    assert matte[:60].max() < 15 and matte[:240, 300:].max() < 15
    assert 0.1 < (matte > 127).mean() < 0.35


def test_without_a_model_the_error_says_what_to_do(monkeypatch, tmp_path):
  monkeypatch.setattr(selfie, "import_mediapipe", lambda: types.SimpleNamespace(__version__="1.2.2"))
  monkeypatch.setenv(selfie.VARIABLE, str(tmp_path / "missing.tflite"))
  with pytest.raises(InputError, match="selfie_segmenter.tflite, which mediapipe 1.2.2 does not bring") as error:
    make_segmenter()
  assert "--mask=head" in str(error.value) and "missing.tflite" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_model(tmp_path):
  pytest.importorskip("mediapipe")
  path = tmp_path / "model.tflite"
  path.write_bytes(b"not a model")
  with pytest.raises(InputError, match="cannot use it as a segmentation model"):
    make_segmenter(path)


def test_both_of_mediapipes_interfaces_say_the_same(segment):
  """Where the wheel has the model as a file, the Tasks API is given it: what Python 3.13 has to use."""
  mediapipe = pytest.importorskip("mediapipe")
  from pathlib import Path

  file = Path(mediapipe.__file__).parent / "modules" / "selfie_segmentation" / "selfie_segmentation.tflite"
  if not file.is_file():
    pytest.skip("no model in this wheel")
  task = make_segmenter(file)
  rng = np.random.default_rng(0)
  image = cv2.GaussianBlur(rng.integers(0, 255, (256, 256, 3), dtype=np.uint8), (0, 0), 8)
  image[60:, 80:180] = (190, 150, 120)
  assert np.abs(task(image) - segment(image)).max() < 1e-3
  task.close()
