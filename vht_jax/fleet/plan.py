"""What a fleet is to do: which clips a command line names, and where the results of each go."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
from pathlib import Path

from vht_jax.app.options.several import names
from vht_jax.errors import InputError
from vht_jax.fleet import storage

# Whatever FFmpeg decodes is tracked; in a folder these names are taken for clips.
VIDEOS = (
  ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv", ".flv", ".mpg", ".mpeg", ".ts", ".mts", ".mxf", ".ogv",
  ".3gp",
)  # fmt: skip
LISTS = (".txt", ".csv", ".tsv")
_CLIP, _NAME, _PERSON = "clip", "name", "person"  # columns of a table; every other one is a flag


@dataclasses.dataclass(frozen=True)
class Clip:
  """An input, and what is special about it."""

  source: str  # a video, a folder of images or an image: a path, or a URL
  name: str = ""  # of the folder of its results
  flags: tuple[str, ...] = ()  # of vht-track, beside those of all clips
  person: str = ""  # whom it shows; clips of one person get one shape


def find_clips(arguments: list[str], by_folder: bool = False) -> list[Clip]:
  """The clips that lists, folders, patterns and files name, each once, with names for their folders.

  Args:
    by_folder: clips in one folder show one person, unless a list says whom they show.

  Raises:
    InputError: nothing there, or a list that cannot be read.
  """
  found: list[Clip] = []
  for argument in arguments:
    if Path(storage.path_of(argument)).suffix.lower() in LISTS and not storage.is_folder(argument):
      found += in_list(argument)
    elif storage.exists(argument):
      found += in_folder(argument) if storage.is_folder(argument) else [Clip(argument)]
    elif glob.has_magic(argument):
      matches = [Clip(place) for place in storage.matching(argument)]
      if not matches:
        raise InputError(f"{argument}: nothing matches")
      found += matches
    else:  # one that is not there is a line of the table, as in a list
      found.append(Clip(argument))
  if not found:
    raise InputError("no clips: name a list (.txt, .csv), a folder, a pattern or videos (see --help)")
  clips = named(list(dict.fromkeys(found)))
  return with_people(clips) if by_folder else clips


def in_folder(place: str) -> list[Clip]:
  """Its videos, and its folders that hold images; one that holds images and nothing of that kind is a clip itself.

  Raises:
    InputError: neither.
  """
  inside = storage.entries(place)
  videos = [e.place for e in inside if not e.is_folder and suffix(e.name) in VIDEOS]
  folders = [e.place for e in inside if e.is_folder and _has_images(storage.entries(e.place))]
  if videos or folders:
    return [Clip(p) for p in sorted(videos + folders)]
  if _has_images(inside):
    return [Clip(place)]
  raise InputError(f"{place}: no videos in this folder, and no folders of images; name the files, or give a list")


def in_list(place: str) -> list[Clip]:
  """The clips of a list: a path or URL a line; or a table with a column `clip`, others being flags of vht-track.

  Paths are relative to the list. Empty lines and those that start with # do not count.

  Raises:
    InputError: it cannot be read, has no column `clip`, or none in a row.
  """
  try:
    text = storage.read(place).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise InputError(f"{place}: expected a list as text in UTF-8 ({error.reason})") from None
  lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
  base = "" if storage.is_url(place) else str(Path(place).parent)
  at = lambda path: path if storage.is_url(path) or not base else str(Path(base) / path)
  if suffix(place) == ".txt":
    return [Clip(at(line.strip())) for line in lines]
  rows = csv.DictReader(io.StringIO("\n".join(lines)), delimiter="\t" if suffix(place) == ".tsv" else ",")
  columns = rows.fieldnames or []
  if _CLIP not in columns:
    raise InputError(f"{place}: expected a column '{_CLIP}'; found {', '.join(columns) or 'nothing'}")
  clips = []
  for number, row in enumerate(rows, start=1):
    if not row[_CLIP] or None in row:
      raise InputError(f"{place}: row {number}: expected {len(columns)} cells, with one for '{_CLIP}'")
    given = [(key, (row[key] or "").strip()) for key in columns if key not in (_CLIP, _NAME, _PERSON)]
    flags = tuple(f"--{key}={value}" for key, value in given if value)
    name, person = ((row.get(key) or "").strip() for key in (_NAME, _PERSON))
    for text in (name, person):
      if text in (".", "..") or "/" in text or "\\" in text:
        raise InputError(f"{place}: row {number}: '{text}' cannot be a folder's name")
    clips.append(Clip(at(row[_CLIP].strip()), name, flags, person))
  return clips


def named(clips: list[Clip]) -> list[Clip]:
  """Clips with a name each: those of the list, or `several.names`, as a run of vht-track with all of them would have.

  Raises:
    InputError: two of the list have the same.
  """
  places = [storage.path_of(clip.source) for clip in clips]
  found = names(
    places, lambda path: path.is_file() or (suffix(path.name) in VIDEOS + _image_suffixes() and not path.is_dir())
  )
  taken: dict[str, Clip] = {}
  out = []
  for clip, name in zip(clips, found):
    name = clip.name or name
    if not clip.name:
      while name in taken:
        name += "_"
    if name in taken:
      raise InputError(f"two clips are called {name}: {taken[name].source} and {clip.source}")
    taken[name] = clip
    out.append(dataclasses.replace(clip, name=name))
  return out


def with_people(clips: list[Clip]) -> list[Clip]:
  """Clips that do not say whom they show, with their folder's name for that; of another folder a longer one."""
  folders = {clip.name: str(Path(storage.path_of(clip.source)).absolute().parent) for clip in clips}
  people = {clip.person: "" for clip in clips if clip.person}
  out = []
  for clip in clips:
    folder = folders[clip.name]
    person = clip.person or Path(folder).name or "person"
    while not clip.person and people.setdefault(person, folder) != folder:
      person += "_"
    out.append(dataclasses.replace(clip, person=person))
  return out


def suffix(name: str) -> str:
  """In lower case, with the dot."""
  return Path(name).suffix.lower()


def _has_images(inside: list[storage.Entry]) -> bool:
  return any(not e.is_folder and suffix(e.name) in _image_suffixes() for e in inside)


def _image_suffixes() -> tuple[str, ...]:
  from vht_jax.video.images import IMAGE_SUFFIXES  # here, so that workers, who need the type alone, load no decoders

  return IMAGE_SUFFIXES
