"""The report as one HTML page that needs nothing else: tables, pictures and all figures in it; also PNGs and JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from rich.table import Table
from rich.text import Text

from rayraft.bench.aims import aims, summary
from rayraft.bench.pictures import Picture, pictures
from rayraft.bench.sections import Plan, Rivals
from rayraft.bench.suite import Report, heading, medians

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>rayraft bench $commit</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #24292f; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-top: 1px solid #d0d7de; padding-top: 1rem }
table { border-collapse: collapse; margin: .8rem 0; font-size: .88rem; display: block; overflow-x: auto }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eaeef2; white-space: nowrap }
th:first-child, td:first-child { text-align: left } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
.setting td { text-align: left; white-space: normal } img { max-width: 100% } figure { margin: 1rem 0 }
figcaption { color: #57606a; font-size: .88rem } pre { overflow-x: auto; background: #f6f8fa; padding: .8rem }
.bad { color: #cf222e; font-weight: 600 }
</style></head><body>
<h1>rayraft bench</h1>
$warning
$settings
<p>$repeats. Every section runs on a group of its own, next to its floors; lower and upper bounds are those of the
repeats. Writes are answered when a majority has synced them, unless the settings above say otherwise.</p>
$aims
$sections
<h2>All figures</h2>
$figures
<h2>Command lines</h2>
<pre>$commands</pre>
<h2>Settings</h2>
<pre>$plan</pre>
<script type="application/json" id="report">$json</script>
</body></html>
""")


def write_report(report: Report, directory: Path) -> Path:
    """``report.html``, ``report.json`` and a PNG for each picture; the page's path."""
    report.write_json(directory / "report.json")  # first: it has all that was measured, and hardly can fail
    drawn = list(pictures(report))
    for picture in drawn:
        (directory / f"{picture.name}.png").write_bytes(picture.png)
    page = directory / "report.html"
    page.write_text(_page(report, drawn))
    return page


def _page(report: Report, drawn: list[Picture]) -> str:
    count = len(report.repeats)
    commands = [report.surroundings["command"]]
    for section in report.sections.values():
        if isinstance(section, Rivals):
            commands += section.commands
    settings = [*heading(report), *(line for line in _versions(report))]
    return PAGE.substitute(
        commit=escape(str(report.surroundings["commit"])),
        warning=f'<p class="bad">{_warning(report)}</p>' if _warning(report) else "",
        settings=_rows(settings),
        repeats=f"{count} repeats; the tables are of the last, the medians below of all" if count > 1 else "One repeat",
        sections="\n".join(_section(report, name, drawn) for name in report.sections),
        aims=_aims(report),
        figures=table_html(medians(report)),
        commands=escape("\n".join(commands)),
        plan=escape(json.dumps(report.settings, indent=2, default=str)),
        json=json.dumps(report.as_json(), default=str).replace("</", "<\\/"),
    )


def _aims(report: Report) -> str:
    """Those that this run says something about."""
    named = ("callers", "peer_batch", "snapshot_keys", "recovery_commands", "memory_commands")
    found = summary(report, aims(Plan(**{name: report.settings[name] for name in named})), only_measured=True)
    return f'<h2 id="aims">Aims</h2>{table_html(found)}' if found.row_count else ""


def _versions(report: Report) -> Iterable[tuple[str, str]]:
    for section in report.sections.values():
        if isinstance(section, Rivals):
            yield from ((name, f"{version}") for name, version in section.versions.items() if name != "rayraft")
            yield from ((name, f"left out: {why}") for name, why in section.left_out.items())


def _warning(report: Report) -> str:
    found = []
    if report.ended_early:
        found.append(f"The run ended early, {escape(report.ended_early)}.")
    if not report.intact:
        found.append(f"{report.complaint.capitalize()}.")
    if report.surroundings["load_average"] > report.surroundings["cores"] / 2:
        found.append("Something else used this machine when the run began: the figures say more about that.")
    if report.settings["file_system"] == "tmpfs":
        found.append("The data was on tmpfs, where a sync costs nothing.")
    return " ".join(found)


def _section(report: Report, name: str, drawn: list[Picture]) -> str:
    images = "".join(
        f'<figure><img alt="{escape(picture.caption)}" src="data:image/png;base64,'
        f'{base64.b64encode(picture.png).decode()}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
        for picture in drawn
        if picture.name == name or picture.name.startswith(f"{name}-")
    )
    return f'<h2 id="{escape(name)}">{escape(name)}</h2>{images}{table_html(report.sections[name].table())}'


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(line)}</td></tr>" for name, line in rows)
    return f'<table class="setting">{cells}</table>'


def table_html(found: Table) -> str:
    """A table as it is printed, for a browser."""
    columns = [[_plain(cell) for cell in column.cells] for column in found.columns]
    head = "".join(f"<th>{escape(_plain(column.header))}</th>" for column in found.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in zip(*columns, strict=True)
    )
    return f"<table><caption>{escape(_plain(found.title))}</caption><tr>{head}</tr>{rows}</table>"


def _plain(cell: object) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell or "")
