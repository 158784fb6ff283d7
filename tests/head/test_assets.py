"""Loaders: the open head, FLAME's files in all their dialects, and files that mean harm."""

import base64
import io
import pickle
import sys
import types
import zipfile
import zlib
from functools import partial

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from vht_jax.errors import InputError
from vht_jax.head.load import flame_files, flame_model_from_arrays, load_head, open_head_path, unpickle
from vht_jax.host.npz import npz_shapes, read_npy, read_npz

N_VERTICES, N_FACES, TEXTURE_SIDE = 60, 80, 32

# np.save of a dict of torch tensors, written by torch 2.13: full_lmk_faces_idx (1, 70) int64 = 3 i mod 50,
# full_lmk_bary_coords (1, 70, 3) float64 = (.5, .25, .25), dynamic_lmk_faces_idx = arange(6).reshape(2, 3)[:, ::2].
TORCH_EMBEDDING = (
  "eNrt10lv00AUAGAvWSBdKKUtlDVli1NKaKs0SrhUKlUODE1LEZI5VJZjTxqDY8f2uCLQSL10SeVbhxs/gJ+D+gu48hOQkGCcPCiJKi5ISJUyB3/Ky4vH"
  "sfNmXo5KL1fWXvHcFvc+pWNPc1OPk6nt1dRMMlWxXeKqlmK7Og7DRdX0MIt7VbWO2WspPZNsJv9tJHYiHw6HuPYIJiy/Vm9kFM12cabmm8RQXVdt0GBQ"
  "cbFmWx5xfY3QIxpE25k0iFt6J+WIIm6XPuHLdJ+uUwnx6aoYRHXSqOMwX1jN09ZB5y0x4LdpqVR6+oON9gEtElpubdAmlYLRim+aill7o1RUDXuKob9l"
  "8xPb1aoZxSeG6dFglF1O2TdMXSHY8mxX2Zpnk0jBUCfNY6ibmAYjimmrulJx7ZpSbhDssaylaZHjdoTDhPn9Y/Fb8vWntcnMjrDyVWTHpsNJ8gi7E3XX"
  "JrZmm8oWdj3DthyeJcjhbTINQkysYEs3VMsRDuQEC4bfUvGMd9hzxKYTkeQoC3pV9vicKBJkNiFnWMSJoYgcCc9hW5tOHEV8n80pyfEwuXPJDqe1v0Li"
  "GUt50YklHF4eZimFbC5fyC8sZHOF+bmc0zmtVvcdERVLxIk8ZyfbcLjTcnk1U+S6hwjGwPPgIHgBHAXHwSvgNfAmOAXeBVPgNPgQnAV5MALGwQQIP0lu"
  "BLwEToCT4HXwFngbvAdK4AMwA86BAhgFz4ED4DB4ERwDL4NXwRtgErwD3gfT4Az46Iw8D7rLahZxiEfFPYqKiN+jrWCAlYaJNcIqg1XjwGq4PmF92Wiv"
  "Del1SthngrHfhVxW3QZbU9gy5tHqhFSdXAriZ6AGl22/bOLTqrCQncsXFmZn811VeHxqFZ7ksio87nrmXxY7fu6xH+/H+/F+vB/vx/9P/I9dHon7FB0j"
  "EfH7tFWd+rWbj+sNS60ZWk9n3tnOp/kz31LnctmuzTz2l5Y6zGWbeaynheN7Wkqxp6WK9rRUAhJYSyWGx5Mb7avsr1DmJ89KeMw="
)


@pytest.fixture(autouse=True)
def no_other_heads(monkeypatch, tmp_path):
  """Tests see neither the developer's FLAME nor their environment."""
  monkeypatch.delenv("VHT_ASSETS", raising=False)
  monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def arrays():
  """A small model in the layout of FLAME's pickle: 30 skin vertices and 15 on each eyeball."""
  rng = np.random.default_rng(0)
  weights = np.zeros((N_VERTICES, 5))
  weights[:30, :3] = rng.dirichlet(np.ones(3), 30)
  weights[30:45, 3] = weights[45:, 4] = 1.0
  v_template = rng.normal(size=(N_VERTICES, 3)) * 0.05
  v_template[30:45, 0], v_template[45:, 0] = 0.03, -0.03
  faces = np.concatenate([np.arange(N_VERTICES), rng.integers(0, N_VERTICES, N_FACES * 3 - N_VERTICES)])
  return {
    "v_template": v_template,
    "f": faces.reshape(N_FACES, 3).astype(np.uint32),
    "shapedirs": rng.normal(size=(N_VERTICES, 3, 400)) * 1e-3,
    "posedirs": rng.normal(size=(N_VERTICES, 3, 36)) * 1e-3,
    "weights": weights,
    "J_regressor": rng.dirichlet(np.ones(N_VERTICES), 5),
    "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
    "bs_style": "lbs",
  }


@pytest.fixture(scope="module")
def texture():
  rng = np.random.default_rng(1)
  shape = (TEXTURE_SIDE, TEXTURE_SIDE, 3)
  return {
    "mean": rng.uniform(0, 255, shape).astype(np.float32),
    "tex_dir": rng.normal(size=(*shape, 5)).astype(np.float32),
  }


def uv_of(arrays):
  rng = np.random.default_rng(2)
  return rng.uniform(0, 1, (90, 2)).round(6), rng.integers(0, 90, (N_FACES, 3))


def write_flame(folder, arrays, texture, *, model_name="generic_model.pkl", protocol=2, pickled=None):
  """FLAME's files as VHT wants them; `pickled` replaces the arrays in the model's pickle."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / model_name).parent.mkdir(exist_ok=True)
  (folder / model_name).write_bytes(pickle.dumps(pickled or arrays, protocol))
  np.savez(folder / "FLAME_texture.npz", **texture)
  (folder / "landmark_embedding_with_eyes.npy").write_bytes(zlib.decompress(base64.b64decode(TORCH_EMBEDDING)))
  write_obj(folder / "head_template_mesh.obj", arrays)
  masks = {"face": np.arange(12), "left_eyeball": np.arange(30, 45)}
  (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))
  np.save(folder / "lower_neck_face_idcs.npy", np.array([3, 5, 70]))
  np.savez(
    folder / "mediapipe_landmark_embedding.npz",
    lmk_face_idx=np.arange(7), lmk_b_coords=np.tile([0.2, 0.3, 0.5], (7, 1)), landmark_indices=np.arange(7) * 10,
  )  # fmt: skip
  return folder


def write_obj(path, arrays):
  vt, ft = uv_of(arrays)
  lines = ["# made for a test", "mtllib nothing.mtl"]
  lines += ["v " + " ".join(map(str, v)) for v in arrays["v_template"]]
  lines += ["vt " + " ".join(map(str, v)) for v in vt]
  lines += [
    "f " + " ".join(f"{v + 1}/{t + 1}" for v, t in zip(face, uvs)) for face, uvs in zip(arrays["f"].tolist(), ft)
  ]
  path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def flame_folder(tmp_path, arrays, texture):
  return write_flame(tmp_path / "assets" / "flame", arrays, texture)


# The open head


def test_open_head_is_what_its_file_says(open_head):
  with np.load(open_head_path()) as data:
    n_named = len(data["exp_names"])
    identity = data["shapedirs_id"] * np.float64(data["shapedirs_id_step"])
    eyelids = data["eyelids"] * np.float64(data["eyelids_step"])
    joints = np.zeros((5, 3))
    np.add.at(joints, data["Jr_idx"][:, 0], data["Jr_val"][:, None] * data["v_template"][data["Jr_idx"][:, 1]])
    posedirs, columns = data["posedirs"] * np.float64(data["posedirs_step"]), data["posedirs_idx"]
    landmark_faces, dropped = data["lmk70_face"], data["lower_neck_faces"]
    mean, scale, basis = data["tex_mean"], data["tex_basis_scale"], data["tex_basis_i8"]
  np.testing.assert_allclose(open_head.shapedirs, identity, atol=1e-8)
  np.testing.assert_allclose(open_head.exprdirs[..., n_named:], eyelids, atol=1e-7)
  assert open_head.expr_names[n_named:] == ("eyelidLeft", "eyelidRight") and open_head.expr_one_sided
  assert len(open_head.expr_names) == open_head.exprdirs.shape[-1]
  np.testing.assert_allclose(open_head.j_template, joints, atol=1e-6)
  rows = np.asarray(open_head.posedirs).reshape(36, -1, 3)
  np.testing.assert_allclose(rows[columns], posedirs.transpose(2, 0, 1), atol=1e-7)
  assert not np.delete(rows, columns, axis=0).any()
  np.testing.assert_array_equal(open_head.lmk_vertices, np.asarray(open_head.faces)[landmark_faces])
  np.testing.assert_array_equal(np.flatnonzero(open_head.masks["lower_neck_faces"]), np.unique(dropped))
  np.testing.assert_allclose(open_head.texture_mean, mean / 255, atol=1e-6)
  # bilinear resampling keeps each component's mean
  found = np.asarray(open_head.texture_basis).mean((0, 1))
  np.testing.assert_allclose(found, basis.mean((1, 2)).T * scale / 127, atol=2e-4)


def test_open_head_is_sane(open_head):
  np.testing.assert_allclose(open_head.lbs_weights.sum(1), 1.0, atol=1e-6)
  assert open_head.uv.min() >= 0 and open_head.uv.max() <= 1
  assert open_head.lmk_vertices.shape == (70, 3) and open_head.dense_vertices.shape == (468, 3)
  np.testing.assert_array_equal(open_head.dense_index, np.arange(468))
  left = np.flatnonzero(open_head.masks["left_eyeball"])
  assert (np.asarray(open_head.lbs_weights)[left, 3] == 1).all() and (
    np.asarray(open_head.v_template)[left, 0] > 0
  ).all()
  assert all(leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_) for leaf in [*vars(open_head).values()]
             if hasattr(leaf, "dtype"))  # fmt: skip


def test_counts_keep_the_first_components(open_head):
  few = load_head(model="open", n_shape=7, n_expr=39, n_texture=3)
  np.testing.assert_array_equal(few.shapedirs, open_head.shapedirs[..., :7])
  np.testing.assert_array_equal(few.exprdirs, open_head.exprdirs[..., :39])
  np.testing.assert_array_equal(few.texture_basis, open_head.texture_basis[..., :3])
  np.testing.assert_allclose(few.j_shapedirs[..., 7:], open_head.j_shapedirs[..., 100:139], atol=1e-8)
  assert few.expr_names == open_head.expr_names[:39]
  many = load_head(model="open", n_shape=300, n_expr=100, n_texture=100)  # VHT's settings
  assert many.shapedirs.shape == open_head.shapedirs.shape
  none = load_head(model="open", n_shape=0, n_expr=0, n_texture=0)
  assert (none.shapedirs.shape[-1], none.exprdirs.shape[-1], none.texture_basis.shape[-1]) == (0, 0, 0)


# FLAME's files


def test_flame_folder(flame_folder, arrays, texture):
  head = load_head(flame_folder)
  close = partial(np.testing.assert_allclose, atol=1e-6)
  close(head.v_template, arrays["v_template"])
  close(head.shapedirs, arrays["shapedirs"][..., :300])
  close(head.exprdirs, arrays["shapedirs"][..., 300:])
  close(head.posedirs, arrays["posedirs"].reshape(-1, 36).T)
  close(head.j_template, arrays["J_regressor"] @ arrays["v_template"])
  close(head.j_shapedirs, np.einsum("jv,vkc->jkc", arrays["J_regressor"], arrays["shapedirs"]))
  np.testing.assert_array_equal(head.faces, arrays["f"])
  vt, ft = uv_of(arrays)
  close(head.uv, vt[ft])
  close(head.texture_mean, texture["mean"][..., ::-1] / 255)
  close(head.texture_basis, texture["tex_dir"][:, :, ::-1] / 255)
  np.testing.assert_array_equal(head.lmk_vertices, arrays["f"][np.arange(70) * 3 % 50])
  close(head.lmk_bary, np.tile([0.5, 0.25, 0.25], (70, 1)))
  np.testing.assert_array_equal(np.flatnonzero(head.masks["face"]), np.arange(12))
  np.testing.assert_array_equal(np.flatnonzero(head.masks["lower_neck_faces"]), [3, 5, 70])
  np.testing.assert_array_equal(head.dense_index, np.arange(7) * 10)
  assert not head.expr_one_sided and head.expr_names == ()
  few = load_head(flame_folder, n_shape=10, n_expr=4, n_texture=2)
  close(few.exprdirs, arrays["shapedirs"][..., 300:304])
  close(few.texture_basis, head.texture_basis[..., :2])


def chumpy_module(monkeypatch):
  """Stand-ins that pickle as chumpy's classes do (their __getstate__ is the instance dictionary)."""
  chumpy, ch, reordering = (types.ModuleType(n) for n in ("chumpy", "chumpy.ch", "chumpy.reordering"))
  for module, name in ((ch, "Ch"), (reordering, "Select")):
    setattr(module, name, type(name, (), {"__module__": module.__name__}))
  for module in (chumpy, ch, reordering):
    monkeypatch.setitem(sys.modules, module.__name__, module)

  def constant(x):
    out = ch.Ch()
    out.__dict__ = {"x": x, "_dirty_vars": {"x"}, "_itr": None, "_depends_on_deps": []}
    return out

  def select(x, idxs, shape):
    out = reordering.Select()
    out.__dict__ = {"a": constant(x), "idxs": idxs, "preferred_shape": shape, "_dirty_vars": set()}
    return out

  return constant, select


@pytest.mark.parametrize(
  "dialect", ["numpy 2", "numpy 5", "csc 2", "csr 4", "coo 2", "csc_array 2", "chumpy 0", "chumpy 2"]
)
def test_dialects_of_the_model_pickle(dialect, tmp_path, arrays, texture, monkeypatch):
  kind, protocol = dialect.split()
  told = dict(arrays)
  if kind in ("csc", "csr", "coo"):
    told["J_regressor"] = scipy.sparse.coo_matrix(arrays["J_regressor"]).asformat(kind)
  if kind == "csc_array":
    told["J_regressor"] = scipy.sparse.csc_array(arrays["J_regressor"])
  if kind == "chumpy":
    constant, select = chumpy_module(monkeypatch)
    told |= {key: constant(arrays[key]) for key in ("v_template", "posedirs")}
    wide = np.concatenate([arrays["shapedirs"], np.ones((N_VERTICES, 3, 9))], -1)
    index = np.arange(wide.size).reshape(wide.shape)[..., :400].ravel()
    told["shapedirs"] = select(wide, index, arrays["shapedirs"].shape)
  folder = write_flame(tmp_path / "a", arrays, texture, protocol=int(protocol), pickled=told)
  expected = load_head(write_flame(tmp_path / "b", arrays, texture))
  for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
    monkeypatch.delitem(sys.modules, name, raising=False)
  found = load_head(folder)
  for key in ("v_template", "shapedirs", "exprdirs", "posedirs", "j_template", "faces"):
    np.testing.assert_allclose(getattr(found, key), getattr(expected, key), atol=1e-9)


def test_arrays_pickled_by_python_2():
  # cPickle, protocol 0, numpy 1: the data is a quoted byte string
  values = np.array([[1.5, -2.0, 3.25], [4.0, 5.0, np.pi]])
  data = repr(values.tobytes().decode("latin-1").encode("latin-1"))[1:].encode("ascii")
  text = (
    b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
    b"(I1\n(I2\nI3\ntp8\ncnumpy\ndtype\np9\n(S'f8'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\n"
    b"S" + data + b"\np15\ntp16\nbs."
  )
  np.testing.assert_array_equal(unpickle.loads(text, "here")["a"], values)
  big_endian = text.replace(b"S'<'", b"S'>'")
  np.testing.assert_array_equal(unpickle.loads(big_endian, "here")["a"], values.byteswap())


def test_landmarks_in_torch_tensors_without_torch(flame_folder):
  assert "torch" not in sys.modules
  found = unpickle.loads(read_npy(flame_folder / "landmark_embedding_with_eyes.npy"), "here")
  np.testing.assert_array_equal(found["full_lmk_faces_idx"], (np.arange(70) * 3 % 50)[None])
  np.testing.assert_array_equal(found["dynamic_lmk_faces_idx"], [[0, 2], [3, 5]])  # strides
  assert found["full_lmk_bary_coords"].dtype == np.float64


def torch_zip(size, stride, storage_bytes, name="FloatStorage", numel=6):
  """A torch.save in the zip format, by hand; persistent ids name the storages."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  storage_type = type(name, (), {"__module__": "torch", "__qualname__": name})
  setattr(torch, name, storage_type)

  def _rebuild_tensor_v2(*args):
    raise AssertionError("must not run")

  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2
  marker = object()

  class Tensor:
    def __reduce__(self):
      return _rebuild_tensor_v2, (marker, 0, size, stride, False, {})

  class Pickler(pickle.Pickler):
    def persistent_id(self, obj):
      return ("storage", storage_type, "0", "cpu", numel) if obj is marker else None

  saved = {key: sys.modules.get(key) for key in ("torch", "torch._utils")}
  sys.modules |= {"torch": torch, "torch._utils": utils}
  try:
    stream = io.BytesIO()
    Pickler(stream, 2).dump({"a": Tensor()})
  finally:
    for key, module in saved.items():
      sys.modules.pop(key) if module is None else sys.modules.update({key: module})
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as archive:
    archive.writestr("x/data.pkl", stream.getvalue())
    archive.writestr("x/data/0", storage_bytes)
  return out.getvalue()


def as_pickle_of_torch_bytes(data):
  return b"\x80\x02ctorch.storage\n_load_from_bytes\n" + pickle.dumps((data,), 3)[2:-1] + b"R."


def test_torch_zip_format():
  data = torch_zip((3, 2), (1, 3), np.arange(6, dtype="<f4").tobytes())
  found = unpickle.loads(as_pickle_of_torch_bytes(data), "here")["a"]
  np.testing.assert_array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3).T)
  half = np.array([1.0, -2.0, 0.5, 3.0, 0.0, 1.5], np.float32)
  bits = (half.view(np.uint32) >> 16).astype("<u2").tobytes()
  found = unpickle.loads(as_pickle_of_torch_bytes(torch_zip((6,), (1,), bits, "BFloat16Storage")), "here")["a"]
  np.testing.assert_array_equal(found, half)


@pytest.mark.parametrize(
  "size, stride, n_bytes",
  [((3, 2), (1, 3), 20), ((3, 3), (3, 1), 24), ((2,), (-1,), 24), ((2,), (10**12,), 24), ((10**9, 10**9), (0, 0), 24)],
)
def test_torch_tensors_cannot_reach_outside_their_data(size, stride, n_bytes):
  with pytest.raises(InputError, match="not a readable pickle"):
    unpickle.loads(as_pickle_of_torch_bytes(torch_zip(size, stride, bytes(n_bytes))), "here")


def test_texture_of_full_size_is_thinned_as_vht_does(tmp_path):
  rng = np.random.default_rng(0)
  mean = rng.uniform(0, 255, (512, 512, 3)).astype(np.float32)
  basis = rng.normal(size=(512, 512, 3, 4)).astype(np.float16)
  for order in ("C", "F"):
    np.savez(tmp_path / "t.npz", mean=mean, tex_dir=np.asarray(basis, order=order))
    found = flame_files.read_texture(tmp_path / "t.npz", 3)
    np.testing.assert_allclose(found[0], mean[::2, ::2, ::-1] / 255, atol=1e-6)
    np.testing.assert_allclose(found[1], basis[::2, ::2, ::-1, :3].astype(np.float32) / 255, atol=1e-6)
  np.savez(tmp_path / "bfm.npz", MU=(mean / 255).ravel(), PC=basis.reshape(-1, 4))  # BFM_to_FLAME's layout
  found = flame_files.read_texture(tmp_path / "bfm.npz", None)
  np.testing.assert_allclose(found[0], mean[::2, ::2, ::-1] / 255, atol=1e-6)
  np.testing.assert_allclose(found[1], basis[::2, ::2, ::-1].astype(np.float32), atol=1e-6)


def test_uv_map_of_the_texture_file_stands_in_for_the_mesh(flame_folder, arrays, texture):
  (flame_folder / "head_template_mesh.obj").unlink()
  vt, ft = uv_of(arrays)
  np.savez(flame_folder / "FLAME_texture.npz", vt=vt, ft=ft, **texture)
  np.testing.assert_allclose(load_head(flame_folder).uv, vt[ft], atol=1e-6)


def test_head_without_texture_is_grey(flame_folder):
  (flame_folder / "FLAME_texture.npz").unlink()
  head = load_head(flame_folder)
  np.testing.assert_allclose(head.texture_mean, 0.5)
  assert head.texture_basis.shape[-1] == 0 and float(head.uv.max()) > 0


def test_irises_are_found_where_the_embedding_has_none(flame_folder, arrays):
  (flame_folder / "landmark_embedding_with_eyes.npy").unlink()
  embedding = {"full_lmk_faces_idx": np.zeros((1, 68), int), "full_lmk_bary_coords": np.full((1, 68, 3), 1 / 3)}
  np.save(flame_folder / "landmark_embedding.npy", embedding, allow_pickle=True)
  head = load_head(flame_folder)
  points = (np.asarray(head.v_template)[head.lmk_vertices] * np.asarray(head.lmk_bary)[..., None]).sum(1)
  for point, eyeball in ((points[68], slice(45, 60)), (points[69], slice(30, 45))):
    vertices = arrays["v_template"][eyeball]
    np.testing.assert_allclose(point, vertices[vertices[:, 2].argmax()], atol=1e-6)


def test_lower_neck_without_a_list_is_what_hangs_on_the_root(flame_folder, arrays):
  (flame_folder / "lower_neck_face_idcs.npy").unlink()
  dropped = np.asarray(load_head(flame_folder).masks["lower_neck_faces"])
  np.testing.assert_array_equal(dropped, (arrays["weights"][:, 0] > 0.6)[arrays["f"]].all(1))


# The search


def test_search_order(tmp_path, arrays, texture, monkeypatch):
  def folder(name, **kwargs):
    return write_flame(tmp_path / name, arrays | {"v_template": arrays["v_template"] + len(name)}, texture, **kwargs)

  assert load_head().name.startswith("open head")
  for model in ("auto", "flame"):
    folder("assets/flame")
    assert load_head(model=model).name == "FLAME (generic_model.pkl)"
  folder("environment/flame", model_name="flame2023.pkl")
  monkeypatch.setenv("VHT_ASSETS", str(tmp_path / "environment"))
  assert load_head().name == "FLAME (flame2023.pkl)"
  folder("option", model_name="flame2020.pkl")
  assert load_head(assets_dir=tmp_path / "option").name == "FLAME (flame2020.pkl)"
  direct = folder("argument", model_name="FLAME2020/generic_model.pkl")
  assert load_head(direct, assets_dir=tmp_path / "option").name == "FLAME (generic_model.pkl)"
  assert float(load_head(direct / "FLAME2020/generic_model.pkl").v_template.mean()) > 7  # beside the other files
  assert load_head(model="open").name.startswith("open head")
  assert load_head(open_head_path()).name.startswith("open head")


def test_companions_of_a_pickle_elsewhere_come_from_the_search_order(flame_folder, tmp_path):
  other = tmp_path / "downloads" / "flame2023.pkl"
  other.parent.mkdir()
  (flame_folder / "generic_model.pkl").rename(other)
  assert load_head(other).lmk_vertices.shape == (70, 3)


def test_named_folder_without_a_model_is_an_error(tmp_path):
  with pytest.raises(InputError) as error:
    load_head(assets_dir=tmp_path / "nothing")
  for part in ("nothing", "assets/flame", "generic_model.pkl", "flame.is.tue.mpg.de", "--assets", "VHT_ASSETS"):
    assert part in str(error.value)
  with pytest.raises(InputError, match="no head model"):
    load_head(model="flame")
  with pytest.raises(InputError, match="no such file"):
    load_head(tmp_path / "missing.pkl")
  with pytest.raises(InputError, match="auto, open or flame"):
    load_head(model="smpl")
  with pytest.raises(InputError, match="n_shape"):
    load_head(n_shape=-1)


def test_missing_embedding_says_where_it_is(flame_folder):
  (flame_folder / "landmark_embedding_with_eyes.npy").unlink()
  with pytest.raises(InputError, match=r"landmark_embedding_with_eyes\.npy.*assets/flame.*video-head-tracker"):
    load_head(flame_folder)


# Broken and hostile files

faults = pytest.mark.faults


def corrupt(arrays, key, value):
  return {**{k: v for k, v in arrays.items() if k != key}, **({} if value is None else {key: value})}


@faults
@pytest.mark.parametrize(
  "key, value, message",
  [
    ("posedirs", None, "lacks posedirs"),
    ("weights", np.ones((N_VERTICES, 5)), "sum to 1"),
    ("weights", np.ones((N_VERTICES, 4)), r"weights must have shape \(60, 5\)"),
    ("f", np.full((N_FACES, 3), N_VERTICES), r"faces must lie in 0\.\.59"),
    ("v_template", np.full((N_VERTICES, 3), np.nan), "not finite"),
    ("shapedirs", np.ones((N_VERTICES, 9)), "shapedirs must have shape"),
    ("kintree_table", np.array([[-1, 0, 1, 2, 3], [0, 1, 2, 3, 4]]), "joint tree"),
    ("J_regressor", np.array(["a"] * 5), "lacks J_regressor|must hold numbers"),
  ],
)
def test_wrong_models_are_named(flame_folder, arrays, key, value, message):
  (flame_folder / "head_template_mesh.obj").unlink()
  (flame_folder / "generic_model.pkl").write_bytes(pickle.dumps(corrupt(arrays, key, value), 2))
  with pytest.raises(InputError, match=message) as error:
    load_head(flame_folder)
  assert "\n" not in str(error.value) and "generic_model.pkl" in str(error.value)


@faults
def test_other_broken_companions(flame_folder, arrays):
  def expect(name, content, message):
    path = flame_folder / name
    good = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
      load_head(flame_folder)
    assert name in str(error.value) or "FLAME (" in str(error.value)
    path.write_bytes(good)

  expect("head_template_mesh.obj", b"v 0 0 0\nf 1 1 1\n", "expected FLAME's template")
  expect("head_template_mesh.obj", b"v 0 0 0\nf 1 1 1 1\n", "triangles only")
  expect("head_template_mesh.obj", b"v a b c\nf 1/1 1/1 1/1\n", "not a readable triangle mesh")
  expect("head_template_mesh.obj", b"\x00\xff", "triangle")
  expect("FLAME_texture.npz", b"PK not a zip", "cannot be read")
  expect("landmark_embedding_with_eyes.npy", b"\x93NUMPY\x01\x00", "cannot be read|not a")
  expect("FLAME_masks.pkl", pickle.dumps([1, 2]), "dictionary")
  expect("FLAME_masks.pkl", pickle.dumps({"face": np.array([0, 999])}), "mask face must lie in")
  expect("lower_neck_face_idcs.npy", npy_bytes(np.array([0, 999])), "lower_neck_faces must lie in")
  assert load_head(flame_folder).name == "FLAME (generic_model.pkl)"


def npy_bytes(array):
  stream = io.BytesIO()
  np.save(stream, array)
  return stream.getvalue()


class Reduced:
  def __init__(self, function, *args):
    self.call = function, args

  def __reduce__(self):
    return self.call


@faults
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_pickle_is_refused_by_name(protocol, tmp_path, monkeypatch):
  import os
  import subprocess

  marker = tmp_path / "ran"
  attacks = [
    (Reduced(os.system, f"touch {marker}"), "system"),
    (Reduced(eval, f"open({str(marker)!r}, 'w')"), "eval"),
    (Reduced(exec, "import os"), "exec"),
    (Reduced(getattr, "text", "upper"), "getattr"),
    (Reduced(subprocess.Popen, ["touch", str(marker)]), "Popen"),
    (Reduced(np.load, "x.npy"), "load"),
    (Reduced(np.fromfile, "x"), "fromfile"),
    (Reduced(__import__, "os"), "__import__"),
    (Reduced(pickle.loads, b"."), "loads"),
    (Reduced(io.BytesIO, b"x"), "BytesIO"),
    (io.FileIO, "FileIO"),
    (Reduced(open, str(marker), "w"), "open"),
  ]
  for thing, name in attacks:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"v_template": thing}, protocol))
    with pytest.raises(InputError, match=f"model.pkl: refuses to unpickle .*({name})"):
      load_head(path)
  assert not marker.exists()


@faults
@pytest.mark.parametrize(
  "program",
  [
    b"cchumpy\nx\n(S'a'\ntR.",  # a lone node: allowed, inert
    b"cos\nsystem\n(S'touch ran'\ntR.",
    b"(S'touch ran'\nios\nsystem\n.",
    b"(cos\nsystem\nS'touch ran'\no.",
    b"\x82\x01.",  # extension registry
    b"cbuiltins\nset\n(cchumpy\nCh\n(tR}(S'__setstate__'\ncos\nsystem\nubtR.",
    b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93.",
    b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of 8 EB
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 8 EB
    b"Nr\xff\xff\xff\xff.",  # memo index of 4 G: would be 32 GB in C
    b"(" * 100_000 + b".",
    b"]" + b"\x85" * 100_000 + b".",  # nested tuples
    b"]q\x00h\x00a.",  # a list inside itself
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L1000000000000L\ntS'b'\ntR.",
    b"cnumpy\ndtype\n(S'V99999999'\nI0\nI1\ntR.",
    b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRNtR.",
    b"I1\n.",
    b"",
  ],
)
def test_hand_made_programs_do_nothing(program, tmp_path):
  path = tmp_path / "model.pkl"
  path.write_bytes(program)
  with pytest.raises(InputError, match=r"model\.pkl: "):
    load_head(path)
  assert not (tmp_path / "ran").exists()


@faults
def test_sparse_matrices_are_bounded():
  def refuse(state):
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.__dict__.update(state)
    with pytest.raises(InputError, match="not a readable pickle"):
      unpickle.loads(pickle.dumps(matrix, 2), "here")

  refuse({"_shape": (10**9, 10**9)})
  refuse({"_shape": (3, 4)})
  refuse({"indices": np.array([0, -1, 2])})
  refuse({"indices": np.array([0, 7, 2])})
  refuse({"indptr": np.array([0, 3, 1, 3])})


@faults
@hypothesis.given(st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_damaged_pickles_give_one_line(arrays, data):
  small = {key: arrays[key] for key in ("f", "kintree_table", "bs_style")}
  small["J_regressor"] = scipy.sparse.csc_matrix(np.eye(4))
  good = pickle.dumps(small, data.draw(st.sampled_from([0, 2, 4, 5])))
  damaged = bytearray(good)
  if data.draw(st.booleans()):
    damaged = damaged[: data.draw(st.integers(0, len(good) - 1))]
  for _ in range(data.draw(st.integers(0, 4)) if damaged else 0):
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
  try:
    unpickle.loads(bytes(damaged), "here")
  except InputError as error:
    assert str(error).startswith("here: ")


@faults
def test_npz_headers_are_not_believed(tmp_path):
  def npz(header, body, key="a"):
    raw = io.BytesIO()
    np.lib.format.write_array_header_1_0(raw, header)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr(key + ".npy", raw.getvalue() + body)
    return tmp_path / "x.npz"

  def header(shape, descr="<f4"):
    return {"shape": shape, "fortran_order": False, "descr": descr}

  np.testing.assert_array_equal(read_npz(npz(header((2,)), bytes(8)))["a"], [0, 0])
  for shape in ((10**15,), (3,), (10**6, 10**6)):
    with pytest.raises(InputError, match="truncated or corrupt"):
      read_npz(npz(header(shape), bytes(8)))
  with pytest.raises(InputError, match="Python objects"):
    read_npz(npz(header((), "|O"), pickle.dumps([1])))
  with pytest.raises(InputError, match="expected"):
    flame_files.read_texture(npz(header((4, 4, 3)), bytes(192), "mean"), None)
  path = npz(header((2,)), bytes(8))
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(InputError, match=r"x\.npz"):
    npz_shapes(path)
  with pytest.raises(InputError, match=r"missing\.npz"):
    read_npz(tmp_path / "missing.npz")


@faults
def test_open_head_files_are_checked(tmp_path):
  np.savez(tmp_path / "head.npz", v_template=np.zeros((4, 3)))
  with pytest.raises(InputError, match="not an open head, it lacks f, vt"):
    load_head(tmp_path / "head.npz")
  (tmp_path / "head.npz").write_bytes(open_head_path().read_bytes()[:100_000])
  with pytest.raises(InputError, match=r"head\.npz"):
    load_head(tmp_path / "head.npz")


@faults
def test_models_from_arrays_are_checked(arrays):
  good = {
    "v_template": arrays["v_template"], "faces": arrays["f"], "shapedirs": arrays["shapedirs"][..., :3],
    "posedirs": arrays["posedirs"], "weights": arrays["weights"], "J_regressor": arrays["J_regressor"],
  }  # fmt: skip
  assert flame_model_from_arrays(**good).lmk_vertices.shape == (0, 3)
  for extra, message in (
    ({"lmk_faces": np.arange(51), "lmk_bary": np.full((51, 3), 1 / 3)}, "expected 70 landmarks"),
    ({"lmk_faces": np.arange(70), "lmk_bary": np.ones((70, 3))}, "sum to 1"),
    ({"expr_names": ("smile",)}, "1 expression names for 0"),
    ({"vt": np.zeros((2, 2)), "faces_vt": np.full((N_FACES, 3), 2)}, "faces_vt must lie in"),
    ({"masks": {"face": np.array([-1])}}, "mask face must lie in"),
    ({"masks": {"face": np.zeros(3, bool)}}, "mask face must have shape"),
    ({"lower_neck_faces": np.array([0.5])}, "whole numbers"),
  ):
    with pytest.raises(InputError, match=message):
      flame_model_from_arrays(**good, **extra)
