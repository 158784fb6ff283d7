"""The demo (`vht-demo`, `make demo`): tracks the built-in clip, whose truth is known, or any video with --video."""

from __future__ import annotations

from vht_jax.app.cli import main
from vht_jax.app.options.settings import Settings, packaged
from vht_jax.errors import InputError
from vht_jax.option import having


def run(argv: list[str]) -> int:
  """The app with the demo's defaults; returns the exit code."""
  return main(argv, prepare)


def prepare(settings: Settings) -> Settings:
  """The settings for the built-in clip, unless they name another input.

  Raises:
    InputError: this installation has no clip.
  """
  app = settings.app
  if app.input.video or app.input.data_path:
    return settings
  clip, truth = packaged("assets/demo/demo.mp4"), packaged("assets/demo/truth.npz")
  if not clip.exists():
    raise InputError(f"{clip}: the demo clip is not part of this installation; name a video by --video=path")
  return settings._replace(
    app=having(
      app,
      video=str(clip),
      truth=app.output.truth or (str(truth) if truth.exists() else None),
      output_path=app.output.output_path or "out/demo",
      model="open",  # the truth is of the open head
    )
  )
