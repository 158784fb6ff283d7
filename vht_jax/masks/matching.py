"""Which of the user's mattes is which frame's."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from vht_jax.errors import InputError

log = logging.getLogger("vht_jax")


def matched(
  mattes: Sequence[str], sources: Sequence[str], frame_ids: Sequence[int], path: str
) -> tuple[list[int], str]:
  """Which matte is each frame's, and by what: "name", "number" or "order".

  1. By name without the ending, if the frames were images: `b7.png` is that of `b7.jpg`, and so is `b7_alpha.png` if
     the others are called so as well.
  2. By number: the frames' own (`IMG_7.jpg`, `matte_0007.png`); else mattes that count from 0 or from 1 are counted as
     the frames of the video, the images of the folder, or the dataset's folders are.
  3. As many mattes as frames whose names are no sequence at all are taken in their order, which is told.

  Names or numbers that some of the frames have and others have not are an error rather than a reason to go on.

  Args:
    mattes: their file names in natural order, or name#index of a video's frames.
    sources: likewise, of the frames.
    frame_ids: of the frames, from 1.
    path: for messages.

  Raises:
    InputError: a frame has none.
  """
  images = not any("#" in name for name in sources)
  wanted = [_stem(name) for name in sources]
  stems = {_stem(name): k for k, name in enumerate(mattes) if "#" not in name}
  if images and len(stems) == len(mattes) and len(set(wanted)) == len(wanted):
    rows = _by_name(stems, wanted)
    if rows is not None:
      return rows, "name"
    _refuse_some([w in stems for w in wanted], wanted, path)
  numbers = _numbers(mattes)
  if numbers is not None:
    position = {number: k for k, number in enumerate(numbers)}
    own = _numbers(sources) if images else None
    if own is not None:
      if all(n in position for n in own):
        return [position[n] for n in own], "number"
      _refuse_some([n in position for n in own], wanted, path)
    index = [int(i) - 1 for i in frame_ids] if images else [int(name.rpartition("#")[2]) for name in sources]
    first = min(numbers)
    if first in (0, 1) and all(i + first in position for i in index):
      return [position[i + first] for i in index], "number"
  elif len(mattes) == len(sources):
    log.warning(
      "masks: %s: no matte is named or numbered as the frames are: taken in their order, %s for %s to %s for %s",
      path, mattes[0], sources[0], mattes[-1], sources[-1],
    )  # fmt: skip
    return list(range(len(mattes))), "order"
  example = wanted[0] if images else ("0000" if numbers is None or min(numbers) == 0 else "0001")
  raise InputError(
    f"{path}: expected a matte for each of {len(sources)} frames, named as the frames are or numbered from 0 or 1 (the "
    f"first: {example}.png); found {len(mattes)}, the first {mattes[0]}"
  )


def _by_name(stems: dict[str, int], wanted: list[str]) -> list[int] | None:
  """Positions of the mattes whose stems are the wanted ones, with the same words before and behind; None: none.

  Several such pairs of words, of which none is empty, are no answer.
  """
  if all(w in stems for w in wanted):
    return [stems[w] for w in wanted]
  first = wanted[0]
  places = ((stem, k) for stem in stems for k in range(len(stem)) if stem.startswith(first, k))
  around = {(stem[:k], stem[k + len(first) :]) for stem, k in places}
  splits = lambda before, after: (
    before[-1:].isdigit() and first[:1].isdigit() or after[:1].isdigit() and first[-1:].isdigit()
  )
  fitting = [(b, a) for b, a in around if not splits(b, a) and all(b + w + a in stems for w in wanted)]
  return [stems[fitting[0][0] + w + fitting[0][1]] for w in wanted] if len(fitting) == 1 else None


def _refuse_some(found: list[bool], wanted: list[str], path: str) -> None:
  """Refuses mattes of some frames only (`InputError`)."""
  if any(found):
    missing = wanted[found.index(False)]
    raise InputError(
      f"{path}: expected a matte for each of {len(found)} frames, named as they are; found {sum(found)} such, and none "
      f"for {missing}: add {missing}.png"
    )


def _stem(name: str) -> str:
  """The name of an image without its ending; of a dataset's image that of its folder."""
  return Path(name).parent.name or Path(name).stem


def _numbers(names: Sequence[str]) -> list[int] | None:
  """The last number of each name, if that is all in which they differ."""
  parts = [re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", name if "#" in name else _stem(name)) for name in names]
  found = [(m.group(1), m.group(3), int(m.group(2))) for m in parts if m is not None]
  if len(found) < len(names) or len({f[:2] for f in found}) > 1 or len({f[2] for f in found}) < len(names):
    return None
  return [f[2] for f in found]
