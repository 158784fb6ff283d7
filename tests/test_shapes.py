"""The shapes in the signatures of the public functions are those of what goes in and comes out.

Checked while tracing: nothing is compiled.
"""

import inspect
import re

import beartype
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError, jaxtyped

import vht_jax
from vht_jax import cameras
from vht_jax.head import flame
from vht_jax.render import image, picture, raster, shade, soft, uv_bake
from vht_jax.render.edges import antialias, edge_table
from vht_jax.types import Camera, Fragments

SIZE = (12, 16)
LIGHT = jnp.zeros((9, 3)).at[0].set(3.5)


def checked(function):
  return jaxtyped(function, typechecker=beartype.beartype)


@pytest.fixture(scope="module")
def quad():
  """Vertices, faces, UVs, camera, screen positions and fragments of a square of two faces."""
  corners = np.array([[-0.25, -0.25, 1], [0.25, -0.25, 1], [0.25, 0.25, 1], [-0.25, 0.25, 1]], np.float32)
  faces = np.array([[0, 2, 1], [0, 3, 2]], np.int32)
  uv = (corners[:, :2] * 2 + 0.5)[faces]
  seen = Fragments(jnp.zeros(SIZE, jnp.int32), jnp.full((*SIZE, 3), 1 / 3), jnp.ones(SIZE))
  return jnp.asarray(corners), jnp.asarray(faces), jnp.asarray(uv), cameras.make_camera(1.5), jnp.asarray(corners), seen


def test_head(open_head):
  def body(head, shape, layer):
    pose = checked(flame.neutral_pose)(head, jnp.array([0.0, 0.0, 1.0]))
    checked(flame.shape_blend)(head, shape, pose.expr)
    checked(flame.joints)(head, shape, pose.expr)
    checked(flame.skin_head)(head, shape, pose.expr, checked(flame.pose_matrices)(pose))
    vertices = checked(flame.skin)(head, shape, pose)
    checked(flame.landmarks)(head, vertices)
    checked(flame.dense_landmarks)(head, vertices)
    checked(flame.vertex_normals)(vertices, head.faces)
    checked(flame.albedo)(head, jnp.zeros(head.texture_basis.shape[-1]), layer)
    checked(flame.with_identity)(head, shape)

  jax.eval_shape(body, open_head, jnp.zeros(open_head.shapedirs.shape[-1]), jnp.zeros((4, 4, 3)))


def test_cameras(quad):
  def body(vertices, faces, uv, camera, screen, fragments):
    checked(cameras.intrinsics)(camera, SIZE)
    checked(cameras.world_to_camera)(camera, vertices)
    checked(cameras.project)(camera, vertices[None], SIZE)
    for convert in (cameras.screen_to_unit, cameras.screen_to_ndc, cameras.ndc_to_screen):
      checked(convert)(screen[:, :2], SIZE)
    assert isinstance(checked(cameras.from_vht_intrinsics)(checked(cameras.to_vht_intrinsics)(camera)), Camera)

  jax.eval_shape(body, *quad)


def test_render(quad):
  edges = edge_table(quad[1])

  def body(vertices, faces, uv, camera, screen, fragments):
    colors, picture_ = jnp.ones((len(vertices), 2)) * camera.focal, jnp.ones((*SIZE, 3)) * camera.focal
    checked(raster.rasterize)(screen, faces, SIZE)
    checked(raster.fragments_at)(screen, faces, fragments.pix_to_face)
    for attributes in (colors, colors[faces]):
      checked(shade.interpolate)(attributes, screen, faces, fragments)
    checked(shade.interpolate_corners)(uv, fragments)
    checked(shade.differentiable_barycentrics)(fragments, screen, faces)
    checked(shade.sample_texture)(picture_, uv)
    checked(image.sample_bilinear)(picture_, screen[:, :2])
    checked(shade.spherical_harmonics)(vertices)
    checked(shade.shading)(checked(shade.turned_light)(LIGHT * camera.focal, jnp.eye(3)), vertices)
    checked(soft.soft_render)(screen, faces, colors, SIZE)
    checked(soft.soft_silhouette)(screen, faces, SIZE)
    checked(antialias)(picture_, screen, faces, edges, fragments)
    checked(picture.render_mesh)(
      vertices, faces, camera, SIZE, uv=uv, texture=picture_, light=LIGHT, background=picture_
    )
    checked(uv_bake.rasterize_uv)(uv, (8, 8))
    checked(uv_bake.bake_texture)(vertices[None], faces, uv, camera, picture_[None], (8, 8), light=LIGHT)

  jax.eval_shape(body, *quad)


def test_every_array_in_a_public_signature_has_a_shape():
  """All but pytrees, whose fields say it; a shape is written `Float[Array, "H W 3"]`."""
  bare = {}
  for name in vht_jax.__all__:
    found = getattr(vht_jax, name)
    found = getattr(found, "__wrapped__", found)
    if inspect.isfunction(found):
      text = " ".join(str(kind) for kind in found.__annotations__.values())
      arrays = re.findall(r"\b(?:Any)?Array\b|np\.ndarray", re.sub(r"\w+\[[\w.]+, ['\"].*?['\"]\]", "", text))
      unsaid = [p for p in inspect.signature(found).parameters if p not in found.__annotations__]
      if arrays or unsaid:
        bare[name] = arrays + unsaid
  assert bare == {}


def test_another_shape_is_found(quad):
  """The checks above would pass if nothing were checked."""
  vertices, faces, _, _, screen, fragments = quad
  with pytest.raises(TypeCheckError):
    checked(shade.interpolate)(jnp.ones((len(vertices) + 1, 2)), screen, faces, fragments)
  with pytest.raises(TypeCheckError):
    checked(flame.vertex_normals)(vertices, faces.astype(jnp.float32))
