"""`vht_jax.head.load` under its former name, for programs that were written before it moved."""

import sys

from vht_jax.head import load

sys.modules[__name__] = load
