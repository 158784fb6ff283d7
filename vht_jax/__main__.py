"""`python -m vht_jax`."""

from vht_jax.app.cli import cli

if __name__ == "__main__":
  cli()
