"""Strict promotion for every test, and the data that tests share."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
  """Measured reference data beside the checkout; never part of the repository."""
  path = REPO.parent / "shared" / "data"
  if not path.is_dir():
    pytest.skip(f"reference data not present ({path})")
  return path


@pytest.fixture(scope="session")
def open_head():
  """The embedded head as a FlameModel."""
  from vht_jax.assets import load_head

  return load_head(model="open")
