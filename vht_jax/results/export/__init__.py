"""Results in the formats of other programs, one file per format."""

from vht_jax.results.export.glb import to_glb

__all__ = ["to_glb"]
