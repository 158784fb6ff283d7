"""The USD stage: a reader of the text, written from the specification alone, and Pixar's own skinning and camera."""

import re

import numpy as np
import pytest
from export_clip import FPS, MISTAKES, SIZE, TIMES, assert_reprojects, assert_wrong, mistaken

from vht_jax.errors import InputError
from vht_jax.results.export import to_usda, to_usdc

NUMBER = r"-?[\d.]+(?:e-?\d+)?"


class Stage:
  """The numbers of the text, found by the names of their attributes."""

  def __init__(self, text):
    self.text = text

  def part(self, kind, name):
    """From a prim's head to the next prim on the same level or the end."""
    start = re.search(rf'^( *)def {kind} "{name}"', self.text, re.MULTILINE)
    end = self.text.index(f"\n{start[1]}}}", start.end())
    return Stage(self.text[start.start() : end])

  def value(self, name):
    return re.search(rf"^ *(?:uniform )?\S+ {re.escape(name)} = (.*?)(?: \()?$", self.text, re.MULTILINE)[1]

  def numbers(self, name, width=1):
    found = np.array(re.findall(NUMBER, self.value(name)), float)
    return found.reshape(-1, width) if width > 1 else found

  def samples(self, name, width):
    rows = re.findall(r"([\d.e-]+): \[(.*?)\]", self.value(f"{name}.timeSamples"))
    values = [np.array(re.findall(NUMBER, row), float).reshape(-1, width) for _, row in rows]
    return np.array([float(code) for code, _ in rows]), np.array(values)


def vertices(text):
  """(T, V, 3): blend shapes, then five joints per vertex; matrices act on rows."""
  kinds = (("Mesh", "mesh"), ("Skeleton", "skeleton"), ("SkelAnimation", "clip"))
  mesh, skeleton, clip = (Stage(text).part(*kind) for kind in kinds)
  names = re.findall(r'"(\w+)"', mesh.value("skel:blendShapes"))
  assert re.findall(r"/(\w+)>", mesh.value("skel:blendShapeTargets")) == names
  assert re.findall(r'"(\w+)"', clip.value("blendShapes")) == names
  joints = re.findall(r'"([\w/]+)"', skeleton.value("joints"))
  assert joints == re.findall(r'"([\w/]+)"', clip.value("joints"))
  points = mesh.numbers("points", 3)
  shapes = np.zeros((len(names), *points.shape))
  shape = r'def BlendShape "(\w+)"\s*{\s*uniform vector3f\[\] offsets = (.*)\s*uniform int\[\] pointIndices = (.*)'
  for name, offsets, which in re.findall(shape, mesh.text):
    rows = np.array(re.findall(NUMBER, offsets), float).reshape(-1, 3)
    shapes[names.index(name), np.array(re.findall(NUMBER, which), int)] = rows
  index = mesh.numbers("primvars:skel:jointIndices", 5).astype(int)
  weight = mesh.numbers("primvars:skel:jointWeights", 5)
  np.testing.assert_allclose(weight.sum(1), 1, atol=1e-4)
  inverse = np.linalg.inv(skeleton.numbers("bindTransforms", 16).reshape(-1, 4, 4))
  codes, amounts = clip.samples("blendShapeWeights", 1)
  _, translations = clip.samples("translations", 3)
  _, rotations = clip.samples("rotations", 4)
  found = []
  for frame in range(len(codes)):
    moved = points + np.tensordot(amounts[frame][:, 0], shapes, 1)
    world = {}
    for k, joint in enumerate(joints):
      w, x, y, z = rotations[frame, k]
      local = np.eye(4)
      local[:3, :3] = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
      ]).T  # fmt: skip
      local[3, :3] = translations[frame, k]
      parent = joint.rpartition("/")[0]
      world[joint] = local @ world[parent] if parent else local
    matrices = np.array([inverse[k] @ world[joint] for k, joint in enumerate(joints)])
    blended = np.einsum("vk,vkij->vij", weight, matrices[index])
    found.append(np.einsum("vi,vij->vj", moved, blended[:, :3, :3]) + blended[:, 3, :3])
  return codes, np.array(found)


def pixels(text):
  """Through the camera: focal length and offsets in units of the aperture, y up."""
  camera = Stage(text).part("Camera", "camera")
  lens = lambda name: float(camera.value(name))
  x, y, z = np.moveaxis(vertices(text)[1], -1, 0)
  height, width = SIZE
  across = (x / -z * lens("focalLength") - lens("horizontalApertureOffset")) / lens("horizontalAperture")
  up = (y / -z * lens("focalLength") - lens("verticalApertureOffset")) / lens("verticalAperture")
  return np.stack([(across + 0.5) * width, (0.5 - up) * height], -1)


def text_of(scene):
  return dict(to_usda(scene))["clip.usda"].decode()


def test_all_vertices_reproject(clip_scene):
  text = text_of(clip_scene)
  assert_reprojects(pixels(text), clip_scene)
  codes, _ = vertices(text)
  np.testing.assert_allclose(codes / FPS, TIMES, atol=1e-6)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake, clip_scene):
  assert_wrong(pixels(text_of(mistaken(clip_scene)[mistake])), clip_scene)


@pytest.fixture(scope="module", params=["usda", "usdc"])
def stage(request, clip_scene, tmp_path_factory):
  """As Pixar's library opens it."""
  Usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed")
  folder = tmp_path_factory.mktemp("usd")
  for name, data in (to_usda if request.param == "usda" else to_usdc)(clip_scene):
    (folder / name).write_bytes(data)
  return Usd.Stage.Open(str(folder / f"clip.{request.param}"))


def test_pixars_skinning_and_frustum_agree(stage, clip_scene):
  from pxr import Gf, UsdGeom, UsdSkel

  assert UsdGeom.GetStageUpAxis(stage) == "Y" and UsdGeom.GetStageMetersPerUnit(stage) == 1
  assert stage.GetTimeCodesPerSecond() == FPS
  root = UsdSkel.Root(stage.GetPrimAtPath("/scene/head"))
  assert UsdSkel.BakeSkinning(root, Gf.Interval(0, 1000))
  points = UsdGeom.Mesh(stage.GetPrimAtPath("/scene/head/mesh")).GetPointsAttr()
  camera = UsdGeom.Camera(stage.GetPrimAtPath("/scene/camera"))
  found = []
  for code in TIMES * FPS:
    assert np.abs(np.array(points.GetTimeSamples()) - code).min() < 1e-4
    frustum = camera.GetCamera(code).frustum
    matrix = np.array(frustum.ComputeViewMatrix() * frustum.ComputeProjectionMatrix())
    p = np.array(points.Get(code), float)
    clip = np.concatenate([p, np.ones((len(p), 1))], 1) @ matrix
    ndc = clip[:, :2] / clip[:, 3:]
    found.append((ndc * [1, -1] + 1) / 2 * [SIZE[1], SIZE[0]])
  assert_reprojects(found, clip_scene)


def test_surface_and_material(stage, clip_scene):
  from pxr import UsdGeom, UsdShade, UsdSkel

  mesh = UsdGeom.Mesh(stage.GetPrimAtPath("/scene/head/mesh"))
  faces = np.array(mesh.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
  np.testing.assert_array_equal(faces, clip_scene.model.faces)
  st = UsdGeom.PrimvarsAPI(mesh).GetPrimvar("st")
  assert st.GetInterpolation() == "faceVarying"
  np.testing.assert_allclose(np.array(st.Get()).reshape(-1, 3, 2), clip_scene.model.uv, atol=1e-6)
  material, _ = UsdShade.MaterialBindingAPI(mesh).ComputeBoundMaterial()
  surface, _, _ = material.ComputeSurfaceSource()
  assert surface.GetShaderId() == "UsdPreviewSurface"
  texture = stage.GetPrimAtPath("/scene/skin/texture").GetAttribute("inputs:file").Get()
  assert texture.resolvedPath.endswith("clip.png")
  names = list(UsdSkel.BindingAPI(mesh).GetBlendShapesAttr().Get())
  assert names[:40] == list(clip_scene.model.expr_names)
  extent = np.array(UsdGeom.Boundable(stage.GetPrimAtPath("/scene/head")).GetExtentAttr().Get())
  for i in range(len(clip_scene)):
    v = clip_scene.camera_vertices(i) * [1, -1, -1]
    assert (v >= extent[0]).all() and (v <= extent[1]).all()


def test_the_binary_form_needs_usd_core(clip_scene, monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, "pxr", None)
  with pytest.raises(InputError, match=r"pip install 'vht-jax\[usd\]', or export usda"):
    dict(to_usdc(clip_scene))


@pytest.mark.parametrize("write", [to_usda, to_usdc])
def test_a_clips_name_does_not_end_its_textures_path(clip_scene, tmp_path, write):
  from dataclasses import replace

  Usd = pytest.importorskip("pxr.Usd")
  files = dict(write(replace(clip_scene, name='Jö\'s "1st" me@home')))
  for name, content in files.items():
    (tmp_path / name).write_bytes(content)
  stage = Usd.Stage.Open(str(tmp_path / next(n for n in files if ".usd" in n)))
  texture = stage.GetPrimAtPath("/scene/skin/texture").GetAttribute("inputs:file").Get()
  assert texture.resolvedPath.endswith('Jö\'s "1st" me@home.png')
