"""`vht_jax.head.flame` under its former name, for programs that were written before it moved."""

import sys

from vht_jax.head import flame

sys.modules[__name__] = flame
