"""Run an experiment: every stage that is not finished, in order, each in its own process."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from rlaif_pl import slurm
from rlaif_pl.data.metric_files import move_aside, write_text
from rlaif_pl.pipeline.experiment import Experiment, Stage, load_experiment
from rlaif_pl.pipeline.folder import StageRecord, folder_lock, merge_metrics, read_record
from rlaif_pl.pipeline.nodes import MainNode, check_nodes, follow
from rlaif_pl.pipeline.plan import Plan, make_plan, missing_products, plan_table, result_table
from rlaif_pl.pipeline.process import arguments, last_lines, launch
from rlaif_pl.pipeline.yaml_files import dump_yaml

Launch = Callable[[Stage, Path], int]
SHOWN_LINES = 15  # of the log of a stage that failed


class Interrupted(KeyboardInterrupt):
    """A signal asks the run to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


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

    Args:
        file: The experiment (see ``rlaif_pl.pipeline.experiment``).
        out: Run folder in place of the file's.
        force: Stages to run again, and with them those that need them.
        seed: Seed in place of the file's.
        dry_run: Only show what would happen.
        launch: Runs one stage in its folder and returns its exit status.
        device: Device of every stage in place of the file's.
        nodes: How many nodes run this experiment together (see ``rlaif_pl.pipeline.nodes``).
        node_rank: Which of them this is.
        main_address: Name of node 0 that the others reach it by; its host name where None.

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
        console.print(plan_table(experiment, make_plan(experiment, force)).rich())
        return 0
    if node_rank:
        with _signals_interrupt():
            return follow(experiment, node_rank)
    with ExitStack() as stack:
        stack.enter_context(folder_lock(experiment.out))
        stack.enter_context(_signals_interrupt())
        plans = make_plan(experiment, force)
        stages = [plan.stage for plan in plans if plan.action != "skip"]
        check_nodes(experiment, stages, nodes)
        if nodes == 1:
            return _run_in_folder(experiment, plans, launch, console)
        main = MainNode(experiment, nodes, main_address or socket.gethostname(), launch)
        stack.enter_context(main)
        code = _run_in_folder(experiment, plans, main.launch, console)
        main.finish(code)
        return code


def _run_in_folder(
    experiment: Experiment, plans: Sequence[Plan], launch: Launch, console: Console
) -> int:
    console.print(plan_table(experiment, plans).rich())
    for plan in plans:
        if plan.action == "rerun":
            _set_aside(experiment, plan, console)
    ended: dict[str, str] = {}
    code = _execute(experiment, plans, ended, launch, console)
    merge_metrics(experiment)
    console.print(result_table(experiment, plans, ended).rich())
    if code == 0:
        console.print(f"metrics: {experiment.out / 'metrics.json'}", soft_wrap=True)
    return code


def _execute(
    experiment: Experiment,
    plans: Sequence[Plan],
    ended: dict[str, str],
    launch: Launch,
    console: Console,
) -> int:
    """Run the planned stages until one fails; notes in ``ended`` how each ended."""
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
        except KeyboardInterrupt as stop:
            code = 128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)
            ended[name] = "interrupted"
            again = "the same command goes on from here"
            console.print(f"stage {name} was interrupted; {again}", style="yellow")
            if code == 128 + signal.SIGUSR1:
                slurm.requeue()
            return code
        if code:
            ended[name] = f"failed ({code})"
            _explain_failure(plan, code, console)
            return code
        ended[name] = "done"
    return 0


def _run_stage(experiment: Experiment, plan: Plan, launch: Launch) -> int:
    """Run one stage and record it; returns its exit status, 1 where a product is missing."""
    folder = plan.folder
    folder.mkdir(exist_ok=True)
    before = read_record(folder / "started.json")  # of an interrupted attempt
    spent, attempts = (0.0, 1) if before is None else (_spent(before, folder), before.attempts + 1)
    config = dump_yaml(experiment.placed(plan.stage))
    header = f"# Stage {plan.stage.name} of {experiment.file}, resolved.\n"
    write_text(folder / "config.yaml", header + config)
    line = " ".join(arguments(plan.stage, folder)[1:])
    StageRecord(line, plan.fingerprint, attempts, spent, time.time()).write(folder / "started.json")
    began = time.monotonic()
    code = launch(plan.stage, folder)
    if code:
        return code
    if missing_products(plan.stage, folder):
        return 1
    seconds = spent + time.monotonic() - began
    StageRecord(line, plan.fingerprint, attempts, seconds, time.time()).write(folder / "done.json")
    return 0


def _spent(before: StageRecord, folder: Path) -> float:
    """Seconds of the attempts so far; a killed one counts until it last wrote to its log."""
    log = folder / "log.txt"
    last = log.stat().st_mtime - before.time if log.is_file() else 0.0
    return before.seconds + max(0.0, last)


def _set_aside(experiment: Experiment, plan: Plan, console: Console) -> None:
    record = read_record(plan.folder / "done.json")
    what = "its unfinished folder" if record is None else "its finished folder"
    target = move_aside(experiment.out, plan.folder)
    console.print(
        f"stage {plan.stage.name} starts over ({escape(plan.reason)}); {what} is kept as {target}",
        style="yellow",
        soft_wrap=True,
    )


def _explain_failure(plan: Plan, code: int, console: Console) -> None:
    log = plan.folder / "log.txt"
    missing = missing_products(plan.stage, plan.folder)
    how = f"with exit status {code}"
    if code == 1 and missing:
        how = f"it did not make {', '.join(missing)} (exit status {code})"
    elif code == 128 + signal.SIGKILL:
        how += ": it was killed, which is what happens when memory runs out"
    tail = last_lines(log, SHOWN_LINES)
    if tail:
        console.print(f"last lines of {log}:", style="bold", soft_wrap=True)
        console.print(escape(tail), highlight=False, soft_wrap=True)
    console.print(
        f"stage {plan.stage.name} failed: {how}; the whole log is {log}. Once the cause is mended, "
        "the same command goes on from here.",
        style="bold red",
        soft_wrap=True,
    )


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Turn SIGTERM, SIGHUP and SLURM's SIGUSR1 into an interrupt: the stage is ended with us."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    numbers = [signal.SIGTERM, signal.SIGHUP]
    if slurm.job_id() is not None:
        numbers.append(signal.SIGUSR1)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
