"""OBJ, PLY and PC2 against readers of their own, and trimesh."""

import io
import json
import struct

import numpy as np
import pytest
from export_clip import MISTAKES, TIMES, assert_reprojects, assert_wrong, mistaken

from vht_jax.results.export import to_obj, to_pc2, to_ply

FORMATS = {"obj": to_obj, "ply": to_ply, "pc2": to_pc2}


def read_obj(data):
  lines = [line.split() for line in data.decode().splitlines()]
  take = lambda kind: [line[1:] for line in lines if line and line[0] == kind]
  corners = np.array([[c.split("/") for c in face] for face in take("f")], int) - 1
  return np.array(take("v"), float), corners[..., 0], np.array(take("vt"), float)[corners[..., 1]]


def read_ply(data):
  header, _, body = data.partition(b"end_header\n")
  lines = header.decode().splitlines()
  assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
  n_vertices, n_faces = (int(line.split()[2]) for line in lines if line.startswith("element"))
  points = np.frombuffer(body, [("p", "<f4", 3), ("c", "u1", 3)], n_vertices)
  faces = np.frombuffer(body, [("n", "u1"), ("i", "<i4", 3)], n_faces, n_vertices * 15)
  assert len(body) == n_vertices * 15 + n_faces * 13 and (faces["n"] == 3).all()
  return points["p"], faces["i"], points["c"]


def read_pc2(data):
  mark, version, count, start, rate, samples = struct.unpack_from("<12siiffi", data)
  assert (mark, version, start, rate) == (b"POINTCACHE2\0", 1, 0.0, 1.0)
  return np.frombuffer(data, "<f4", offset=32).reshape(samples, count, 3)


def meshes(files, kind):
  if kind == "pc2":
    return read_pc2(files["clip.pc2"])
  names = [f["file"] for f in json.loads(files[f"clip_{kind}_camera.json"])["frames"]]
  if kind == "ply":
    return np.array([read_ply(files[name])[0] for name in names])
  points = lambda data: [line.split()[1:] for line in data.decode().splitlines() if line.startswith("v ")]
  return np.array([points(files[name]) for name in names], float)


def pixels(files, kind):
  """Through camera.json: an OpenGL camera at the origin."""
  vertices, camera = meshes(files, kind), json.loads(files[f"clip_{kind}_camera.json"])
  found = []
  for points, frame in zip(vertices.astype(float), camera["frames"], strict=True):
    x, y, z = points.T
    assert (z < 0).all()
    found.append(np.stack([frame["cx"] - frame["fl_x"] * x / z, frame["cy"] + frame["fl_y"] * y / z], 1))
  return np.array(found)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_vertices_reproject(kind, clip_scene):
  files = dict(FORMATS[kind](clip_scene))
  assert_reprojects(pixels(files, kind), clip_scene)
  camera = json.loads(files[f"clip_{kind}_camera.json"])
  assert (camera["w"], camera["h"]) == (500, 360)
  np.testing.assert_allclose([f["time"] for f in camera["frames"]], TIMES)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("kind", FORMATS)
def test_mistakes_are_seen(kind, mistake, clip_scene):
  assert_wrong(pixels(dict(FORMATS[kind](mistaken(clip_scene)[mistake])), kind), clip_scene)


def test_surfaces_and_textures(clip_scene):
  from PIL import Image

  files = dict(to_obj(clip_scene))
  assert len(files) == 3 + 6 and "clip_00006.obj" in files
  _, faces, uv = read_obj(files["clip_00002.obj"])
  np.testing.assert_array_equal(faces, clip_scene.model.faces)
  np.testing.assert_allclose(uv, clip_scene.model.uv, atol=1e-6)
  texture = np.asarray(Image.open(io.BytesIO(files["clip.png"])))
  np.testing.assert_array_equal(texture, clip_scene.texture)
  assert b"map_Kd clip.png" in files["clip.mtl"] and b"mtllib clip.mtl" in files["clip_00001.obj"]
  _, ply_faces, colors = read_ply(dict(to_ply(clip_scene))["clip_00001.ply"])
  np.testing.assert_array_equal(ply_faces, clip_scene.model.faces)
  corner = np.argmax(np.asarray(clip_scene.model.faces).ravel() == 100)
  u, v = np.asarray(clip_scene.model.uv).reshape(-1, 2)[corner]
  np.testing.assert_array_equal(colors[100], texture[int((1 - v) * 256), int(u * 256)])
  of_cache = dict(to_pc2(clip_scene))
  np.testing.assert_allclose(read_obj(of_cache["clip.obj"])[0], read_pc2(of_cache["clip.pc2"])[0], atol=1e-6)


def test_an_independent_parser_reads_them(clip_scene):
  trimesh = pytest.importorskip("trimesh")
  for kind in ("obj", "ply"):
    files = dict(FORMATS[kind](clip_scene))
    mesh = trimesh.load(io.BytesIO(files[f"clip_00003.{kind}"]), file_type=kind, process=False, maintain_order=True)
    assert len(mesh.faces) == len(clip_scene.model.faces)
    expected = clip_scene.camera_vertices(2)[np.asarray(clip_scene.model.faces)] * [1, -1, -1]
    np.testing.assert_allclose(mesh.vertices[mesh.faces], expected, atol=1e-5)
