"""A second reader of .glb files, written from the glTF 2.0 specification alone: what a viewer shows at a key."""

import json
import struct

import numpy as np

DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


class Glb:
  def __init__(self, data):
    magic, version, length = struct.unpack_from("<4sII", data, 0)
    assert magic == b"glTF" and version == 2 and length == len(data)
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    self.json = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0" and 28 + size + binary_size == length
    self.binary = data[28 + size :]
    assert self.json["buffers"] == [{"byteLength": binary_size}]

  def _read(self, view, offset, dtype, count, width):
    view = self.json["bufferViews"][view]
    start = view.get("byteOffset", 0) + offset
    assert start % np.dtype(dtype).itemsize == 0
    item = np.dtype(dtype).itemsize * width
    stride = view.get("byteStride", item)
    assert view.get("target") != 34962 or stride % 4 == 0
    assert offset + stride * (count - 1) + item <= view["byteLength"]
    rows = [np.frombuffer(self.binary, dtype, width, start + i * stride) for i in range(count)]
    return np.array(rows)

  def array(self, index):
    a = self.json["accessors"][index]
    dtype, width, count = DTYPES[a["componentType"]], WIDTHS[a["type"]], a["count"]
    if "bufferView" in a:
      raw = self._read(a["bufferView"], a.get("byteOffset", 0), dtype, count, width)
    else:
      raw = np.zeros((count, width), dtype)
    if "sparse" in a:
      s = a["sparse"]
      at = self._read(s["indices"]["bufferView"], 0, DTYPES[s["indices"]["componentType"]], s["count"], 1)[:, 0]
      assert (np.diff(at.astype(int)) > 0).all()
      raw[at] = self._read(s["values"]["bufferView"], 0, dtype, s["count"], width)
    if "min" in a:
      assert raw.min(0).tolist() == a["min"] and raw.max(0).tolist() == a["max"]
    values = raw.astype(np.float64)
    if a.get("normalized"):
      values = np.maximum(values / np.iinfo(raw.dtype).max, -1.0)
    return values

  def node_matrices(self, moved):
    """World matrices of all nodes; `moved` replaces properties: {(node, path): value}."""
    nodes = self.json["nodes"]
    world = [None] * len(nodes)

    def visit(i, parent):
      node = nodes[i]
      x, y, z, w = moved.get((i, "rotation"), node.get("rotation", (0, 0, 0, 1)))
      m = np.eye(4)
      m[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
      ]
      m[:3, 3] = moved.get((i, "translation"), node.get("translation", (0, 0, 0)))
      world[i] = parent @ m
      for child in node.get("children", ()):
        visit(child, world[i])

    for root in self.json["scenes"][self.json["scene"]]["nodes"]:
      visit(root, np.eye(4))
    return world

  def frames(self):
    """Times (T,), and a function from a key's number to the mesh's vertices (V', 3) in the world."""
    mesh_node = next(n for n in self.json["nodes"] if "mesh" in n)
    mesh = self.json["meshes"][mesh_node["mesh"]]
    primitive = mesh["primitives"][0]
    base = self.array(primitive["attributes"]["POSITION"])
    morphs = np.array([self.array(t["POSITION"]) for t in primitive["targets"]])
    joints = self.array(primitive["attributes"]["JOINTS_0"]).astype(int)
    weights = self.array(primitive["attributes"]["WEIGHTS_0"])
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-9)
    skin = self.json["skins"][mesh_node["skin"]]
    inverse_bind = np.swapaxes(self.array(skin["inverseBindMatrices"]).reshape(-1, 4, 4), 1, 2)  # stored by columns
    animation = self.json["animations"][0]
    tracks = {}
    for channel in animation["channels"]:
      sampler = animation["samplers"][channel["sampler"]]
      times = self.array(sampler["input"])[:, 0]
      output = self.array(sampler["output"])
      target = channel["target"]
      tracks[target["node"], target["path"]] = output.reshape(len(times), -1)

    def vertices(key):
      moved = {name: values[key] for name, values in tracks.items()}
      amounts = next(v for (_, path), v in moved.items() if path == "weights")
      shaped = base + np.tensordot(amounts, morphs, 1)
      world = self.node_matrices(moved)
      matrices = np.array([world[j] @ inverse_bind[k] for k, j in enumerate(skin["joints"])])
      blended = np.einsum("vk,vkij->vij", weights, matrices[joints])
      return np.einsum("vij,vj->vi", blended[:, :3, :3], shaped) + blended[:, :3, 3]

    return times, vertices

  def pixels(self, points):
    """(N, 2) px from the top left of the image, through the file's camera and its padding."""
    camera = self.json["cameras"][0]
    assert "camera" in self.json["nodes"][0] and len(self.json["nodes"][0]) == 2  # not moved, not turned
    lens, extras = camera["perspective"], camera["extras"]
    width, height = extras["padded_size"]
    np.testing.assert_allclose(lens["aspectRatio"], width / height)
    tangent = np.tan(lens["yfov"] / 2)
    x = points[:, 0] / (-points[:, 2] * tangent * lens["aspectRatio"])
    y = points[:, 1] / (-points[:, 2] * tangent)
    return np.stack([(1 + x) / 2 * width, (1 - y) / 2 * height], 1) - extras["image_offset"]
