"""Second readers of the formats that hand FLAME's codes on: what the programs that read them would draw.

Written from a description of those programs; nothing of the package is used but the arrays of the head. Each reader
takes an export as {name: bytes} and gives the pixels (T, V, 2) of all vertices. `wrong` makes one mistake:
"transposed", "axis" or "cy".
"""

import io
import json
import pickle

import numpy as np

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


def npz(data):
  with np.load(io.BytesIO(data), allow_pickle=False) as file:
    return {name: file[name] for name in file.files}


def rodrigues(r):
  r = np.asarray(r, np.float64)
  angle = np.linalg.norm(r)
  if angle < 1e-12:
    return np.eye(3)
  k = r / angle
  K = np.array([[0, -k[2], k[1]], [k[2], 0, -k[0]], [-k[1], k[0], 0]])
  return np.eye(3) + np.sin(angle) * K + (1 - np.cos(angle)) * (K @ K)


def rows6(v):
  """Six numbers -> rotation: two rows, orthonormalised, and their cross product."""
  a, b = np.asarray(v[:3], np.float64), np.asarray(v[3:], np.float64)
  a = a / np.linalg.norm(a)
  b = b - a * (a @ b)
  b = b / np.linalg.norm(b)
  return np.stack([a, b, np.cross(a, b)])


_KNOWN = {}


def Flame(model, n_shape, n_expr):
  """`_Flame`, made once."""
  key = id(model), n_shape, n_expr
  if key not in _KNOWN:
    _KNOWN[key] = _Flame(model, n_shape, n_expr), model
  return _KNOWN[key][0]


class _Flame:
  """The FLAME of a program, with the arrays of a head; widths as the program reads them."""

  def __init__(self, model, n_shape, n_expr):
    f64 = lambda x: np.asarray(x, np.float64)
    wide = lambda a, n: np.concatenate([a[..., :n], np.zeros((*a.shape[:-1], max(0, n - a.shape[-1])))], -1)
    n = model.shapedirs.shape[-1]
    self.template, self.weights = f64(model.v_template), f64(model.lbs_weights)
    self.dirs = np.concatenate([wide(f64(model.shapedirs), n_shape), wide(f64(model.exprdirs), n_expr)], -1)
    j = f64(model.j_shapedirs)
    self.j0 = f64(model.j_template)
    self.jdirs = np.concatenate([wide(j[..., :n], n_shape), wide(j[..., n:], n_expr)], -1)
    self.posedirs = f64(model.posedirs).reshape(36, -1, 3)
    self.n = n_shape, n_expr
    self.used = np.flatnonzero(self.dirs.any((0, 1)) | self.jdirs.any((0, 1)))  # columns of zeros cost time alone
    self.dirs, self.jdirs = self.dirs[..., self.used], self.jdirs[..., self.used]

  def __call__(self, shape, expr, rotations, correctives=None):
    """(V, 3), rotated about the root joint, and the joints; rotations: root, neck, jaw, eye, eye."""
    assert len(shape) == self.n[0] and len(expr) == self.n[1]
    code = np.concatenate([shape, expr]).astype(np.float64)[self.used]
    v, joints = self.template + self.dirs @ code, self.j0 + self.jdirs @ code
    R = np.asarray(rotations, np.float64)
    feature = np.concatenate([(R[k] - np.eye(3)).ravel() for k in range(1, 5)])
    v = v + np.einsum("p,pvc->vc", feature if correctives is None else correctives(feature), self.posedirs)
    world = []
    for k, parent in enumerate((-1, 0, 1, 1, 1)):
      local = np.eye(4)
      local[:3, :3] = R[k]
      local[:3, 3] = joints[k] - (joints[parent] if parent >= 0 else 0)
      world.append(local if parent < 0 else world[parent] @ local)
    out = np.zeros_like(v)
    for k in range(5):
      out += self.weights[:, k : k + 1] * ((v - joints[k]) @ world[k][:3, :3].T + world[k][:3, 3])
    return out, joints


def _mistake(wrong, R):
  return {"transposed": R.T, "axis": np.diag([1, -1, 1]) @ R}.get(wrong, R)


def gaussian_avatars(files, model, wrong=""):
  """Pixels in the written images, by time step; the principal point is taken to be in the middle."""
  flame = Flame(model, 300, 100)
  assert "canonical_flame_param.npz" in files
  train, val, test = (json.loads(files[f"transforms_{k}.json"]) for k in ("train", "val", "test"))
  assert train["frames"] and val["frames"] == []
  frames = sorted(train["frames"] + test["frames"], key=lambda f: f["timestep_index"])
  assert [f["timestep_index"] for f in frames] == list(range(len(frames)))
  first = npz(files[frames[0]["flame_param_path"]])
  pixels = []
  for frame in frames:
    p = npz(files[frame["flame_param_path"]])
    assert all(a.dtype == np.float32 for a in p.values())
    assert p["static_offset"].shape == (1, 5143, 3) and not first["static_offset"].any()
    angles = [p["rotation"][0], p["neck_pose"][0], p["jaw_pose"][0], p["eyes_pose"][0, :3], p["eyes_pose"][0, 3:]]
    vertices = flame(first["shape"], p["expr"][0], [rodrigues(a) for a in angles])[0] + p["translation"][0]
    c2w = np.array(frame["transform_matrix"])
    c2w[:, 1:3] *= -1
    w2c = np.linalg.inv(c2w)
    R, T = _mistake(wrong, w2c[:3, :3]), w2c[:3, 3]
    q = vertices @ R.T + T
    w, h, ax = frame["w"], frame["h"], frame["camera_angle_x"]
    focal = w / (2 * np.tan(ax / 2))
    ay = 2 * np.arctan(h / (2 * focal))
    ndc = q[:, :2] / q[:, 2:] / np.tan([ax / 2, ay / 2])
    pixels.append((ndc + 1) * np.array([w, h]) / 2)
  return np.array(pixels)


def vhap(files, model, wrong=""):
  """Pixels in images of the file's own size."""
  flame, p = Flame(model, 300, 100), npz(files["tracked_flame_params_0.npz"])
  assert p["static_offset"].shape == (1, 5143, 3) and p["lights"].shape == (9, 3)
  h, w = p["image_size"]
  focal = p["focal_length"].item() * max(h, w)
  pixels = []
  for i in range(int(p["n_processed_frames"])):
    angles = [p["rotation"][i], p["neck_pose"][i], p["jaw_pose"][i], p["eyes_pose"][i, :3], p["eyes_pose"][i, 3:]]
    rotations = [rodrigues(a) for a in angles]
    rotations[0] = _mistake(wrong, rotations[0])
    vertices = flame(p["shape"], p["expr"][i], rotations)[0] + p["translation"][i]
    q = (vertices - [0, 0, 1]) @ OPENGL_TO_OPENCV
    pixels.append(focal * q[:, :2] / q[:, 2:] + [w / 2, h / 2])
  return np.array(pixels)


def gagavatar(files, model, wrong=""):
  """FLAME times five without a neck, PyTorch3D's row vectors, a camera that is fixed: 12 in half an image of 512 px."""
  flame = Flame(model, 300, 100)
  records = _Plain(io.BytesIO(files["optim.pkl"])).load()
  pixels = []
  for key in sorted(records, key=lambda k: int(k.split("_")[-1])):
    r = records[key]
    assert {k: v.shape for k, v in r.items()} == {
      "bbox": (4,), "shapecode": (300,), "expcode": (100,), "posecode": (6,), "eyecode": (6,),
      "transform_matrix": (3, 4),
    }  # fmt: skip
    angles = [r["posecode"][:3], np.zeros(3), r["posecode"][3:], r["eyecode"][:3], r["eyecode"][3:]]
    vertices = 5 * flame(r["shapecode"], r["expcode"], [rodrigues(a) for a in angles])[0]
    R, T = _mistake(wrong, r["transform_matrix"][:, :3].astype(np.float64)), r["transform_matrix"][:, 3]
    X = vertices @ R + T
    pixels.append(256 - 256 * 12 * X[:, :2] / X[:, 2:])
  return np.array(pixels)


class _Plain(pickle.Unpickler):
  """Knows NumPy arrays alone, under the names that every NumPy has."""

  def find_class(self, module, name):
    if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
      return np.zeros(0).__reduce__()[0]
    known = {("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype, ("_codecs", "encode"): str.encode}
    return known[module, name]


def torch_stream(data):
  """PyTorch's older stream: magic number, protocol, system, object, keys of storages."""
  file = io.BytesIO(data)
  magic, protocol, system, content, keys = (_Plain(file).load() for _ in range(5))
  assert magic == 0x1950A86A20F9469CFC6C and protocol == 1001 and system["little_endian"] is True and keys == []
  assert file.read() == b""
  return content


def metrical(files, model, wrong="", block="opencv"):
  """By the file's block of OpenCV's camera or that of PyTorch3D's."""
  flame = Flame(model, 300, 100)
  names = sorted(n for n in files if n.startswith("checkpoint/"))
  assert names == [f"checkpoint/{i:05d}.frame" for i in range(len(names))]
  pixels = []
  for i, name in enumerate(names):
    c = torch_stream(files[name])
    f = c["flame"]
    assert c["frame_id"] == f"{i:05d}" and c["img_size"].dtype == np.int64
    assert {k: v.shape for k, v in f.items()} == {
      "exp": (1, 100), "shape": (1, 300), "tex": (1, 140), "sh": (1, 9, 3), "eyes": (1, 12), "eyelids": (1, 2),
      "jaw": (1, 6),
    } and not f["eyelids"].any()  # fmt: skip
    rotations = [np.eye(3), np.eye(3), rows6(f["jaw"][0]), rows6(f["eyes"][0, :6]), rows6(f["eyes"][0, 6:])]
    vertices = flame(f["shape"][0], f["exp"][0], rotations)[0]
    h, w = c["img_size"]
    if block == "opencv":
      o = c["opencv"]
      q = vertices @ _mistake(wrong, o["R"][0].astype(np.float64)).T + o["t"][0]
      K = o["K"][0].astype(np.float64)
      pixels.append(np.stack([K[0, 0] * q[:, 0] / q[:, 2] + K[0, 2], K[1, 1] * q[:, 1] / q[:, 2] + K[1, 2]], 1))
    else:
      o = c["camera"]
      q = vertices @ _mistake(wrong, rows6(o["R"][0])) + o["t"][0]  # row vectors
      ndc = o["fl"][0, 0] * q[:, :2] / q[:, 2:] + o["pp"][0]  # x left, y up; the shorter side is from -1 to 1
      pixels.append(np.array([w, h]) / 2 - ndc * min(h, w) / 2)
  return np.array(pixels)


def insta(files, name):
  """OpenCV camera-to-world, by ID, and K of one of INSTA's files."""
  content = json.loads(files[f"transforms_{name}.json"])
  K = np.array([[content["fl_x"], 0, content["cx"]], [0, content["fl_y"], content["cy"]], [0, 0, 1]])
  return {f["file_path"]: np.array(f["transform_matrix"]) for f in content["frames"]}, K


def imavatar(files, model, side, wrong=""):
  """IMavatar: FLAME times four, OpenGL, an image of side x side px."""
  flame, c = Flame(model, 100, 50), json.loads(files["flame_params.json"])
  K = np.array(c["intrinsics"])
  assert K[3] <= 1
  if wrong == "cy":
    K[3] = 1 - K[3]
  pixels = []
  for i, frame in enumerate(c["frames"]):
    assert int(frame["file_path"].split("/")[-1]) == i + 1
    rotations = [rodrigues(a) for a in np.array(frame["pose"]).reshape(5, 3)]
    rotations[0] = _mistake(wrong, rotations[0])
    vertices = flame(c["shape_params"], frame["expression"], rotations)[0]
    M = np.array(frame["world_mat"])
    np.testing.assert_array_equal(M[:, :3], np.eye(3))
    q = 4 * vertices @ M[:, :3].T + M[:, 3]
    assert (q[:, 2] < 0).all()
    pixels.append(np.stack([side * (K[0] * q[:, 0] / q[:, 2] + K[2]), side * (K[1] * q[:, 1] / q[:, 2] + K[3])], 1))
  return np.array(pixels)


def nha(files, model, wrong=""):
  """Neural Head Avatars: world with x left, y up; its angles are bounded by a tanh."""
  flame, p = Flame(model, 300, 100), npz(files["tracked_flame_params.npz"])
  split = json.loads(files["split.json"])
  train, val = set(split["train"]), set(split["val"])
  assert train | val <= set(p["frame"].tolist()) and not train & val
  h, w = p["image_size"]
  K = p["K"].astype(np.float64)
  f, cx, up = K[0] * max(h, w), K[1] * w, K[2] * h  # from the bottom
  limits = {
    "neck": np.radians([(-90, 90), (-60, 60), (-80, 80)]),
    "jaw": np.radians([(-5, 60), (-0.1, 0.1), (-0.1, 0.1)]),
    "eyes": np.radians([(-50, 50), (-50, 50), (-0.1, 0.1)]),
  }
  bound = lambda raw, lim: lim[:, 0] + (np.tanh(raw.astype(np.float64)) + 1) / 2 * (lim[:, 1] - lim[:, 0])
  pixels = []
  for i in range(len(p["frame"])):
    angles = [
      p["rotation"][i], bound(p["neck_pose"][i], limits["neck"]), bound(p["jaw_pose"][i], limits["jaw"]),
      *bound(p["eyes_pose"][i].reshape(2, 3), limits["eyes"]),
    ]  # fmt: skip
    rotations = [rodrigues(a) for a in angles]
    rotations[0] = _mistake(wrong, rotations[0])
    vertices, joints = flame(p["shape"], p["expr"][i], rotations)
    X = vertices - joints[0] + p["translation"][i]  # the root joint stays under its own rotation
    row = up - f * X[:, 1] / X[:, 2] if wrong == "cy" else (h - up) - f * X[:, 1] / X[:, 2]
    pixels.append(np.stack([cx - f * X[:, 0] / X[:, 2], row], 1))
  return np.array(pixels)


def nersemble(files, model, wrong=""):
  """The benchmark's provider: FLAME with its root at identity, then rotated, scaled and moved."""
  flame = Flame(model, 300, 100)
  (name,) = [n for n in files if n.endswith("tracking/flame2023_tracking.npz")]
  p, camera = npz(files[name]), json.loads(files["calibration/camera_params.json"])
  assert p.keys() == {
    "shape", "expression", "rotation", "rotation_matrices", "translation", "jaw", "frames", "scale", "neck", "eyes",
  }  # fmt: skip
  (serial,) = camera["world_2_cam"]
  E, K = np.array(camera["world_2_cam"][serial]), np.array(camera["intrinsics"][serial])
  if wrong == "cy":
    K[1, 2] = 2 * 180 - K[1, 2]
  pixels = []
  for i in range(len(p["frames"])):
    angles = [np.zeros(3), p["neck"][i], p["jaw"][i], p["eyes"][i, :3], p["eyes"][i, 3:]]
    vertices = flame(p["shape"][0], p["expression"][i], [rodrigues(a) for a in angles])[0]
    R = p["rotation_matrices"][i].astype(np.float64)
    a, b, c = p["rotation"][i]
    np.testing.assert_allclose(rodrigues([a, 0, 0]) @ rodrigues([0, b, 0]) @ rodrigues([0, 0, c]), R, atol=1e-5)
    world = p["scale"].item() * vertices @ _mistake(wrong, R).T + p["translation"][i]
    q = (world @ E[:3, :3].T + E[:3, 3]) @ K.T
    pixels.append(q[:, :2] / q[:, 2:])
  return np.array(pixels)


def cap4d(files, model, wrong=""):
  """CAP4D: joints by themselves, the identity taken twice from rotations, everything about FLAME's origin."""
  p = npz(files["fit.npz"])
  flame = Flame(model, 150, 65)
  assert p["expr"].shape[1] == 65 and p["shape"].shape == (150,) and not p["expr"][:, 64].any()
  fx, fy, cx, cy = (float(p[k][0, 0]) for k in ("fx", "fy", "cx", "cy"))
  if wrong == "cy":
    cy = int(p["resolutions"][0, 0]) - cy
  pixels, points = [], []
  for i in range(len(p["expr"])):
    code = np.concatenate([p["shape"], p["expr"][i]]).astype(np.float64)[flame.used]
    v, joints = flame.template + flame.dirs @ code, flame.j0 + flame.jdirs @ code
    torso, eye = rodrigues(p["neck_rot"][i]), rodrigues(p["eye_rot"][i])
    R = [torso, np.eye(3), np.eye(3), eye, eye]
    feature = np.concatenate([(R[k] - 2 * np.eye(3)).ravel() for k in (0, 2, 3, 4)])
    v = v + np.einsum("p,pvc->vc", feature, flame.posedirs)
    moved = sum(flame.weights[:, k : k + 1] * ((v - joints[k]) @ R[k].T + joints[k]) for k in range(5))
    c = (moved @ _mistake(wrong, rodrigues(p["rot"][i])).T + p["tra"][i]) @ OPENGL_TO_OPENCV
    e = c @ p["extr"][0][:3, :3].T + p["extr"][0][:3, 3]
    points.append(e)
    pixels.append(np.stack([fx * e[:, 0] / e[:, 2] + cx, fy * e[:, 1] / e[:, 2] + cy], 1))
  return np.array(pixels), np.array(points)
