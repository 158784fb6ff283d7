"""`--dry_run`: what a fleet would do, and about how long it would take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vht_jax.fleet import storage
from vht_jax.fleet.lengths import lengths
from vht_jax.fleet.plan import Clip
from vht_jax.fleet.shown.table import PER_FRAME, START, Table, benchmark, scale, spoken


def dry_run(
  clips: Sequence[Clip], left: Sequence[Clip], table: Table, workers: int, limit: Callable[[Clip], int], text: str
) -> str:
  """The plan as lines.

  Args:
    clips, left: all, and those that an earlier call has not done.
    table: theirs.
    workers: clips at once.
    limit: frames of a clip at most; 0: no limit.
    text: lines that say where and how.
  """
  places = [clip for clip in left if not storage.is_url(clip.source)]
  broken, counted = [], []
  for _, frames, error in frames_of(places, limit):
    if error:
      broken.append(error)
    elif frames:
      counted.append(frames)
  away = len(left) - len(places)
  unknown = len(left) - len(broken) - len(counted)
  done = [(row["frames"], row["seconds"]) for row in table.earlier.values() if row.get("state") == "done"]
  factor, source = scale(done)
  typical = sum(counted) / len(counted) if counted else 0.0
  frames = sum(counted) + unknown * typical
  clips_left = len(left) - len(broken)
  hours = factor * (benchmark(frames) + START * (clips_left - 1)) / 3600 if clips_left else 0.0
  lines = [f"clips     {len(clips)}, of which {len(clips) - len(left)} are done", *text.splitlines()]
  lines.append(f"length    {sum(counted)} frames in {len(counted)} clips")
  if unknown:
    why = f"{away} are elsewhere and are not fetched for this" if away else "their files do not say"
    guess = f"taken as {typical:.0f} frames each" if counted else "nothing is known of them, the estimate is without"
    lines.append(f"          of {unknown} the length is not known ({why}); {guess}")
  lines += [f"broken    {error}" for error in broken]
  at_once = max(min(workers, len(left)), 1)
  lines.append(
    f"time      about {hours:.2f} hours of a worker, {spoken(3600 * hours / at_once)} with {at_once} at once: "
    f"{factor * START:.3g} s a clip and {factor * PER_FRAME:.3g} s a frame ({source})"
  )
  if not done:
    lines.append(
      "          other settings, machines and image sizes take other times; after the first clips the table says it"
    )
  return "\n".join(lines)


def frames_of(clips: Sequence[Clip], limit: Callable[[Clip], int]) -> Iterator[tuple[Clip, int, str]]:
  """Clips of this machine with their frames, at most `limit`, 0 if not known; and why one cannot be read."""
  for clip, (_, frames, _, error) in zip(clips, lengths([clip.source for clip in clips])):
    most = limit(clip)
    yield clip, min(frames, most) if most else frames, error
