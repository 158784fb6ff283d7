"""A FLAME with everything, of free parts: `python benchmarks/flame_standin.py --out FOLDER`, then --assets=FOLDER.

Of FLAME 2023 Open (CC-BY-4.0) we have template, 60 identity components, skinning and pose correctives. Expressions,
texture and regions are carried over from the open head by the registration that made our landmark table; UV map and
landmark embedding are those of the parity data, which are not FLAME's. It is made to measure and to test, never to be
passed on: FLAME's own expressions and texture are others, the surface is the same.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt, map_coordinates

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "third_party" / name) for name in ("flame_landmarks", "open_head")]

import register
from features import Head
from raster import rasterize
from surface import nearest, vertex_normals

from vht_jax.head.load import open_head_path

DATA = ROOT.parent / "shared" / "data"
N_IDENTITY, N_COMPONENTS = 300, 400  # FLAME's
# Standard deviations per unit: the sampler that the open head's principal expressions were made with is timid.
EXPRESSION_SCALE = 1.7
TEXTURE_SIDE = 256
REGIONS = ("face", "lips", "eye_region", "nose", "forehead", "left_ear", "right_ear", "scalp", "neck", "boundary")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--data", type=Path, default=DATA, help="with flame2023_open/ and parity/")
  args = parser.parse_args()
  write(args.out, args.data)
  print(args.out)


def write(folder: Path, data: Path = DATA) -> None:
  """Writes the files that `vht_jax.head.load.flame_files` reads."""
  with np.load(data / "flame2023_open" / "flame2023_open_partial.npz") as archive:
    flame = dict(archive)
  with np.load(data / "parity" / "parity_model.npz") as archive:
    extra = {key: archive[key] for key in ("vt", "faces_vt", "full_lmk_faces_idx", "full_lmk_bary_coords")}
  with np.load(open_head_path()) as archive:
    npz = dict(archive)
  source = register.open_head(npz)
  target = register.flame_head(flame["v_template"], flame["f"], flame["weights"])
  carry = Carrier(source, register.warp(source, target))
  folder.mkdir(parents=True, exist_ok=True)

  shapedirs = np.zeros((len(target.vertices), 3, N_COMPONENTS))
  shapedirs[..., :60] = flame["shapedirs60"]
  expressions = carry.to_vertices(target, expression_units(npz))
  shapedirs[..., N_IDENTITY : N_IDENTITY + expressions.shape[-1]] = expressions
  model = {key: flame[key] for key in ("v_template", "f", "posedirs", "weights", "J_regressor", "kintree_table")}
  (folder / "flame2023.pkl").write_bytes(pickle.dumps({**model, "shapedirs": shapedirs.astype(np.float32)}, 2))

  lines = [f"v {x} {y} {z}" for x, y, z in flame["v_template"]] + [f"vt {u} {v}" for u, v in extra["vt"]]
  for face, uvs in zip(flame["f"].tolist(), extra["faces_vt"].tolist()):
    lines.append("f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, uvs)))
  (folder / "head_template_mesh.obj").write_text("\n".join(lines) + "\n")

  mean, basis = carry.texture(target, npz, extra["vt"][extra["faces_vt"]])
  np.savez(folder / "FLAME_texture.npz", mean=mean[..., ::-1], tex_dir=basis[:, :, ::-1])
  embedding = {key: extra[key] for key in ("full_lmk_faces_idx", "full_lmk_bary_coords")}
  np.save(folder / "landmark_embedding_with_eyes.npy", embedding, allow_pickle=True)
  member = np.stack([np.isin(np.arange(len(source.vertices)), npz["mask_" + name]) for name in REGIONS], 1)
  share = carry.to_vertices(target, member[:, None].astype(float))[:, 0]
  masks = {name: np.flatnonzero(share[:, k] > 0.5) for k, name in enumerate(REGIONS)}
  for k, name in ((3, "left_eyeball"), (4, "right_eyeball")):
    masks[name] = np.flatnonzero(flame["weights"][:, k] > 0.99)
  (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))


def expression_units(npz) -> np.ndarray:
  """(V, 3, 40) m per standard deviation: the open head's expressions as principal components, and a blink per eye."""
  named = npz["shapedirs_exp_named"] * npz["shapedirs_exp_named_step"]
  lids = npz["eyelids"] * npz["eyelids_step"]
  return np.concatenate([EXPRESSION_SCALE * named @ npz["exp_pca_to_named"], 0.5 * lids], axis=-1)


class Carrier:
  """Carries what the open head's surface has over to places of another head's surface."""

  def __init__(self, source: Head, warped: np.ndarray):
    """`warped` (V, 3): the source's vertices laid on the other head."""
    self.source, self.warped = source, warped
    self.eyeballs = source.eyeball[source.faces].all(1)

  def find(self, points: np.ndarray, normals: np.ndarray, lips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Faces (n,) and barycentric coordinates (n, 3) of the source's skin for points (n, 3) of the other head's."""
    return register.places_on_skin(self.source, self.warped, points, normals, lips)

  def find_on_eyeballs(self, head: Head, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for points of the eyeballs: what lies in the same direction from the middle."""
    turned = np.empty_like(points)
    for side in (-1, 1):
      here, there = (h.vertices[h.eyeball & (side * h.vertices[:, 0] > 0)] for h in (head, self.source))
      middle, size = (here.min(0) + here.max(0)) / 2, np.ptp(here[:, 1])
      mine = side * points[:, 0] > 0
      turned[mine] = (points[mine] - middle) * np.ptp(there[:, 1]) / size + (there.min(0) + there.max(0)) / 2
    zeros = np.zeros(len(points))
    face, bary, _ = nearest(turned, np.zeros_like(points), zeros, self.source, self.eyeballs, cosine=-1.0)
    return face, bary

  def to_vertices(self, head: Head, values: np.ndarray) -> np.ndarray:
    """(V', ..., k) of the head out of (V, ..., k) of the source; 0 on its eyeballs."""
    face, bary = self.find(head.vertices, vertex_normals(head.vertices, head.faces), head.lips)
    out = np.einsum("nk,nk...->n...", bary, values[self.source.faces[face]])
    return np.where(head.skin.reshape(-1, *[1] * (values.ndim - 1)), out, 0.0)

  def texture(self, head: Head, npz, uv: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The open head's albedo in another UV map (F, 3, 2): mean (s, s, 3) and basis (s, s, 3, T), RGB, 0..255."""
    side = TEXTURE_SIDE
    corners = np.concatenate([uv * [1, -1] * side + [0, side], np.zeros((*uv.shape[:2], 1))], axis=2)
    face, bary = rasterize(corners, head.faces, side)
    rows, columns = np.nonzero(face >= 0)
    seen, weight = face[rows, columns], bary[rows, columns]
    on = lambda values: np.einsum("nk,nk...->n...", weight, values[head.faces[seen]])
    normals = on(vertex_normals(head.vertices, head.faces))
    found, where = self.find(on(head.vertices), normals, np.sign(on(head.lips.astype(float)).round()))
    eye = head.eyeball[head.faces[seen]].all(1)
    found[eye], where[eye] = self.find_on_eyeballs(head, on(head.vertices)[eye])
    at = np.einsum("nk,nkc->nc", where, npz["vt"][npz["ft"].astype(int)[found]])

    def look_up(image):  # (h, w, k) -> (n, k)
      h, w = image.shape[:2]
      place = [(1 - at[:, 1]) * h - 0.5, at[:, 0] * w - 0.5]
      layers = [map_coordinates(image[..., k], place, order=1, mode="nearest") for k in range(image.shape[2])]
      return np.stack(layers, 1)

    basis = npz["tex_basis_i8"].astype(np.float32) * npz["tex_basis_scale"].reshape(-1, 1, 1, 1) * (255 / 127)
    basis = np.moveaxis(basis, 0, -1)  # (h, w, 3, T)
    values = np.concatenate(
      [look_up(npz["tex_mean"].astype(np.float32)), look_up(basis.reshape(*basis.shape[:2], -1))], axis=1
    )
    image = np.zeros((side, side, values.shape[1]), np.float32)
    image[rows, columns] = values
    near = distance_transform_edt(face < 0, return_distances=False, return_indices=True)
    image = image[near[0], near[1]]  # outside of the triangles, so that nothing shows at seams
    return image[..., :3], image[..., 3:].reshape(side, side, 3, -1)


if __name__ == "__main__":
  main()
