"""What the fleet's tests run in place of `vht-track`: the same words and files, without a head, JAX or NumPy.

Its frames are the bytes of the clip, and its result is made of them one by one, with a file for each. A clip's first
word says what happens: "bad" (an input error), "crash" (of native code), "hang" (for ever), "eat" (no memory unless
--batch_size=1), "slow" (a fifth of a second a frame), "gpu" (it says what it has been given of one). Another word is
the person that it shows: `alone` says what the clip knows of them, and with a shape `main` has that for its result;
every line of rounds.txt is a round that came to its end.
"""

import ctypes
import json
import os
import threading
import time
from pathlib import Path

from vht_jax.host.files import locked, write_atomic

WORDS = (b"well", b"bad", b"crash", b"hang", b"eat", b"slow")


def alone(argv):
  """The first of two rounds, with NumPy."""
  return main(argv, alone=True)


def main(argv, alone=False):
  """As `vht_jax.app.cli.main` with --json."""
  flags = dict(word.lstrip("-").partition("=")[::2] for word in argv)
  source, output = Path(flags["video"]), Path(flags["output_path"])
  assert "json" in flags
  output.mkdir(parents=True, exist_ok=True)
  if not source.exists():
    return _fail(source, 2, f"{source}: no such video")
  with locked(output):
    return _run(source.read_bytes(), source, output, flags.get("batch_size", "8"), flags.get("shape_from", ""), alone)


def _run(data, source, output, batch, shape_from, alone):
  word, record = data.partition(b" ")[0], output / "run.json"
  before = json.loads(record.read_text()) if record.exists() else {}
  if before.get("settings", {}).get("batch_size", batch) != batch:
    return _fail(source, 2, f"{output}: holds a run with other settings")
  shape = Path(shape_from).read_bytes() if shape_from else b""
  if before.get("settings", {}).get("shape", shape.hex()) != shape.hex():
    return _fail(source, 2, f"{output}: holds a run with another shape")
  content = {"settings": {"batch_size": batch, "shape": shape.hex()}}
  write_atomic(record, json.dumps(content).encode())
  if word == b"bad":
    return _fail(source, 2, f"{source}: cannot be read as a video")
  if word == b"gpu":
    given = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "XLA_PYTHON_CLIENT_MEM_FRACTION")]
    with open(output / "gpu.txt", "a") as file:
      file.write(f"{json.dumps(given)}\n")
  seen = []
  for i, byte in enumerate(data):
    landmarks = output / "dataset" / f"frame_{i:04d}" / "keypoints"
    if not landmarks.exists():
      landmarks.parent.mkdir(parents=True, exist_ok=True)
      time.sleep(0.2 if word == b"slow" else 0)
      with open(output / "work.txt", "a") as file:
        file.write(f"{i}\n")
      write_atomic(landmarks, bytes([byte]))
    seen.append(landmarks.read_bytes()[0])
  with open(output / "track.log", "a") as file:
    file.write(f"2026-01-01 00:00:00,000 INFO vht_jax: extract: {len(data)} frames done in 0.1 s\n")
  if word == b"crash":
    ctypes.string_at(0)
  if word == b"hang":
    threading.Event().wait()
  if word == b"eat" and batch != "1":
    return _fail(source, 1, "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
  if word not in WORDS:
    with open(output / "rounds.txt", "a") as file:
      file.write("alone\n" if alone else "with a shape\n" if shape else "by itself\n")
  if alone:
    write_atomic(output / "alone.npz", _estimate(word, data))
    print(json.dumps({"frames": len(data)}))
    return 0
  write_atomic(output / "tracked_flame_params.npz", shape or bytes(255 - b for b in seen))
  write_atomic(record, json.dumps({**content, "finished": True}).encode())
  print(json.dumps({"frames": len(data), "tracked": len(data) - 1, "peak_rss_mb": 7.0}))
  return 0


def _estimate(word, data):
  """What a clip says of the person of this name: the same of every person, other things of each."""
  import numpy as np

  from vht_jax.host.npz import npz_bytes

  person = np.random.default_rng(list(word)).normal(size=8)
  rows = np.random.default_rng(list(data)).normal(size=(12, 8)) * 4
  information = np.eye(8) + rows.T @ rows
  seen = rows @ person + np.random.default_rng(list(data[::-1])).normal(size=12)
  prior = np.stack([np.ones(8), np.zeros(8)])
  parts = {"vht_jax_shape_prior": prior, "vht_jax_shape_data": rows, "vht_jax_head": "h", "vht_jax_head_id": "1"}
  return npz_bytes(
    {"shape": np.linalg.solve(information, rows.T @ seen), **{k: np.asarray(v) for k, v in parts.items()}}
  )


def _fail(source, code, text):
  print(json.dumps({"input": str(source), "error": text, "exit_code": code}))
  return code
