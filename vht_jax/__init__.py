"""vht_jax: a differentiable FLAME head tracker in JAX."""
