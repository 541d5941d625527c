"""Run an experiment: every stage that is not finished, in order, each in its own process."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from rlaif_pl import slurm
from rlaif_pl.data.metric_files import move_aside, write_text
from rlaif_pl.pipeline.experiment import Experiment, Stage, load_experiment
from rlaif_pl.pipeline.nodes import MainNode, check_nodes, follow
from rlaif_pl.pipeline.plan import (
    Plan,
    StageRecord,
    folder_lock,
    make_plan,
    merge_metrics,
    read_record,
)
from rlaif_pl.pipeline.process import arguments, last_lines, launch
from rlaif_pl.pipeline.yaml_files import dump_yaml
from rlaif_pl.tables import Cell, Column, Columns, Table, duration

Launch = Callable[[Stage, Path], int]
SHOWN_LINES = 15  # of the log of a stage that failed
COLORS = {"run": "cyan", "skip": "green", "resume": "yellow", "rerun": "magenta"}


class Interrupted(KeyboardInterrupt):
    """A signal, by its number, asks the run to end."""


def run(
    file: Path,
    out: Path | None = None,
    force: Sequence[str] = (),
    seed: int | None = None,
    dry_run: bool = False,
    launch: Launch = launch,
    device: str | None = None,
    nodes: int = 1,
    node_rank: int = 0,
    main_address: str | None = None,
) -> int:
    """Run an experiment; what is finished is skipped, what was interrupted goes on.

    ``out``, ``seed`` and ``device`` (of every stage) stand in place of the file's; stages of ``force``
    run again, and those that need them; ``dry_run`` only shows what would happen; ``launch`` runs one
    stage in its folder and returns its exit status. Of several ``nodes`` (see ``pipeline.nodes``) this
    is ``node_rank``; the others reach node 0 by ``main_address``, its host name where None.

    Returns:
        0 if every stage is finished, else the exit status of the stage that failed, or
        128 + number of the signal that ended the run.

    Raises:
        ValueError: The experiment file or something it names is wrong.
        FolderInUseError: Another run works in the folder.
    """
    console = Console()
    experiment = load_experiment(Path(file), out, seed, device)
    if dry_run:
        console.print(_plan_table(experiment, make_plan(experiment, force)).rich())
        return 0
    with ExitStack() as stack:
        if node_rank == 0:
            stack.enter_context(folder_lock(experiment.out))
        stack.enter_context(_signals_interrupt())
        if node_rank:
            return follow(experiment, node_rank)
        plans = make_plan(experiment, force)
        stages = [plan.stage for plan in plans if plan.action != "skip"]
        check_nodes(experiment, stages, nodes)
        if nodes == 1:
            return _run_in_folder(experiment, plans, launch, console)
        main = MainNode(experiment, nodes, main_address or socket.gethostname(), launch)
        stack.enter_context(main).gather()
        main.code = _run_in_folder(experiment, plans, main.launch, console)
        return main.code


def _run_in_folder(
    experiment: Experiment, plans: Sequence[Plan], launch: Launch, console: Console
) -> int:
    """Run the planned stages until one fails or is interrupted."""
    console.print(_plan_table(experiment, plans).rich())
    for plan in plans:
        if plan.action == "rerun":
            _set_aside(experiment, plan, console)
    ended: dict[str, str] = {}
    code = 0
    for plan in plans:
        name = plan.stage.name
        if plan.action == "skip":
            console.print(f"stage {name}: skipped, {plan.reason}", highlight=False)
            ended[name] = "skipped"
            continue
        merge_metrics(experiment)  # a report reads what is finished so far
        console.rule(f"stage {name}: {plan.action} {plan.stage.command}")
        try:
            code = _run_stage(experiment, plan, launch)
            ended[name] = f"failed ({code})" if code else "done"
        except KeyboardInterrupt as stop:
            code = 128 + (stop.args[0] if isinstance(stop, Interrupted) else signal.SIGINT)
            ended[name] = "interrupted"
            again = "the same command goes on from here"
            console.print(f"stage {name} was interrupted; {again}", style="yellow")
            if code == 128 + signal.SIGUSR1:
                slurm.requeue()
        if code and ended[name] != "interrupted":
            _explain_failure(plan, code, console)
        if code:
            break
    merge_metrics(experiment)
    console.print(_result_table(experiment, plans, ended).rich())
    if code == 0:
        console.print(f"metrics: {experiment.out / 'metrics.json'}", soft_wrap=True)
    return code


def _plan_table(experiment: Experiment, plans: Sequence[Plan]) -> Table:
    titles = ("stage", "command", "needs", "plan")
    columns: Columns = [Column(title, align="left") for title in titles]
    rows: list[list[Cell]] = []
    for plan in plans:
        action = Text.assemble((plan.action, COLORS[plan.action]), f" {plan.reason}".rstrip())
        rows.append([plan.stage.name, plan.stage.command, ", ".join(plan.stage.needs), action])
    return Table(f"{experiment.name}, seed {experiment.seed}, in {experiment.out}", columns, rows)


def _result_table(experiment: Experiment, plans: Sequence[Plan], ended: Mapping[str, str]) -> Table:
    rows, seconds = [], 0.0
    for plan in plans:
        name, record = plan.stage.name, read_record(plan.folder / "done.json")
        seconds += record.seconds if record else 0.0
        rows.append(
            [name, ended.get(name, "not reached"), duration(record.seconds) if record else ""]
        )
    columns: Columns = ["stage", Column("result", align="left"), "time"]
    return Table(f"{experiment.name}: stages", columns, rows, ["all", "", duration(seconds)])


def _run_stage(experiment: Experiment, plan: Plan, launch: Launch) -> int:
    """Run one stage and record it; returns its exit status, 1 where a product is missing."""
    folder = plan.folder
    folder.mkdir(exist_ok=True)
    spent, attempts, log = 0.0, 1, folder / "log.txt"
    if before := read_record(folder / "started.json"):  # of an attempt that was interrupted, and
        attempts = before.attempts + 1  # counts until it last wrote to its log
        last = log.stat().st_mtime - before.time if log.is_file() else 0.0
        spent = before.seconds + max(0.0, last)
    header = f"# Stage {plan.stage.name} of {experiment.file}, resolved.\n"
    write_text(folder / "config.yaml", header + dump_yaml(experiment.placed(plan.stage)))
    line = " ".join(arguments(plan.stage, folder)[1:])
    StageRecord(line, plan.fingerprint, attempts, spent, time.time()).write(folder / "started.json")
    began = time.monotonic()
    if code := launch(plan.stage, folder):
        return code
    if plan.stage.missing(folder):
        return 1
    seconds = spent + time.monotonic() - began
    StageRecord(line, plan.fingerprint, attempts, seconds, time.time()).write(folder / "done.json")
    return 0


def _set_aside(experiment: Experiment, plan: Plan, console: Console) -> None:
    state = "finished" if (plan.folder / "done.json").is_file() else "unfinished"
    target = move_aside(experiment.out, plan.folder)
    said = f"stage {plan.stage.name} starts over ({escape(plan.reason)}); its {state} folder "
    console.print(f"{said}is kept as {target}", style="yellow", soft_wrap=True)


def _explain_failure(plan: Plan, code: int, console: Console) -> None:
    log, missing = plan.folder / "log.txt", plan.stage.missing(plan.folder)
    how = f"with exit status {code}"
    if code == 1 and missing:
        how = f"it did not make {', '.join(missing)} (exit status {code})"
    elif code == 128 + signal.SIGKILL:
        how += ": it was killed, which is what happens when memory runs out"
    if tail := last_lines(log, SHOWN_LINES):
        console.print(f"last lines of {log}:", style="bold", soft_wrap=True)
        console.print(escape(tail), highlight=False, soft_wrap=True)
    again = "Once the cause is mended, the same command goes on from here."
    said = f"stage {plan.stage.name} failed: {how}; the whole log is {log}. {again}"
    console.print(said, style="bold red", soft_wrap=True)


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and SLURM's SIGUSR1 into an interrupt: the stage is ended with us."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    numbers = [signal.SIGTERM, signal.SIGHUP]
    if slurm.job_id() is not None:
        numbers.append(signal.SIGUSR1)
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # only the main thread may handle signals
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
