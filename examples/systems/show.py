"""Make a page of one system: its ways run on the images for validation, scored, and drawn side by side.

Inside the folder of a system: ``python ../show.py --data BACTERIA -o runs/page``. What it shows stands in system.yaml.
A way whose network is not there is listed with the command that trains it; ``--way better=/path/to/run`` says where
a network lies that its recipe calls runs/better. Written are page.html, figures.md, figures.json, counts.csv, the
truth, and beside it what each way found, as `cellkit run` writes it. The same command again goes on where it stopped.

Exit code 0: all done; 1: a way failed, or some of its images; 2: wrong usage, nothing written.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from showing.counting import counted, proportion_of, proportions
from showing.scoring import Images, gain_of, part_scores, score_of, scored
from showing.system import System, read_system
from showing.ways import Ran, run_way

from cellkit.core import CellkitError, UsageError
from cellkit.io import atomic, read
from cellkit.report.runpage import table
from cellkit.report.runs import Score
from cellkit.report.sides import Figure, Row, chosen, figures_table, links_list, sides_page, value_text

MARKER = "system.json"


@click.command()
@click.option("--data", required=True, metavar="DIR", help="The data set.")
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder for the page; holds pictures of the data.")
@click.option("--system", "file", default="system.yaml", metavar="FILE", show_default=True, help="What to show.")
@click.option("--way", "given", multiple=True, metavar="NAME=RUN", help="Where the network runs/NAME lies.")
@click.option("--workers", type=click.IntRange(min=1), help="Images worked on at once.  [default: all cores]")
@click.option("--device", default="auto", show_default=True, help="Where networks run: auto, cpu, cuda or cuda:N.")
def main(data: str, out: str, file: str, given: Sequence[str], workers: int | None, device: str) -> None:
    """Run, score and draw the ways of a system; see system.yaml."""
    try:
        system = read_system(Path(file))
        places = system.places(given)
        images = Images.open(system, Path(data))
        folder = begin(system, images, Path(out))
        images.write_truth(folder / "truth")
        ran = [run_way(system, way, images, folder / way.name, (places, workers, device)) for way in system.ways]
        whole = make(system, images, ran, folder)
    except CellkitError as error:
        click.echo(f"show: {error}", err=True)
        sys.exit(2)
    click.echo(f"{folder / 'page.html'}")
    sys.exit(0 if whole else 1)


def begin(system: System, images: Images, folder: Path) -> Path:
    """Return the folder for the page. Raises `UsageError` where it holds anything but an earlier page of the same."""
    marker = {"title": system.title, "images": list(images.names)}
    if folder.is_dir() and any(folder.iterdir()):
        try:
            found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UsageError(f"{folder}: holds something else; give a new or empty folder") from None
        if found != marker:
            raise UsageError(f"{folder}: holds the page of another system, or of other images; give another folder")
    elif folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / MARKER, json.dumps(marker, indent=1) + "\n")
    return folder


def make(system: System, images: Images, ran: Sequence[Ran], folder: Path) -> bool:
    """Score the ways and write every file; return whether all of them went without a fault."""
    there = {way.name: way for way in ran if way.found}
    reports = {name: scored(system, images, way) for name, way in there.items()}
    figures = [figure(system, images, reports, i) for i in range(len(system.scores))]
    counts = counted(system, images, there)
    shares = proportions(system, images, there)
    write(folder / "counts.csv", counts.csv())
    names = {way.name: way.state for way in ran}
    parts = part_scores(system, images, reports)
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = {}
    if parts:
        tables[f"{figures[0].label} by {system.by}"] = (
            [system.by, "images", *there],
            [[part, f"{n:,}", *(value_text(found[w]) for w in there)] for part, (n, found) in parts.items()],
        )
    tables["Counts"] = counts.summary()
    title, of = proportion_of(system)
    if shares is not None:
        tables[f"{title.capitalize()}"] = shares.table()
    document = {
        "system": system.title,
        "images": len(images.names),
        "figures": [as_json(one) for one in figures],
        "by": {part: {w: numbers(s) for w, s in found.items()} for part, (_, found) in parts.items()},
        "counts": counts.totals(),
        **({title: {"of": of, **shares.totals()}} if shares is not None else {}),
        "ways": {way.name: {"state": way.state, "failed": dict(way.failed)} for way in ran},
    }
    write(folder / "figures.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    write(folder / "figures.md", markdown(system, images, ran, {"Figures": figures_table(figures, names), **tables}))
    body = {
        "Ways": ways_part(ran),
        **{name: table(*one) for name, one in tables.items()},
    }
    body["Counts"] += f"<details><summary>Every image</summary>{table(*counts.table(), words=2)}</details>"
    body["Files"] = links_list(
        [("figures.md", "the figures as a table"), ("figures.json", "the same, for programs"),
         ("counts.csv", "objects of each image and class")]
        + [(f"{name}/images.csv", f"what {name} did with each image") for name in there]
    )  # fmt: skip
    rows = pictures(system, images, there, reports)
    facts = [f"{images.told()} of {images.where}", system.text, gain_text(system, figures)]
    page = sides_page(
        system.title, [f for f in facts if f], figures, names, rows, draw=(system.draw, images.shown), parts=body
    )
    write(folder / "page.html", page)
    return all(way.state in ("done", "not trained") and not way.failed for way in ran)


def figure(system: System, images: Images, reports: Mapping[str, Mapping[str, Any]], place: int) -> Figure:
    """Return one score of all ways."""
    wanted = system.scores[place]
    own = {name: score_of(found[wanted.key], wanted) for name, found in reports.items()}
    gain = None
    if system.gain and all(name in reports for name in system.gain):
        better, published = (reports[name][wanted.key] for name in system.gain)
        gain = gain_of(better, published, wanted)
    rule = next((found[wanted.key].rule for found in reports.values()), "")
    label = wanted.label or next((score.name for score in own.values()), wanted.score)
    return Figure(label, len(images.names), own, wanted.published, wanted.source, gain, rule)


def gain_text(system: System, figures: Sequence[Figure]) -> str:
    """Return what the gain is, empty where there is none."""
    if all(one.gain is None for one in figures):
        return ""
    return f"Gain: {' less '.join(system.gain)} on the same images, with the interval of that difference."


def pictures(
    system: System, images: Images, there: Mapping[str, Ran], reports: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """Return the images to show: the worst, the best, the median, and those where two ways differ most."""
    order = list(dict.fromkeys(name for name in (*system.gain, *there) if name in there))
    key = system.scores[0].key
    values = {name: reports[name][key].images for name in there}
    second = order[1] if len(order) > 1 else ""
    if order:
        picked = chosen(values[order[0]], values.get(second, {}), system.worst)
    else:
        step = max(1, len(images.names) // max(1, system.pictures))
        picked = [(name, "one of the images, as no way has a network") for name in images.names[::step]]
    rows = []
    for name, why in picked[: system.pictures]:
        own = {way: values[way].get(name, math.nan) for way in there}
        scores = {w: [] if math.isnan(v) else [(reports[w][key].each, f"{v:.4f}")] for w, v in own.items()}
        found = {way: ran.found.get(name) for way, ran in there.items()}
        told = why.replace("differs most", f"differs most from {second}")
        rows.append(Row(name, told, read(images.pairs[name].image)["raw"], images.truth[name], found, scores))
    return rows


def ways_part(ran: Sequence[Ran]) -> str:
    """Return what became of each way as a table in HTML."""
    rows = []
    for way in ran:
        rows.append([way.name, way.recipe, way.told()])
    return table(["way", "recipe", ""], rows, words=3)


def markdown(system: System, images: Images, ran: Sequence[Ran], tables: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [f"# {system.title}", "", f"{images.told()}, 95 % intervals. {system.text}"]
    for name, (head, rows) in tables.items():
        cells = [head, ["---"] * len(head), *rows]
        lines += [
            "",
            f"## {name}",
            "",
            *("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells),
        ]
    lines += ["", "## Ways", "", *(f"- {way.name} ({way.recipe}): {way.told()}" for way in ran)]
    return "\n".join(lines) + "\n"


def as_json(one: Figure) -> dict[str, Any]:
    """Return a figure as plain data."""
    said = {} if math.isnan(one.published) else {"published": one.published, "source": one.source}
    gain = {} if one.gain is None else {"gain": numbers(one.gain)}
    return {"label": one.label, "rule": one.rule, **said, "ways": {n: numbers(s) for n, s in one.ways.items()}, **gain}


def numbers(score: Score) -> dict[str, float | None]:
    """Return a score and its interval; None for what is no number."""
    ends = {"value": score.value, "low": score.low, "high": score.high}
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


if __name__ == "__main__":
    main()
