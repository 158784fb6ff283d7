"""The server of `vht-view`: opens the results and shows them until it is interrupted."""

from __future__ import annotations

import contextlib
import io
import time

import viser

from vht_jax.app.result.source import Source, open_result
from vht_jax.errors import InputError
from vht_jax.host.device import start_jax
from vht_jax.viewer.cli import Options
from vht_jax.viewer.panel import Panel
from vht_jax.viewer.viewer import Viewer


def run(options: Options) -> None:
  """Opens the results and serves the page until it is interrupted.

  Raises:
    InputError: anything the user can cause.
  """
  start_jax()
  folders = (options.data_path, options.data_path2)
  sources = [open_result(r, d, options.assets, options.model) for r, d in zip(options.results, folders)]
  server, viewer, _ = serve(sources, options.host, options.port)
  try:
    thread = viewer.start()
    print(greeting(sources, options.host, server.get_port()), flush=True)
    while thread.is_alive():
      time.sleep(0.2)
  finally:
    viewer.stop()
    with contextlib.redirect_stdout(io.StringIO()):  # viser says farewell
      server.stop()


def serve(sources: list[Source], host: str, port: int) -> tuple[viser.ViserServer, Viewer, Panel]:
  """A server with the results in it, their `Viewer`, which is not started yet, and its `Panel`."""
  with contextlib.redirect_stdout(io.StringIO()):  # viser has its own greeting
    try:
      server = viser.ViserServer(host=host, port=port, verbose=False)
    except OSError as error:
      raise InputError(f"--host={host} --port={port}: cannot be served ({error.strerror or error})") from None
  server.scene.set_up_direction("+y")
  server.scene.world_axes.visible = False
  server.scene.configure_default_lights(cast_shadow=False)
  viewer = Viewer(server, sources)
  return server, viewer, Panel(server, viewer)


def greeting(sources: list[Source], host: str, port: int) -> str:
  """What is opened and where to look."""
  lines = [f"{s.name}: {len(s.tracked.frames)} frames, {s.head.name}" for s in sources]
  lines += [f"  note: {note}" for s in sources for note in s.notes]
  shown = "localhost" if host in ("0.0.0.0", "127.0.0.1", "::") else host
  lines.append(f"open http://{shown}:{port} in a browser; Ctrl-C ends")
  lines.append(f"on another machine first: ssh -L {port}:localhost:{port} USER@THIS_HOST")
  return "\n".join(lines)
