"""The command `compare`: every method on the user's own labels."""

from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from chainrule.commands.options import Columns, Device, Dtype, Json


def compare(
    model: Positional[str],
    task: Positional[str],
    /,
    out: Path,
    columns: OmitArgPrefixes[Columns] = Columns(),
    methods: tuple[str, ...] = (),
    sizes: tuple[int, ...] = (),
    seeds: int = 5,
    limit: int | None = None,
    minutes: float | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Every method, from 0 labels to all of them, on the same test items: a table, curves, a report, and advice.

    Prints its plan with the estimated time first, runs the cheapest rows first, and goes on from the rows it has.

    Args:
        model: A run, any Hugging Face directory, or a name on the Hub.
        task: A task file, or labelled rows with --text and --label.
        out: The folder that rows, results.json, curves and report.html go to.
        methods: Some of zero-shot in-context in-context-nearest head full majority bag-of-words random-weights.
        sizes: Numbers of labels; 4, 16, 64, ... and all by default.
        seeds: How many draws of the labels.
        limit: So many test items, drawn always alike.
        minutes: Rows that would end later are left out.
        device: Where to compute.
        dtype: What to compute in.
        json: Print one JSON document.
    """
    from chainrule.comparison.run import compare
    from chainrule.comparison.table import COLUMNS, Comparison
    from chainrule.language_model import load
    from chainrule.terminal import live_table, print_json, print_table, say

    lm, read = load(model, device=device, dtype=dtype), columns.load(task)
    with live_table(COLUMNS) as draw:

        def show(comparison: Comparison) -> None:
            draw(comparison.text(differences=False), f"{len(comparison.left)} rows left")

        comparison = compare(
            lm, read, out=out, methods=methods or None, sizes=sizes or None, seeds=seeds, limit=limit,
            minutes=minutes, show=show, say=say,
        )  # fmt: skip
    if json:
        print_json(comparison.results())
        return
    print_table(COLUMNS, comparison.text())
    print("* told apart from the best baseline with as many labels, all comparisons taken together")
    print(f"\n{comparison.advice}\n\nThe report: {out}/report.html")
