"""How far a person's head is outside of what its codes say: hair, ears, the neck."""

from vht_jax.results.offsets.find import check_masks, n_views, with_offsets
from vht_jax.results.offsets.moving import with_moving_surface

__all__ = ["check_masks", "n_views", "with_moving_surface", "with_offsets"]
