"""Plot what models learn against what they forget.

    python tools/bench/forgetting.py table.csv --out forgetting.svg

The table has the columns `system`, `domain` and one per canary, with error rates in %, and the stock model in its first
row. The x-axis is the error rate on the new domain. The y-axis is the rise of each canary's error rate over the stock
model, in points, on a logarithmic scale from two points on. The goal is shaded: 90 % of the best system's gain, and no
canary more than one point worse.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from whisper_recipe.files import atomic_write

GAIN, RISE = 0.9, 1.0  # the goal: share of the best gain, and points
LINEAR = 2.0  # points up to which the scale is linear
MARKERS = "osD^vP*X"


def read_table(path: Path) -> tuple[list[str], list[tuple[str, float, list[float]]]]:
    """Return the canaries' names, and each system's name, error rate on the domain and error rates on the canaries."""
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.reader(file)
        header = next(table, [])
        if header[:2] != ["system", "domain"] or len(header) < 3:
            sys.exit(f"{path}: the columns must be system, domain and one or more canaries, got {','.join(header)}")
        rows = []
        for row in filter(None, table):
            try:
                domain, *canaries = map(float, row[1:])
            except ValueError:
                sys.exit(f"{path}:{table.line_num}: expected a name and numbers, got {','.join(row)}")
            if len(row) != len(header):
                sys.exit(f"{path}:{table.line_num}: expected {len(header)} columns as in line 1, got {len(row)}")
            rows.append((row[0], domain, canaries))
    if len(rows) < 2:
        sys.exit(f"{path}: give the stock model and at least one system")
    return header[2:], rows


def draw(names: list[str], rows: list[tuple[str, float, list[float]]], out: Path) -> None:
    """Draw the systems; the suffix of `out` selects the format."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "forgetting"  # the same table makes the same file
    _, stock, before = rows[0]
    goal = stock - GAIN * (stock - min(domain for _, domain, _ in rows))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.7", linewidth=1)
    for number, (system, domain, canaries) in enumerate(rows):
        rises = [now - then for now, then in zip(canaries, before, strict=True)]
        color = f"C{number % 10}"
        axes.plot([domain] * 2, [min(rises), max(rises)], color=color, linewidth=1)
        for rise, marker in zip(rises, MARKERS * len(rises), strict=False):
            axes.plot(domain, rise, color=color, marker=marker, linestyle="none")
        axes.annotate(system, (domain, max(rises)), (0, 6), textcoords="offset points", ha="center", color=color)
    for name, marker in zip(names, MARKERS * len(names), strict=False):
        axes.plot([], [], color="0.3", marker=marker, linestyle="none", label=name)
    axes.set_yscale("symlog", linthresh=LINEAR)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(0.12)
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]
    axes.fill_between([left, goal], bottom, RISE, color="C2", alpha=0.15, linewidth=0, label="goal")
    axes.set(xlim=(left, None), ylim=(bottom, None))
    axes.set(xlabel="error rate on the new domain, %", ylabel="rise of the canaries' error rates, points")
    axes.legend()
    with atomic_write(out) as aside:
        figure.savefig(aside, dpi=120, metadata={"Date": None} if out.suffix == ".svg" else None)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV: system,domain,<canaries>")
    parser.add_argument("--out", type=Path, required=True, help="plot: .svg, .png or .pdf")
    options = parser.parse_args()
    draw(*read_table(options.table), options.out)


if __name__ == "__main__":
    main()
