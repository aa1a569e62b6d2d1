"""The command `compare`: every method on the user's own labels."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from chainrule.arguments import Help
from chainrule.commands.options import Bos, Columns, Device, Dtype, Folder, Json, Limit, Model, TaskFile
from chainrule.commands.sharing import print_part, shared
from chainrule.comparison.methods import METHODS
from chainrule.workers.options import Sharing

if TYPE_CHECKING:
    from chainrule.comparison.comparison import Comparison
    from chainrule.comparison.grid import Bounds
    from chainrule.comparison.sharing import KeyWork
    from chainrule.comparison.study import Study

_METHODS = f"{', '.join(method.name for method in METHODS)} (default all)."


def compare(
    model: Model,
    task: TaskFile,
    /,
    out: Folder,
    columns: Columns = Columns(),
    methods: Annotated[tuple[str, ...], Help("NAME", _METHODS, section="What to compare")] = (),
    sizes: tuple[int, ...] = (),
    seeds: int = 5,
    limit: Limit = None,
    minutes: float | None = None,
    quantize: Literal["none", "auto", "int8", "int4"] = "none",
    sharing: Sharing = Sharing(),
    bos: Bos = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Compare prompting and finetuning on your labels: a table, a report, advice.

    Every method runs on the same test items, from 0 labels to all of them, cheapest first; the plan with its estimated
    time, and what so many minutes leave out, is printed before. Interrupted, the same command continues.

    Options:
        out: Folder for the results and report.html.

    What to compare:
        sizes: Numbers of labels to learn from (default 4, 16, 64 ... and all).
        seeds: Random choices of the labels at each size.
        minutes: Leave out rows that would end after X minutes.
        quantize: Keep the model in 8 or 4 bits; auto keeps those of its file. Methods that train all weights are left
            out.

    Example:
        chainrule compare runs/books reviews.toml --out compared --seeds 2
    """
    from chainrule.comparison.grid import Bounds
    from chainrule.comparison.printed_table import printed_columns, printed_rows
    from chainrule.comparison.sharing import Running, run_part
    from chainrule.comparison.study import Study
    from chainrule.model.formats.same_model import ForWorkers
    from chainrule.model_source import ModelSource
    from chainrule.terminal import print_json, print_table

    bounds = Bounds(methods or None, sizes or None, seeds, limit, minutes)  # refused before anything is loaded
    source = ModelSource(model, device, dtype, bos, quantize)
    lm, read = source.load(), columns.load(task)
    study = Study(lm, read)
    with shared(sharing, device=lm.device.type) as share:
        work = None
        if share is not None:
            # Workers on other machines must not decide otherwise: what was decided here is named.
            precision = str(lm.model.compute_dtype or lm.model.dtype).removeprefix("torch.")
            decided = replace(source, device=lm.device.type, dtype=precision)
            work = partial(share, Running(ForWorkers.of(decided), read, limit), ahead=1)
        if sharing.chosen is not None:
            print_part(sharing.chosen, out, run_part(study, bounds, out, sharing.chosen, work), json)
            return
        comparison = _compared(study, bounds, out, sharing.join, work)
    if json:
        print_json(comparison.results())
        return
    print_table(printed_columns(read.kind), printed_rows(comparison.table))
    print("* significantly different from the best baseline with as many labels (adjusted for all comparisons)")
    print(f"\n{comparison.advice}\n\nThe report: {out}/report.html")


def _compared(study: "Study", bounds: "Bounds", out: Path, join: bool, work: "KeyWork | None") -> "Comparison":
    """Run the rows that are left, after those of the parts where they are joined, and show the table meanwhile."""
    from chainrule.comparison.printed_table import printed_columns, printed_rows
    from chainrule.comparison.run import run
    from chainrule.comparison.sharing import by_workers, join_rows
    from chainrule.storage.files import nothing_left_if_refused
    from chainrule.storage.locks import only_writer
    from chainrule.terminal import live_table, log

    with (
        only_writer(out),
        nothing_left_if_refused(out, saved=("rows.jsonl",)),
        live_table(printed_columns(study.task.kind)) as draw,
    ):

        def show(comparison: "Comparison") -> None:
            draw(printed_rows(comparison.table, differences=False), f"rows left: {len(comparison.table.left)}")

        parts = join_rows(study, bounds, out) if join else None
        found = run(study, bounds, out=out, show=show, log=log, work=None if work is None else by_workers(work))
        if parts is not None:
            parts.remove()
    return found
