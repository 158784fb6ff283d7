"""`python -m vht_jax`."""

from vht_jax.main import cli

if __name__ == "__main__":
  cli()
