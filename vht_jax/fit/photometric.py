"""Photometric Gauss-Newton: the head's shaded colours against the image.

The residual is VHT's (in the spirit of face2face, Thies et al. 2016): the colour of a surface point, shaded by
spherical harmonics, minus the image sampled where the point projects to. Visibility is held fixed for one
Gauss-Newton solve and then found again. A sampled pixel becomes a surface point (`points`), so that the Jacobian is a
few matrix products; its normal moves with the expression too, without which the energy rises instead of falling
(solver.md, section 4).

Frames are looked at through square crops around the head, so the cost does not depend on the resolution of the video
and one compiled program serves all videos.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from vht_jax.config import Weights
from vht_jax.fit import bundle
from vht_jax.fit.bundle import LandmarkModel, Tracks
from vht_jax.fit.least_squares import ArrowNormal, Normal, levenberg_marquardt, levenberg_marquardt_shared
from vht_jax.head import flame
from vht_jax.head import points as pts
from vht_jax.head.points import Points, Shared
from vht_jax.render import shade
from vht_jax.render.image import sample_bilinear
from vht_jax.render.raster import rasterize
from vht_jax.types import Array, FlameModel

HIGHEST = jax.lax.Precision.HIGHEST
UNEXPLAINED = ("teeth", "tongue", "mouth_cavity", "eye_socket")  # masks; in the shade of something else
MIN_COSINE = 0.25  # surfaces seen more obliquely carry more modelling error than information
LAYER_SIZE = 128  # texels per side of the free albedo layer
LIGHT_SD = 1.0  # of the light coefficients beyond the constant one
AVERAGED = 0.4  # share of the keyframe stage's steps, the last ones, whose mean is its result
APPEARANCE_STEPS = 3  # rasterisations of the keyframe stage that fit colours only
INNER_STEPS = 2  # Levenberg-Marquardt steps per rasterisation
FEWEST_PIXELS = 10.0  # a frame counts for at least so many
PLAUSIBLE_SHAPE = 0.8  # rms of an identity code that the colours may ask for, in standard deviations
# m, rms over the head per standard deviation: identity components that move it by less are hardly seen and stay near 0,
# so they are left out of that rms, which was measured with the open head: its weakest component moves it by 0.077 mm.
SEEN_COMPONENT = 7e-5


@flax.struct.dataclass
class Crop:
  """A square view of one frame; pixel = scale * (u, v) + offset, (u, v) being the unit coordinates of `points`."""

  rgb: Array  # (C, C, 3) f32 in [0, 1]
  inside: Array  # (C, C) f32, 1 where the crop shows the frame and not the padding
  scale: Array  # () px per unit
  offset: Array  # (2,) px


@flax.struct.dataclass
class Surface:
  """The whole head as points, with what a pixel's colour needs. Made once per clip."""

  vertices: Points  # all V vertices
  faces: Array  # (F, 3)
  uv: Array  # (F, 3, 2)
  used: Array  # (F,) bool: faces whose colour the model can explain
  normal_dirs: Array  # (V, 3, E + S) d(unit normal) / d[expression, shape]
  texture_mean: Array  # (Ht, Wt, 3)
  texture_basis: Array  # (Ht, Wt, 3, T)


@flax.struct.dataclass
class Appearance:
  """Colour of the head in a clip."""

  texture: Array  # (T,) texture code
  layer: Array  # (LAYER_SIZE, LAYER_SIZE, 3) free albedo on top of it
  light: Array  # (9, 3)


@flax.struct.dataclass
class Samples:
  """N pixels of one frame as surface points; frozen during one solve."""

  points: Points
  normal: Array  # (N, 3) unit normal in the frame of the unskinned head
  normal_dirs: Array  # (N, 3, E [+ S])
  expr: Array  # (E,) expression at which `normal` was taken
  shape: Array  # (S,) likewise
  uv: Array  # (N, 2) texture coordinates
  seen_normal: Array  # (N, 3) the normal in camera axes at the pose of the sampling
  color: Array  # (N, 3) of the pixels
  weight: Array  # (N,) sums to the number of pixels that the frame counts for; 0: unusable


def explained_faces(model: FlameModel) -> Array:
  """(F,) bool: faces whose colour the model can explain: not those inside the mouth or behind the eyeballs."""
  hidden = jnp.zeros(model.faces.shape[0], bool)
  for name in UNEXPLAINED:
    if name in model.masks:
      hidden = hidden | jnp.all(model.masks[name][model.faces], axis=1)
  return ~hidden


def make_surface(model: FlameModel, shape: Array) -> Surface:
  """Prepares a head whose identity is near `shape` (S,); normals are linearised there."""
  n_vertices = model.v_template.shape[0]
  vertices = Points(
    template=model.v_template,
    shapedirs=model.shapedirs,
    exprdirs=model.exprdirs,
    posedirs=jnp.moveaxis(model.posedirs.reshape(36, n_vertices, 3), 0, -1),
    lbs_weights=model.lbs_weights,
    j_template=model.j_template,
    j_shapedirs=model.j_shapedirs[..., : model.shapedirs.shape[-1]],
    j_exprdirs=model.j_shapedirs[..., model.shapedirs.shape[-1] :],
    pivot=jnp.mean(model.v_template[model.lmk_vertices[:68]], axis=(0, 1)),
  )
  neutral = model.v_template + jnp.matmul(model.shapedirs, shape, precision=HIGHEST)
  dirs = jnp.concatenate([model.exprdirs, model.shapedirs], axis=-1)

  def normals(vertices):
    return flame.vertex_normals(vertices, model.faces)

  def push(direction):
    return jax.jvp(normals, (neutral,), (direction,))[1]

  normal_dirs = jnp.moveaxis(jax.lax.map(push, jnp.moveaxis(dirs, -1, 0), batch_size=8), 0, -1)
  return Surface(
    vertices=vertices,
    faces=model.faces,
    uv=model.uv,
    used=explained_faces(model),
    normal_dirs=normal_dirs,
    texture_mean=model.texture_mean,
    texture_basis=model.texture_basis,
  )


def fold_identity(surface: Surface, shape: Array) -> Surface:
  """The surface of one person: shape in the template, no shape directions."""
  n_expr = surface.vertices.exprdirs.shape[-1]
  return surface.replace(
    vertices=pts.with_identity(surface.vertices, shape), normal_dirs=surface.normal_dirs[..., :n_expr]
  )


def albedo_map(surface: Surface, appearance: Appearance) -> Array:
  """(Ht, Wt, 3) albedo of the clip, clipped to [0, 1]."""
  base = surface.texture_mean + jnp.matmul(surface.texture_basis, appearance.texture, precision=HIGHEST)
  layer = jax.image.resize(appearance.layer, base.shape, "linear")
  return jnp.clip(base + layer, 0.0, 1.0)


def to_pixels(uv: Array, crop: Crop) -> Array:
  return uv * crop.scale + crop.offset[None]


def pose_mesh(surface: Surface, x: Array, shared: Shared):
  """Camera coordinates (V, 3) of all vertices and the rotations (V, 3, 3) of their neighbourhoods."""
  shaped, joints = pts.shaped_points(surface.vertices, shared.shape, pts.split(x)["expr"])
  X, (dX, _) = pts.camera_points(
    surface.vertices, shaped, joints, x[-pts.N_POSE :], jnp.exp(shared.log_focal), shared.principal
  )
  return X, dX


def see(surface: Surface, x: Array, shared: Shared, crop: Crop):
  """Rasterises the head into the crop: camera vertices, their neighbourhoods' rotations, fragments."""
  X, dX = pose_mesh(surface, x, shared)
  screen = to_pixels(pts.project(X, jnp.exp(shared.log_focal), shared.principal), crop)
  fragments = rasterize(jnp.concatenate([screen, X[:, 2:]], -1), surface.faces, crop.rgb.shape[:2])
  return X, dX, fragments


def sample_pixels(surface: Surface, x: Array, shared: Shared, crop: Crop, n: int, count: Array) -> Samples:
  """n of the pixels that see an explained face, evenly spread over them in scan order.

  Args:
    count: () number of independent pixels that the frame counts for: the weights sum to about this.
  """
  X, dX, fragments = see(surface, x, shared, crop)
  face_of = fragments.pix_to_face.reshape(-1)
  usable = (face_of >= 0) & surface.used[jnp.maximum(face_of, 0)] & (crop.inside.reshape(-1) > 0)
  order = jnp.cumsum(usable.astype(jnp.int32))
  total = order[-1]
  target = ((jnp.arange(n, dtype=jnp.float32) + 0.5) * (total.astype(jnp.float32) / n)).astype(jnp.int32) + 1
  pixel = jnp.minimum(jnp.searchsorted(order, target), face_of.shape[0] - 1)
  face = jnp.maximum(face_of[pixel], 0)
  corner = surface.faces[face]  # (n, 3)
  bary = fragments.bary_coords.reshape(-1, 3)[pixel]
  bary = jnp.where((face_of[pixel] >= 0)[:, None], bary, 1.0 / 3)

  def blend(field):
    return jnp.einsum("nk,nk...->n...", bary, field[corner], precision=HIGHEST)

  v = surface.vertices
  expr = pts.split(x)["expr"]
  # The pose correctives are frozen at this pose: they are small, and gathering all 36 would dominate the cost.
  _, joints = pts.shaped_points(v, shared.shape, expr)
  _, _, feature = pts.joint_transforms(pts.joint_angles(x[-pts.N_POSE :]), joints)
  correctives = jnp.matmul(v.posedirs, feature, precision=HIGHEST)
  points = Points(
    template=blend(v.template + correctives),
    shapedirs=blend(v.shapedirs),
    exprdirs=blend(v.exprdirs),
    posedirs=jnp.zeros((n, 3, 0), x.dtype),
    lbs_weights=blend(v.lbs_weights),
    j_template=v.j_template,
    j_shapedirs=v.j_shapedirs,
    j_exprdirs=v.j_exprdirs,
    pivot=v.pivot,
  )
  normals = flame.vertex_normals(X, surface.faces)
  seen = blend(normals)
  seen = seen / jnp.maximum(jnp.linalg.norm(seen, axis=-1, keepdims=True), 1e-6)
  at = blend(X)
  cosine = -jnp.sum(seen * at, -1) / jnp.maximum(jnp.linalg.norm(at, axis=-1), 1e-6)
  good = (cosine > MIN_COSINE) & (total > n // 8)
  return Samples(
    points=points,
    normal=jnp.einsum("nba,nb->na", blend(dX), seen, precision=HIGHEST),
    normal_dirs=blend(surface.normal_dirs),
    expr=expr,
    shape=shared.shape,
    uv=jnp.einsum("nk,nkc->nc", bary, surface.uv[face], precision=HIGHEST),
    seen_normal=seen,
    color=crop.rgb.reshape(-1, 3)[pixel],
    weight=jnp.where(good, count / n, 0.0),
  )


def to_world(directions: Array) -> Array:
  """Directions in OpenCV camera axes -> world, where the light lives: half a turn about z."""
  return jnp.concatenate([-directions[..., :2], directions[..., 2:]], axis=-1)


def estimate_gain(samples: Samples, albedo: Array, light: Array, weights: Weights) -> Array:
  """() robust factor between the image and the model's colours: exposure and white balance drift in real video."""
  model = shade.shade(albedo, shade.shading(light, to_world(samples.seen_normal)))
  gain = jnp.ones(())
  for _ in range(3):
    error = jnp.sqrt(jnp.mean((samples.color - gain * model) ** 2, -1) + 1e-12) / weights.sd_color
    w = (samples.weight * jnp.minimum(1.0, 1.0 / error))[:, None]
    gain = jnp.sum(w * samples.color * model) / jnp.maximum(jnp.sum(w * model**2), 1e-6)
  return jnp.where(jnp.sum(samples.weight) > 0, jnp.clip(gain, 0.3, 3.0), 1.0)


def with_gradient(image: Array) -> Array:
  """(H, W, 3) -> (H, W, 9): the image and its central differences in x and y per pixel."""
  return jnp.concatenate([image, jnp.gradient(image, axis=1), jnp.gradient(image, axis=0)], -1)


@flax.struct.dataclass
class Residuals:
  """Colour differences of the samples, whitened and robustly weighted, with their derivatives."""

  r: Array  # (N, 3)
  d_x: Array  # (N, 3, E + 14)
  d_shared: Array  # (N, 3, S + 3): shape, log focal, principal
  d_albedo: Array  # (N, 3): derivative of channel c by the albedo of channel c
  d_light: Array  # (N, 9): derivative of channel c by light[:, c], equal for all channels but for `albedo`
  gain: Array  # (N, 3): d r_c / d light[k, c] = gain_c * d_light_k
  cost: Array  # ()
  l1: Array  # () mean absolute difference of the colours that count, not weighted


def residuals(samples: Samples, albedo: Array, light: Array, x: Array, shared: Shared, crop: Crop, image9: Array,
              weights: Weights) -> Residuals:  # fmt: skip
  """Colour residuals (albedo + 1) * shading - 1 - image (VHT's colour formula) of one frame's samples.

  Args:
    albedo: (N, 3) at the samples.
    image9: (C, C, 9) of `with_gradient`.
  """
  p = samples.points
  n_expr = p.exprdirs.shape[-1]
  shaped, joints = pts.shaped_points(p, shared.shape, x[:n_expr])
  change = jnp.concatenate([x[:n_expr] - samples.expr, shared.shape - samples.shape])
  local = samples.normal + jnp.matmul(samples.normal_dirs, change, precision=HIGHEST)

  def shading_of(normal):  # in OpenCV camera axes
    unit = normal / jnp.maximum(jnp.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    basis = shade.spherical_harmonics(to_world(unit))
    return jnp.matmul(basis, light, precision=HIGHEST), basis

  placed = pts.place(p, shaped, x[n_expr:], shared, joints)
  X, dX, focal = placed.X, placed.d_point, jnp.exp(shared.log_focal)
  normal, d_normal_z = pts.turn(p, placed, local)
  S, basis = shading_of(normal)
  seen = sample_bilinear(image9, to_pixels(pts.project(X, focal, shared.principal), crop))
  color, gx, gy = seen[:, :3], seen[:, 3:6], seen[:, 6:]
  G = jnp.stack([gx, gy], -1) * crop.scale  # (N, 3, 2) d image / d uv
  gain = albedo + 1.0
  r = gain * S - 1.0 - color

  product = lambda a, b: jnp.einsum("nij,njk->nik", a, b, precision=HIGHEST)
  image_by_point = product(G, pts.project_derivative(X, focal))  # (N, 3, 3)
  d_shading = jax.vmap(jax.jacfwd(lambda q: shading_of(q)[0]))(normal)  # (N, 3, 3)
  color_by_normal = gain[..., None] * d_shading
  columns = product(color_by_normal, d_normal_z) - product(image_by_point, placed.d_X)
  columns = columns - product(G, pts.camera_columns(X, focal))
  # By the unskinned normal and by the shaped point: two (N, 3, 3) maps, then one product each.
  maps = jnp.concatenate([product(color_by_normal, dX), -product(image_by_point, dX)], -1)
  d_joints = columns[..., 17:]

  def linear(dirs, normal_dirs, j_dirs):
    both = jnp.concatenate([normal_dirs, dirs], axis=1)  # (N, 6, K)
    return jnp.matmul(maps, both, precision=HIGHEST) + jnp.matmul(d_joints, j_dirs.reshape(15, -1), precision=HIGHEST)

  d_expr = linear(p.exprdirs, samples.normal_dirs[..., :n_expr], p.j_exprdirs)
  d_shape = linear(p.shapedirs, samples.normal_dirs[..., n_expr:], p.j_shapedirs)

  # Huber on the colour difference: one weight per pixel, so that an occluder or highlight counts linearly.
  length = jnp.sqrt(jnp.mean(r**2, -1) + 1e-12) / weights.sd_color
  inside = length < 1.0
  root = jnp.sqrt(samples.weight * jnp.where(inside, 1.0, 1.0 / length)) / weights.sd_color
  cost = jnp.sum(samples.weight * jnp.where(inside, length**2, 2 * length - 1)) * 3.0
  scale = root[:, None]
  counted = (samples.weight > 0).astype(r.dtype)
  return Residuals(
    r=r * scale,
    d_x=jnp.concatenate([d_expr, columns[..., :14]], -1) * scale[..., None],
    d_shared=jnp.concatenate([d_shape, columns[..., 14:17]], -1) * scale[..., None],
    d_albedo=S * scale,
    d_light=basis,
    gain=gain * scale,
    cost=cost,
    l1=jnp.sum(jnp.mean(jnp.abs(r), -1) * counted) / jnp.maximum(jnp.sum(counted), 1.0),
  )


def fit_frame(surface: Surface, model: LandmarkModel, albedo: Array, light: Array, shared: Shared, tracks: Tracks,
              crop: Crop, weights: Weights, x0: Array, *, n_samples: int, outer_steps: int):  # fmt: skip
  """Photometric and landmark pose of one frame whose identity is known (`vmap` it).

  Args:
    surface, model: with the identity folded in.
    albedo: (Ht, Wt, 3) map of the clip.
    light: (9, 3).
    shared: camera and landmark offsets, `shape` empty.
    x0: (E + 14,) start.
    n_samples: pixels per solve, static.
    outer_steps: how often visibility is found anew, static.

  Returns:
    x (E + 14,); the `Normal` there; and the mean absolute difference of the samples' colours there ().
  """
  image9 = with_gradient(crop.rgb)

  def outer(x, _):
    samples = sample_pixels(surface, x, shared, crop, n_samples, weights.photo_pixels)
    colors = shade.sample_texture(albedo, samples.uv)
    exposed = image9 / estimate_gain(samples, colors, light, weights)

    def normal(x):
      res = residuals(samples, colors, light, x, shared, crop, exposed, weights)
      J, r = res.d_x.reshape(-1, x.shape[0]), res.r.reshape(-1)
      photo = Normal(res.cost, jnp.matmul(J.T, r, precision=HIGHEST), jnp.matmul(J.T, J, precision=HIGHEST))
      return photo + bundle.frame_normal(model, x, shared, tracks, weights)

    solution = levenberg_marquardt(normal, x, max_steps=INNER_STEPS)
    # Against the image as it is: what the exposure had to explain is a difference too.
    difference = residuals(samples, colors, light, solution.x, shared, crop, image9, weights).l1
    return solution.x, (solution.normal, difference)

  x, (normals, differences) = jax.lax.scan(outer, x0, None, length=outer_steps)
  return x, jax.tree.map(lambda a: a[-1], normals), differences[-1]


def photometric_l1(surface: Surface, albedo: Array, light: Array, shared: Shared, crop: Crop, x: Array) -> Array:
  """Mean absolute colour difference over all visible explained pixels of one frame, freshly rasterised ()."""
  X, _, fragments = see(surface, x, shared, crop)
  color, usable = shaded(surface, X, fragments, albedo, light, crop)
  return jnp.sum(jnp.abs(color - crop.rgb) * usable[..., None]) / jnp.maximum(3 * jnp.sum(usable), 1.0)


def shaded(surface: Surface, X: Array, fragments, albedo: Array, light: Array, crop: Crop):
  """Colours (C, C, 3) at the pixels and which of them are explained (C, C)."""
  normals = to_world(flame.vertex_normals(X, surface.faces))
  n = shade.interpolate_corners(normals[surface.faces], fragments)
  n = n / jnp.maximum(jnp.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
  uv = shade.interpolate_corners(surface.uv, fragments)
  color = shade.shade(shade.sample_texture(albedo, uv), shade.shading(light, n))
  hit = fragments.pix_to_face >= 0
  usable = hit & surface.used[jnp.maximum(fragments.pix_to_face, 0)] & (crop.inside > 0)
  return color, usable.astype(jnp.float32)


# --- the keyframe stage: everything at once --------------------------------------------------------------------------


def pack(shared: Shared, appearance: Appearance) -> Array:
  """Unknowns shared by the keyframes: shape, log focal, principal, offsets, texture code, light."""
  return jnp.concatenate([bundle.pack(shared), appearance.texture, appearance.light.reshape(-1)])


def unpack(flat: Array, n_shape: int, n_texture: int) -> tuple[Shared, Array, Array]:
  end = flat.shape[0] - n_texture - 27
  return bundle.unpack(flat[:end], n_shape), flat[end : end + n_texture], flat[end + n_texture :].reshape(9, 3)


def fit_identity(surface: Surface, model: LandmarkModel, shared: Shared, appearance: Appearance, tracks: Tracks,
                 crops: Crop, xs: Array, weights: Weights, focal_prior, pixels: Array,
                 *, n_samples: int, outer_steps: int):  # fmt: skip
  """Shape, camera, texture, light and the poses of F keyframes from their images and landmarks.

  The free albedo layer is estimated in closed form between Gauss-Newton solves. Without it, photometry makes a face
  whose texture is outside the basis worse than landmarks alone (solver.md, section 4).

  Args:
    surface, model: of the unfolded head.
    shared, appearance, xs: start; `xs` (F, E + 14).
    tracks, crops: leading axis F.
    focal_prior: (mean, sd) of log focal, and of the principal point if it is known (`bundle.camera_prior`).
    pixels: () how many independent pixels a frame counts for at first. How much the colours know depends on how well
      the model explains this person (hair, make-up, beards), and their residual does not tell: the free albedo layer
      hides it. The identity tells: colours that are trusted too much drive it out of the range of people. So they are
      trusted more while the rms of the code (`mean_square`) stays below PLAUSIBLE_SHAPE, and less above.

  Returns:
    shared, appearance, xs, pixels, cost per outer step (outer_steps,), standard deviation of log focal ().
  """
  n_shape, n_texture = surface.vertices.shapedirs.shape[-1], appearance.texture.shape[0]
  images9 = jax.vmap(with_gradient)(crops.rgb)
  F, n = xs.shape

  def outer(state, step):
    shared, appearance, xs, pixels = state
    # Colours first: geometry must not bend to explain a texture that is not estimated yet.
    hold = jnp.where(step < APPEARANCE_STEPS, 1e8, 0.0)
    flat_start, xs_start = bundle.pack(shared), xs
    samples = jax.lax.map(lambda a: sample_pixels(surface, a[0], shared, a[1], n_samples, pixels), (xs, crops))
    basis = jax.lax.map(
      lambda uv: shade.sample_texture(surface.texture_basis.reshape(*surface.texture_basis.shape[:2], -1), uv),
      samples.uv,
    ).reshape(F, n_samples, 3, n_texture)
    layer = jax.image.resize(appearance.layer, surface.texture_mean.shape, "linear")
    base = jax.vmap(lambda uv: shade.sample_texture(surface.texture_mean + layer, uv))(samples.uv)
    albedo0 = jnp.clip(base + jnp.matmul(basis, appearance.texture, precision=HIGHEST), 0.0, 1.0)
    gains = jax.vmap(lambda s, a: estimate_gain(s, a, appearance.light, weights))(samples, albedo0)
    gains = jnp.where(step > 0, gains / jnp.exp(jnp.mean(jnp.log(gains))), 1.0)  # the light takes the common factor
    exposed = images9 / gains[:, None, None, None]

    def normal(xs, flat):
      m = flat.shape[0]
      shared, texture, light = unpack(flat, n_shape, n_texture)
      arrow = bundle.bundle_normal(model, xs, flat[: m - n_texture - 27], tracks, weights, focal_prior)
      held = flat[: m - n_texture - 27] - flat_start
      arrow = arrow.replace(
        cost=arrow.cost + hold * (jnp.sum(held**2) + jnp.sum((xs - xs_start) ** 2)),
        frame_gradient=arrow.frame_gradient + hold * (xs - xs_start),
        frame_matrix=arrow.frame_matrix + hold * jnp.eye(n, dtype=xs.dtype)[None],
        shared_gradient=arrow.shared_gradient + hold * held,
        shared_matrix=arrow.shared_matrix + hold * jnp.eye(held.shape[0], dtype=xs.dtype),
      )
      arrow = pad_shared(arrow, n_texture + 27)
      # Photometric unknowns of the shared vector: shape, camera (contiguous), then texture and light at its end.
      where = jnp.concatenate([jnp.arange(n_shape + 3), jnp.arange(m - n_texture - 27, m)])

      def one(args):
        x, sample, base, basis, crop, image9 = args
        albedo = jnp.clip(base + jnp.matmul(basis, texture, precision=HIGHEST), 0.0, 1.0)
        res = residuals(sample, albedo, light, x, shared, crop, image9, weights)
        own = jnp.eye(3, dtype=x.dtype)
        d_light = jnp.einsum("nc,nk,cd->nckd", res.gain, res.d_light, own).reshape(-1, 3, 27)
        J = res.d_x.reshape(-1, n)
        free = ((base + jnp.matmul(basis, texture) > 0) & (base + jnp.matmul(basis, texture) < 1)).astype(x.dtype)
        G = jnp.concatenate([res.d_shared, basis * (res.d_albedo * free)[..., None], d_light], -1).reshape(
          J.shape[0], -1
        )
        r = res.r.reshape(-1)
        mul = lambda a, b: jnp.matmul(a.T, b, precision=HIGHEST)
        return res.cost, mul(J, r), mul(J, J), mul(J, G), mul(G, r), mul(G, G)

      cost, g, H, C, gs, Hs = jax.lax.map(one, (xs, samples, base, basis, crops, exposed))
      t = jnp.concatenate([jnp.ones(n_texture, xs.dtype), jnp.full(27, 1.0, xs.dtype) / LIGHT_SD**2])
      t = t.at[n_texture : n_texture + 3].set(1e-4)
      value = flat[m - n_texture - 27 :]
      prior_cost = jnp.sum(t * value**2)
      return ArrowNormal(
        cost=arrow.cost + jnp.sum(cost) + prior_cost,
        frame_gradient=arrow.frame_gradient + g,
        frame_matrix=arrow.frame_matrix + H,
        cross=arrow.cross.at[:, :, where].add(C),
        shared_gradient=arrow.shared_gradient.at[where].add(jnp.sum(gs, 0)).at[m - n_texture - 27 :].add(t * value),
        shared_matrix=arrow.shared_matrix.at[where[:, None], where[None]].add(jnp.sum(Hs, 0))
        + jnp.diag(jnp.concatenate([jnp.zeros(m - n_texture - 27, xs.dtype), t])),
      )

    solution = levenberg_marquardt_shared(normal, xs, pack(shared, appearance), max_steps=INNER_STEPS)
    shared, texture, light = unpack(solution.shared, n_shape, n_texture)
    xs = solution.frames
    appearance = appearance.replace(texture=texture, light=light)
    appearance = appearance.replace(layer=estimate_layer(surface, shared, appearance, xs, crops, gains, weights))
    excess = mean_square(surface.vertices.shapedirs, shared.shape) / PLAUSIBLE_SHAPE**2
    change = jnp.where(step < APPEARANCE_STEPS, 1.0, jnp.clip(1.0 / jnp.maximum(excess, 1e-6), 0.5, 2.0))
    pixels = jnp.clip(pixels * change, FEWEST_PIXELS, weights.photo_pixels)
    focal_sd = bundle.focal_deviation(solution.shared_information, n_shape)
    state = (shared, appearance, xs, pixels)
    return state, (state, solution.cost, focal_sd)

  # Every step looks at other pixels, so the steps end in a cloud round the solution, whose middle is nearer to it.
  _, (states, costs, focal_sd) = jax.lax.scan(outer, (shared, appearance, xs, pixels), jnp.arange(outer_steps))
  last = jax.tree.map(lambda a: jnp.mean(a[-max(int(AVERAGED * outer_steps), 1) :], axis=0), states)
  return *last, costs, focal_sd[-1]


def mean_square(shapedirs: Array, shape: Array) -> Array:
  """Mean square () of an identity code (S,) over the components (V, 3, S) that move the head visibly."""
  moved = jnp.mean(jnp.sum(shapedirs**2, axis=1), axis=0)  # (S,) m^2
  seen = (moved >= SEEN_COMPONENT**2).astype(shape.dtype)
  return jnp.sum(seen * shape**2) / jnp.maximum(jnp.sum(seen), 1.0)


def pad_shared(arrow: ArrowNormal, k: int) -> ArrowNormal:
  """Room for k more shared unknowns."""
  return arrow.replace(
    cross=jnp.pad(arrow.cross, ((0, 0), (0, 0), (0, k))),
    shared_gradient=jnp.pad(arrow.shared_gradient, (0, k)),
    shared_matrix=jnp.pad(arrow.shared_matrix, ((0, k), (0, k))),
  )


def estimate_layer(surface: Surface, shared: Shared, appearance: Appearance, xs: Array, crops: Crop, gains: Array,
                   weights: Weights) -> Array:  # fmt: skip
  """The free albedo layer (LAYER_SIZE, LAYER_SIZE, 3) that best explains the keyframes, everything else fixed.

  Per texel the ridge solution of (albedo + layer + 1) * shading - 1 = image over all pixels that show it, with the
  robust weights of the current fit.
  """
  base = surface.texture_mean + jnp.matmul(surface.texture_basis, appearance.texture, precision=HIGHEST)

  def one(args):
    x, crop, gain = args
    X, _, fragments = see(surface, x, shared, crop)
    normals = flame.vertex_normals(X, surface.faces)
    n = shade.interpolate_corners(normals[surface.faces], fragments)
    n = n / jnp.maximum(jnp.linalg.norm(n, axis=-1, keepdims=True), 1e-6)
    uv = shade.interpolate_corners(surface.uv, fragments)
    S = shade.shading(appearance.light, to_world(n))
    albedo = shade.sample_texture(base, uv)
    hit = fragments.pix_to_face >= 0
    face = jnp.maximum(fragments.pix_to_face, 0)
    wanted = (crop.rgb / gain + 1.0) / jnp.maximum(S, 0.1) - 1.0 - albedo  # what the layer would have to be
    cosine = -n[..., 2]
    usable = hit & surface.used[face] & (crop.inside > 0)
    w = jnp.where(usable, jnp.clip((cosine - MIN_COSINE) / 0.3, 0.0, 1.0), 0.0)
    current = shade.sample_texture(jax.image.resize(appearance.layer, base.shape, "linear"), uv)
    error = jnp.sqrt(jnp.mean(((wanted - current) * S) ** 2, -1)) / weights.sd_color
    w = w / jnp.maximum(error, 1.0)
    cell = jnp.clip((jnp.stack([1.0 - uv[..., 1], uv[..., 0]], -1) * LAYER_SIZE).astype(jnp.int32), 0, LAYER_SIZE - 1)
    index = jnp.where(w > 0, cell[..., 0] * LAYER_SIZE + cell[..., 1], LAYER_SIZE**2).reshape(-1)
    values = jnp.concatenate([wanted * w[..., None], w[..., None]], -1).reshape(-1, 4)
    return jnp.zeros((LAYER_SIZE**2, 4), x.dtype).at[index].add(values, mode="drop")

  total = jnp.sum(jax.lax.map(one, (xs, crops, gains)), 0)
  ridge = (weights.sd_color / weights.sd_layer) ** 2
  layer = (total[:, :3] / (total[:, 3:] + ridge)).reshape(LAYER_SIZE, LAYER_SIZE, 3)
  return jnp.clip(layer, -0.5, 0.5)
