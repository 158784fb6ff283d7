"""The settings as people read them: --help, and docs/settings.md.

`python -m vht_jax.app.options.manual` (`make configs`) writes docs/settings.md and configs/default.ini anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from vht_jax.app.options.app_config import ALL
from vht_jax.app.options.ini import packaged, spelled
from vht_jax.app.options.settings import make_settings, write_ini
from vht_jax.config import Weights
from vht_jax.option import Option, title

_USAGE = """vht-track: tracks a FLAME head in a video.

  vht-track clip.mp4                                  into out/clip/
  vht-track a.mp4 b.mp4 'more/*.mp4' -o results       into results/a/, results/b/, ...
  vht-track --config=vht --video=clip.mp4 --output_path=results

Each flag is also a key of the .ini file given by --config; flags win. Lists: --keyframes=1,2,3. A flag that the
chosen method does not read is refused; in an .ini file it is not. A ~ in a path is the home folder."""

_PAGE = """# Settings

Each key is a flag of `vht-track` (`--key=value`; switches `--key`, `--nokey`) and a key of the .ini file that
`--config` names; sections there do not matter. In Python `vht.TrackConfig.of(key=value)` takes those of the tracker,
whose sections are its attributes, and `vht.Weights(key=value)` the weights, which are traced: other values do not
recompile. A key of a method that is not chosen is refused on the command line. Numbers are never negative.

*Written by `make configs` from what the fields in `vht_jax/config.py` and `app/options/app_config.py` say.*
"""


def sections() -> Iterator[tuple[str, list[Option]]]:
  """All settings under their headings, in order; weights by the method that reads them."""
  found: dict[str, list[Option]] = {}
  for option in ALL.values():
    heading = title(option.owner)
    if option.owner is Weights:
      heading = f"{heading}: {title(option.method)}"
    found.setdefault(heading, []).append(option)
  yield from found.items()


def usage(full: bool = False) -> str:
  """The text of --help: the usual flags; that of --helpfull: all."""
  lines = [_USAGE]
  for heading, group in sections():
    shown = [option for option in group if full or option.facts.usual]
    lines += ["", f"{heading}:"] if shown else []
    for option in shown:
      name = f"[no]{option.key}" if option.kind is bool else option.key
      if option.facts.short:
        name += f", -{option.facts.short}"
      default = "" if option.default in (None, ()) else f" [{spelled(option.default)}]"
      lines.append(f"  --{name:<27s} {option.text}{default}")
  if not full:
    lines += ["", "--helpfull lists all flags."]
  return "\n".join(lines)


def allowed(option: Option) -> str:
  """What a setting may be, in a word or two."""
  facts, kind = option.facts, option.plain_kind
  if facts.choices:
    return ", ".join(facts.choices)
  if kind is bool:
    return "true, false"
  if kind is str:
    return "path" if facts.path else "text"
  whole = kind is int or (option.many and "int" in str(kind))
  what = ("whole numbers" if whole else "numbers") if option.many else ("whole number" if whole else "number")
  bounds = ["above 0"] if facts.positive else [f"from {facts.at_least:g}"] if facts.at_least else []
  bounds += [f"to {facts.at_most:g}"] if facts.at_most < math.inf else []
  return " ".join([what, *bounds])


def page() -> str:
  """The text of docs/settings.md."""
  lines = [_PAGE]
  for heading, group in sections():
    sourced = any(option.facts.source for option in group)
    if group[0].owner is not Weights and group[0].owner.__module__ == Weights.__module__:
      heading = f"{heading}: `{'.'.join(('TrackConfig', *group[0].within))}`"
    lines += [f"## {heading}", "", "| key | default | values | meaning |" + (" source |" if sourced else "")]
    lines.append("|---|---|---|---|" + ("---|" if sourced else ""))
    for option in group:
      short = f", `-{option.facts.short}`" if option.facts.short else ""
      default = "" if option.default in (None, ()) else f"`{spelled(option.default)}`"
      values = f"{allowed(option)}, {option.facts.unit}" if option.facts.unit else allowed(option)
      cells = [f"`{option.key}`{short}", default, values, option.facts.help]
      cells += [option.facts.source] if sourced else []
      lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines.append("")
  return "\n".join(lines)


def main() -> None:
  """Writes the files that are made from the settings, in a checkout."""
  (packaged("docs") / "settings.md").write_text(page(), encoding="utf-8")
  write_ini(Path(packaged("configs")) / "default.ini", make_settings({}))


if __name__ == "__main__":
  main()
