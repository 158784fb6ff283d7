"""How far a person's head is outside of what its codes say: hair, ears, the neck."""

from vht_jax.results.offsets.estimate import estimated
from vht_jax.results.offsets.views import chosen_frames, mattes_of

__all__ = ["chosen_frames", "estimated", "mattes_of"]
