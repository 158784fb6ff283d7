"""The texture that all frames of a tracked clip show."""

from vht_jax.results.texture import grown
from vht_jax.results.texture.bake import baked, n_looks

__all__ = ["baked", "grown", "n_looks"]
