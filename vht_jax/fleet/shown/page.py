"""fleet.html: the table in one file for any browser, which loads itself anew while the fleet is at work."""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import quote

from vht_jax.fleet.shown.table import spoken

FILE = "fleet.html"
REFRESH = 10  # s
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }
body { color: #222; background: #fff }
h1 { font-size: 1.3em } p { margin: .3em 0 } table { border-collapse: collapse; width: 100%; margin-top: 1em }
th, td { text-align: left; padding: .25em .7em .25em 0; border-bottom: 1px solid #ddd; vertical-align: top }
th { font-weight: 600 } td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { height: .6em; background: #ddd; display: flex } .bar i { display: block; height: 100% }
.done { color: #17722c } .failed { color: #b3261e } .running { color: #8a5a00 } .waiting { color: #666 }
.bar .done { background: #2f9e4f } .bar .failed { background: #d1453b } .bar .running { background: #e0a526 }
code { font-size: .9em; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } th, td { border-color: #444 } .bar { background: #444 } a { color: #8ab4f8 }
  .done { color: #6ccf85 } .failed { color: #ff8a80 } .running { color: #f1c76a } .waiting { color: #aaa }
}
"""


def page(content: dict[str, Any]) -> str:
  """The page of what `Table.content` says."""
  e = html.escape
  counts, total = content["counts"], max(len(content["clips"]), 1)
  bar = "".join(
    f'<i class="{s}" style="width:{100 * counts[s] / total:.2f}%"></i>' for s in ("done", "failed", "running")
  )
  left = "" if content["seconds_left"] is None else f", about {spoken(content['seconds_left'])} left"
  refresh = "" if content["finished"] else f'<meta http-equiv="refresh" content="{REFRESH}">'
  rows = "\n".join(_row(row) for row in content["clips"])
  said = ", ".join(f'<span class="{s}">{n} {s}</span>' for s, n in counts.items() if n)
  return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{refresh}<meta name="viewport" content="width=device-width">
<title>{counts["done"] + counts["failed"]} of {len(content["clips"])} clips</title><style>{_STYLE}</style></head><body>
<h1>{len(content["clips"])} clips</h1><div class="bar">{bar}</div>
<p>{said}{e(left)}; {content["workers"]} at once</p>
<p>{content["tracked"]} of {content["frames"]} frames tracked; {spoken(content["worker_seconds"])} of workers;
{content["seconds_per_clip"]:.1f} s a clip and {content["seconds_per_frame"]:.3f} s a frame
({e(content["seconds_from"])}); largest process {content["peak_mb"]:.0f} MB</p>
<p>begun {e(content["begun"])}, this page {e(content["updated"])};
<code>{e(content["settings"]) or "default settings"}</code></p>
<table><thead><tr><th>clip</th><th></th><th>frames</th><th>tracked</th><th>s</th><th></th></tr></thead><tbody>
{rows}
</tbody></table></body></html>
"""


def _row(row: dict[str, Any]) -> str:
  e = html.escape
  name = e(row["name"])
  if row["report"]:
    name = f'<a href="{quote(row["report"])}">{name}</a>'
  notes = [row["error"] or (f"{row['stage']} done" if row["stage"] and row["state"] == "running" else "")]
  notes += [row["note"]]
  notes += [f"{row['deaths']} workers died"] if row["deaths"] else []
  notes += [f"batches of {row['batch_size']} for want of memory"] if row["batch_size"] else []
  cells = (
    row["frames"] or "",
    row["tracked"] if row["state"] == "done" else "",
    f"{row['seconds']:.1f}" if row["seconds"] else "",
  )
  numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
  return (
    f'<tr><td title="{e(row["source"])}">{name}</td><td class="{row["state"]}">{row["state"]}</td>{numbers}'
    f"<td>{e('; '.join(n for n in notes if n))}</td></tr>"
  )
