"""Formats of programs that evaluate FLAME themselves: they take FLAME's codes, of their own version."""

from vht_jax.results.export.format import Format, Option

FORMATS: tuple[Format, ...] = ()
OPTIONS: tuple[Option, ...] = ()
