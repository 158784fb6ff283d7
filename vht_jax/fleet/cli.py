"""`vht-fleet LIST|FOLDER|PATTERN ... --output_path=PLACE`: vht-track over many clips, on many processors."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from vht_jax.errors import InputError, run_program

USAGE = """\
vht-fleet: tracks many clips at once, on this machine or on a cluster of Ray (docs/fleet.md).

  vht-fleet clips/ --output_path=out                           the videos of a folder, each into out/NAME/
  vht-fleet clips.txt 'more/*.mp4' --output_path=out -n 200    a list, a pattern; other flags are vht-track's
  vht-fleet s3://in/clips --output_path=s3://out/heads --address=auto

  LIST                   .txt: a path or URL a line; .csv, .tsv: a column 'clip', perhaps 'name', and flags of vht-track
  --output_path, -o      a folder, or a URL of fsspec; fleet.html and fleet.json there show how far all is
  --address=HOST:PORT    join this cluster of Ray ('auto': the one of this machine); without it one is started here
  --cpus=N               processors of a clip [2, or those that there are]; so many clips at once as there is room for
  --gpus=N               GPUs of a clip where there are any, 0.5 for two clips on each [1]
  --detect=apart         frames and landmarks as work of their own, on processors alone; together: with the rest
                         [apart where there are GPUs]
  --person=folder        clips in one folder show one person: they get one shape, from all of them (in a list: a column
                         'person')
  --pin                  every clip has its --cpus processors for itself, and the same results on any machine
  --scratch=FOLDER       where files are that have to be here for a while [in the user's cache folder]
  --nodatasets           delete the frames of a clip when it is done
  --dry_run              say what would be done, and about how long it would take
  --quiet, -q            print errors only
  --debug                show the traceback of an error

The same command goes on where the last one ended: clips that are done are left alone, others go on, and those that
failed are tried again. Exit code 0; 2 if a clip or a flag is bad; 1 for anything else."""

# Flags of ours with their defaults; those of `vht-track` that are the fleet's to give.
_VALUES = {"output_path": "", "address": "", "cpus": "", "gpus": "", "detect": "", "scratch": "", "person": ""}
_SWITCHES = {"pin": False, "datasets": True, "dry_run": False, "quiet": False, "debug": False}
_SHORT = {"o": "output_path", "q": "quiet"}
_REFUSED = {
  "video": "name the clips without a flag",
  "data_path": "it is one clip's; each has its dataset in its own folder",
  "restart": "it is one clip's: vht-track CLIP --restart; to begin anew with all, choose another --output_path",
  "json": "fleet.json has it all",
}
_APART = ("apart", "together")
ASKED = 1000  # clips that are asked for their length while the others are tracked; the rest count as these do
CPUS = 2.0  # a run keeps 1.9 cores busy (docs/benchmarks.md: 105 CPU seconds in 56 s)


def cli() -> None:
  """Entry point of `vht-fleet`."""
  sys.exit(main(sys.argv[1:]))


def main(argv: list[str], **orders: Any) -> int:
  """Runs the fleet; returns the exit code.

  Args:
    argv: flags and clips.
    orders: fields of `drive.Orders` that no flag sets, in tests.
  """
  hint = "; the same command goes on from here"
  return run_program("vht-fleet", argv, lambda: USAGE, lambda: run(argv, orders), hint)


def run(argv: list[str], more: dict[str, Any]) -> int:
  """`main` with errors raised."""
  # late: --help is answered, and a wrong flag refused, before all this is loaded
  from vht_jax.app.options.settings import parse_all
  from vht_jax.fleet import drive, dry, storage
  from vht_jax.fleet.person.people import People
  from vht_jax.fleet.plan import find_clips
  from vht_jax.fleet.pool import RayPool
  from vht_jax.fleet.shown.console import Console
  from vht_jax.fleet.shown.table import Table, read
  from vht_jax.host.files import expanded

  own, flags, arguments = split(argv)
  output = own["output_path"]
  if not output:
    raise InputError("expected --output_path=FOLDER (or a URL) for the results (see --help)")
  output = output if storage.is_url(output) else os.path.abspath(expanded(output))
  drive.check_output(output)
  settings = parse_all(flags)[0]
  clips = find_clips(arguments, by_folder=own["person"] == "folder")
  for given in {clip.flags for clip in clips if clip.flags}:
    split(list(given))
    parse_all([*flags, *given])
  limit = lambda clip: parse_all([*flags, *clip.flags])[0].app.input.max_frames
  digest = lambda clip: hashlib.blake2b("\n".join([*flags, *clip.flags]).encode(), digest_size=6).hexdigest()
  table = Table(clips, " ".join(flags), read(output))
  scratch = scratch_folder(own["scratch"], output)
  cpus, gpus = amount("cpus", own["cpus"]), amount("gpus", own["gpus"])
  cores = os.cpu_count() or 1
  orders = drive.Orders(
    output, scratch, tuple(flags), cpus or min(CPUS, cores), pinned=own["pin"], keep_dataset=own["datasets"],
    environment=(("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")), *more.pop("environment", ())),  # Ray sets it
    **more,
  )  # fmt: skip
  people = People(clips, table, output)
  for clip in sum(people.groups.values(), []):
    check_company(clip, parse_all([*flags, *clip.flags])[0])
  left = people.begin(drive.take_over(table, clips, orders, digest))
  if own["dry_run"]:
    workers = max(int(cores // orders.cpus), 1)
    where = f"output    {output}\nsettings  {table.title or 'the defaults'}\nworkers   "
    where += f"those of the cluster at {own['address']}" if own["address"] else f"{workers} at once on this machine"
    if people.groups:
      twice = sum(map(len, people.groups.values()))
      where += f"\npeople    {len(people.groups)} in {twice} clips, which are tracked twice; the time below is for once"
    print(dry.dry_run(clips, left, table, workers, limit, where))
    return 0
  console = Console(table, own["quiet"])
  if left:
    with contextlib.ExitStack() as held:
      held.enter_context(alone(scratch, output))
      pool = RayPool(own["address"])
      held.callback(pool.close)
      gpus = (gpus or 1.0) if pool.gpus() else 0.0
      apart = own["detect"] == "apart" or (gpus > 0 and own["detect"] != "together")
      orders = dataclasses.replace(orders, gpus=gpus, apart=apart, batch_sizes=smaller_batches(settings, flags, gpus))
      asked = [clip for clip in left if not storage.is_url(clip.source)][:ASKED]
      threading.Thread(target=note_frames, args=(table, dry.frames_of(asked, limit)), daemon=True).start()
      drive.Fleet(left, orders, pool, table, console, people).run()
  code, text = drive.verdict(table)
  if code or not own["quiet"]:
    print(text if not code else f"vht-fleet: {text}", file=sys.stderr if code else sys.stdout)
  return code


def note_frames(table: Any, known: Iterable[tuple[Any, int, str]]) -> None:
  """Writes the frames of clips that have not begun into their rows, for the time that is left."""
  for clip, frames, _ in known:
    row = table.rows[clip.name]
    row.frames = row.frames or frames


def split(argv: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
  """The fleet's own flags with all their values, the flags for vht-track, and the clips.

  Raises:
    InputError: a flag that is neither's, or one of vht-track's that makes no sense here.
  """
  from vht_jax.app.options.settings import named_inputs  # late, as above

  own: dict[str, Any] = {**_VALUES, **_SWITCHES}
  rest: list[str] = []
  words = iter(argv)
  for word in words:
    dashed = word.startswith("-") and word.strip("-")
    name, has_value, value = word.lstrip("-").partition("=")
    name = _SHORT.get(name, name) if dashed else ""
    if name in _VALUES:
      own[name] = value if has_value else next(words, "")
      if not own[name] or own[name].startswith("--"):
        raise InputError(f"--{name}: expected a value")
    elif name in _SWITCHES and not has_value:
      own[name] = True
    elif name.removeprefix("no") in _SWITCHES and not has_value and name.startswith("no"):
      own[name.removeprefix("no")] = False
    elif name in _REFUSED:
      raise InputError(f"--{name}: not for a fleet; {_REFUSED[name]}")
    else:
      rest.append(word)
  if own["detect"] not in ("", *_APART):
    raise InputError(f"--detect: expected one of {', '.join(_APART)}; found {own['detect']!r}")
  if own["person"] not in ("", "folder"):
    raise InputError(f"--person: expected folder (or a column 'person' in a list); found {own['person']!r}")
  clips = named_inputs(rest)
  flags = list(rest)
  for clip in reversed(clips):  # from the end: what stands before them may be a flag's value of the same text
    del flags[len(flags) - 1 - flags[::-1].index(clip)]
  return own, flags, clips


def check_company(clip: Any, settings: Any) -> None:
  """Raises `InputError` for a clip that shares its person with others and whose flags leave no shape to share."""
  app = settings.app
  named = {
    "--face=all": app.input.face == "all", "--solver=adam": settings.track.by_adam,
    "--load_tracked_flame_params": bool(app.head.load_tracked_flame_params), "--shape_from": bool(app.head.shape_from),
  }  # fmt: skip
  for flag in (flag for flag, given in named.items() if given):
    raise InputError(f"{clip.name}: {flag} does not go with one shape for all clips of {clip.person}; leave one out")


def amount(name: str, text: str) -> float:
  """A number of processors or devices; 0 if it is not given.

  Raises:
    InputError: not a positive number.
  """
  try:
    found = float(text) if text else 0.0
    if text and not 0 < found < 1e6:
      raise ValueError
  except ValueError:
    raise InputError(f"--{name}: expected a positive number; found {text!r}") from None
  return found


def smaller_batches(settings: Any, flags: Sequence[str], gpus: float) -> tuple[int, ...]:
  """Halves of the batch size, with GPUs or without, and halves of these; none where the settings know no batches."""
  # late, as above
  from vht_jax.app.options.effects import value_of
  from vht_jax.app.options.settings import parse_all
  from vht_jax.tracking.run import BATCH, CPU_BATCH

  sizes = []
  size = (value_of(settings, "batch_size") or (BATCH if gpus else CPU_BATCH)) // 2
  with contextlib.suppress(InputError):
    parse_all([*flags, "--batch_size=1"])
    while size:
      sizes.append(size)
      size //= 2
  return tuple(sizes)


def scratch_folder(given: str, output: str) -> str:
  """The fleet's own folder for files that are here for a while; another one for each output.

  Raises:
    InputError: there is no place for it.
  """
  from vht_jax.host.files import cache_folder, expanded  # late, as above

  base = expanded(given) if given else cache_folder()
  if base is None:
    raise InputError("expected --scratch=FOLDER: there is no cache folder here")
  return os.path.join(os.path.abspath(base), "fleet", hashlib.blake2b(output.encode(), digest_size=8).hexdigest())


@contextlib.contextmanager
def alone(scratch: str, output: str):
  """Keeps a second fleet of this machine out of the same output.

  Raises:
    InputError: there is one.
  """
  from vht_jax.host.files import lock  # late, as above

  folder = Path(scratch)
  folder.mkdir(parents=True, exist_ok=True)
  with contextlib.ExitStack() as held:
    try:
      held.enter_context(lock(folder / ".fleet.lock"))
    except BlockingIOError:
      raise InputError(
        f"{output}: another fleet is at work here; wait for it or choose another --output_path"
      ) from None
    yield


if __name__ == "__main__":
  cli()
