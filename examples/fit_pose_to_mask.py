"""Fits the pose of a mesh to a mask by gradient descent: the gradient comes through the antialiased outline alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vht_jax.cameras import make_camera
from vht_jax.head.load import load_head
from vht_jax.render.edges import edge_table
from vht_jax.render.picture import render_mesh
from vht_jax.rotation import axis_angle_to_matrix

model, camera, size = load_head(model="open"), make_camera(2.0), (96, 96)
edges = edge_table(np.asarray(model.faces))


def silhouette(pose, vertices, faces, edges):
  """Coverage (H, W) of the head turned by pose[:3] (axis-angle, rad) and moved to pose[3:] (m)."""
  turned = vertices @ axis_angle_to_matrix(pose[:3]).T + pose[None, 3:]
  return render_mesh(turned, faces, camera, size, backend="edge", edges=edges).alpha


@jax.jit
def fit(pose, mask, vertices, faces, edges):
  optimiser = optax.adam(optax.cosine_decay_schedule(0.02, 150))

  def step(carry, _):
    pose, state = carry
    loss, gradient = jax.value_and_grad(lambda p: jnp.mean((silhouette(p, vertices, faces, edges) - mask) ** 2))(pose)
    update, state = optimiser.update(gradient, state)
    return (pose + update, state), loss

  (pose, _), losses = jax.lax.scan(step, (pose, optimiser.init(pose)), None, length=150)
  return pose, losses


if __name__ == "__main__":
  truth, start = jnp.array([0.1, 2.8, 0.1, 0.01, 0.02, 0.9]), jnp.array([0.0, 3.1, 0.0, 0.03, -0.02, 1.0])
  mask = jax.jit(silhouette)(truth, model.v_template, model.faces, edges)
  pose, losses = fit(start, mask, model.v_template, model.faces, edges)
  print(f"loss {losses[0]:.4f} -> {losses[-1]:.6f}")
  print("off by", np.round(np.asarray(pose - truth)[:3] * 180 / np.pi, 2), "degrees (start:", end=" ")
  print(np.round(np.asarray(start - truth)[:3] * 180 / np.pi, 1), ") and", np.round(1e3 * (pose - truth)[3:], 1), "mm")
