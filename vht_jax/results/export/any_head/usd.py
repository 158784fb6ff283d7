"""USD: the head as UsdSkel (blend shapes, joints, animation), its texture and the camera with its principal point.

The text form needs no library; the binary form is made of it by usd-core. World, metres and axes are those of the .glb:
the camera stands at the origin, x right, y up, and looks along -z. Matrices act on row vectors there, quaternions have
their real part first, time codes are frames of the clip's rate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vht_jax.errors import InputError
from vht_jax.results.export.format import Files
from vht_jax.results.export.images.png import rgb_png
from vht_jax.results.export.motion import JOINTS, PARENTS, morph_targets, quaternions
from vht_jax.results.export.scene import OPENGL, Lens, Scene

_APERTURE = 36.0  # tenths of a unit across: the frame of a 35 mm film, by which people know focal lengths
_STILL = 1e-7  # m; points that a blend shape moves less are not listed


def to_usda(scene: Scene) -> Files:
  """NAME.usda and NAME.png."""
  text = usda(scene)
  yield f"{scene.name}.usda", text.encode()
  yield f"{scene.name}.png", rgb_png(scene.texture)


def to_usdc(scene: Scene) -> Files:
  """NAME.usdc, the same in binary, and NAME.png.

  Raises:
    InputError: usd-core is not installed.
  """
  try:
    from pxr import Sdf  # an optional extra
  except ImportError:
    raise InputError("usdc needs usd-core: pip install 'vht-jax[usd]', or export usda, which needs nothing") from None
  layer = Sdf.Layer.CreateAnonymous(".usda")  # pyright: ignore[reportAttributeAccessIssue]  # usd-core has no types
  layer.ImportFromString(usda(scene))
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "scene.usdc"
    layer.Export(str(path))
    data = path.read_bytes()
  yield f"{scene.name}.usdc", data
  yield f"{scene.name}.png", rgb_png(scene.texture)


def usda(scene: Scene) -> str:
  """The stage as text."""
  lens, motion, model = scene.lens, scene.motion, scene.model
  targets, names, weights = morph_targets(model, scene.expr, motion, False)
  codes = scene.times * scene.fps
  rotations = np.stack([quaternions(motion.rotation[:, j]) for j in range(5)], axis=1)[..., [3, 0, 1, 2]]
  samples = lambda rows: "{" + ", ".join(f"{c:.9g}: {r}" for c, r in zip(codes, rows)) + "}"
  chain = lambda j: JOINTS[j] if PARENTS[j] < 0 else f"{chain(PARENTS[j])}/{JOINTS[j]}"
  joints = _names(chain(j) for j in range(5))
  rest = np.tile(np.eye(4), (5, 1, 1))
  for j, p in enumerate(PARENTS):
    rest[j, :3, 3] = motion.rest[j] - (motion.rest[p] if p >= 0 else 0.0)
  bind = np.tile(np.eye(4), (5, 1, 1))
  bind[:, :3, 3] = motion.rest
  faces, uv = np.asarray(model.faces), np.asarray(model.uv, np.float64)
  skinning = np.asarray(model.lbs_weights, np.float64)
  where = "/scene/head"
  shapes = "\n".join(_blend_shape(name, target) for name, target in zip(names, targets))
  return f"""#usda 1.0
(
    defaultPrim = "scene"
    doc = "vht_jax: {model.name.replace('"', "'")}"
    metersPerUnit = 1
    upAxis = "Y"
    timeCodesPerSecond = {scene.fps:.9g}
    framesPerSecond = {scene.fps:.9g}
    startTimeCode = {codes[0]:.9g}
    endTimeCode = {codes[-1]:.9g}
)

def Xform "scene" (
    kind = "component"
)
{{
{_camera(lens, scene.size)}
    def SkelRoot "head" (
        prepend apiSchemas = ["SkelBindingAPI"]
    )
    {{
        float3[] extent = {_vectors(_extent(scene))}

        def Mesh "mesh" (
            prepend apiSchemas = ["SkelBindingAPI", "MaterialBindingAPI"]
        )
        {{
            int[] faceVertexCounts = {_numbers(np.full(len(faces), 3))}
            int[] faceVertexIndices = {_numbers(faces.ravel())}
            point3f[] points = {_vectors(scene.neutral)}
            float3[] extent = {_vectors(np.stack([scene.neutral.min(0), scene.neutral.max(0)]))}
            uniform token subdivisionScheme = "none"
            uniform bool doubleSided = 1
            texCoord2f[] primvars:st = {_vectors(uv.reshape(-1, 2))} (
                interpolation = "faceVarying"
            )
            int[] primvars:skel:jointIndices = {_numbers(np.tile(np.arange(5), len(skinning)))} (
                elementSize = 5
                interpolation = "vertex"
            )
            float[] primvars:skel:jointWeights = {_numbers(skinning.ravel())} (
                elementSize = 5
                interpolation = "vertex"
            )
            matrix4d primvars:skel:geomBindTransform = {_matrix(np.eye(4))}
            rel skel:skeleton = <{where}/skeleton>
            uniform token[] skel:blendShapes = {_names(names)}
            rel skel:blendShapeTargets = [{", ".join(f"<{where}/mesh/{n}>" for n in names)}]
            rel material:binding = </scene/skin>
{shapes}
        }}

        def Skeleton "skeleton" (
            prepend apiSchemas = ["SkelBindingAPI"]
        )
        {{
            uniform token[] joints = {joints}
            uniform matrix4d[] bindTransforms = [{", ".join(map(_matrix, bind))}]
            uniform matrix4d[] restTransforms = [{", ".join(map(_matrix, rest))}]
            rel skel:animationSource = <{where}/clip>
        }}

        def SkelAnimation "clip"
        {{
            uniform token[] joints = {joints}
            uniform token[] blendShapes = {_names(names)}
            float3[] translations.timeSamples = {samples(map(_vectors, motion.translation))}
            quatf[] rotations.timeSamples = {samples(map(_vectors, rotations))}
            half3[] scales = {_vectors(np.ones((5, 3)))}
            float[] blendShapeWeights.timeSamples = {samples(map(_numbers, weights))}
        }}
    }}
{_material(f"{scene.name}.png")}
}}
"""


def _camera(lens: Lens, size: tuple[int, int]) -> str:
  height, width = size
  f, cx, cy = lens
  unit = _APERTURE / width
  return f"""    def Camera "camera"
    {{
        token projection = "perspective"
        float focalLength = {f * unit:.9g}
        float horizontalAperture = {_APERTURE:.9g}
        float verticalAperture = {height * unit:.9g}
        float horizontalApertureOffset = {(width / 2 - cx) * unit:.9g}
        float verticalApertureOffset = {(cy - height / 2) * unit:.9g}
        float2 clippingRange = (0.01, 100)
        custom int2 imageSize = ({width}, {height})
    }}
"""


def _material(texture: str) -> str:
  return f"""
    def Material "skin"
    {{
        token outputs:surface.connect = </scene/skin/surface.outputs:surface>

        def Shader "surface"
        {{
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </scene/skin/texture.outputs:rgb>
            float inputs:roughness = 0.8
            float inputs:metallic = 0
            token outputs:surface
        }}

        def Shader "texture"
        {{
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @@@./{texture}@@@
            token inputs:sourceColorSpace = "sRGB"
            float2 inputs:st.connect = </scene/skin/coordinates.outputs:result>
            float3 outputs:rgb
        }}

        def Shader "coordinates"
        {{
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "st"
            float2 outputs:result
        }}
    }}"""


def _blend_shape(name: str, target: np.ndarray) -> str:
  moved = np.flatnonzero(np.abs(target).max(axis=1) > _STILL)
  return f"""
            def BlendShape "{name}"
            {{
                uniform vector3f[] offsets = {_vectors(target[moved])}
                uniform int[] pointIndices = {_numbers(moved)}
            }}"""


def _extent(scene: Scene) -> np.ndarray:
  """(2, 3) box of the head over the clip: of its root joint's way, and as far as the head reaches from that."""
  places = scene.root_position @ OPENGL.T
  reach = np.linalg.norm(scene.neutral - scene.motion.rest[0], axis=1).max() + 0.05  # m, an open jaw
  return np.stack([places.min(0) - reach, places.max(0) + reach])


def _names(names: Iterable[str]) -> str:
  return "[" + ", ".join(f'"{n}"' for n in names) + "]"


def _numbers(values: np.ndarray) -> str:
  return "[" + ", ".join(map("{:.9g}".format, values.tolist())) + "]"


def _vectors(rows: np.ndarray) -> str:
  return "[" + ", ".join("(" + ", ".join(map("{:.9g}".format, row)) + ")" for row in rows.tolist()) + "]"


def _matrix(matrix: np.ndarray) -> str:
  """A (4, 4) matrix that acts on columns, as USD writes it: for rows."""
  return "( " + ", ".join("(" + ", ".join(f"{v:.12g}" for v in row) + ")" for row in matrix.T.tolist()) + " )"
