"""``export``: preferences, replies and policies, in our form or as other trainers read them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from rlaif_pl.cli.commands.select import build_actor, config_of, load_weights
from rlaif_pl.data.card import dataset_card
from rlaif_pl.data.label_export import Exported, ExportLayout, soft_rows, trl_rows, write_parquet
from rlaif_pl.data.metric_files import read_metrics, write_json_lines, write_text
from rlaif_pl.data.sources import DataSource, load_preferences
from rlaif_pl.errors import within
from rlaif_pl.evaluation.selection import Candidate
from rlaif_pl.labeling.usage.reply_store import ReplyStore, export_replies
from rlaif_pl.models.adapter_export import Form, check_export, export_policy
from rlaif_pl.models.model_folder import check_place


def export(
    out: str,
    preferences: DataSource | str | None = None,
    replies: str | None = None,
    layout: ExportLayout = "trl",
    min_margin: float = 0.0,
    with_margin: bool = False,
    name: str | None = None,
    license_id: str = "unknown",
    metrics: str | None = None,
    run: str | None = None,
    checkpoint: str | None = None,
    form: Form = "adapter",
) -> int:
    """Write labeled preferences; into a folder, with a data set card beside them. Or a run's policy.

    What is left out (unlabeled pairs; in TRL's columns ties, too) is counted by reason.

    Args:
        out: A file ending in .jsonl or .parquet; or a folder, which gets train.parquet and README.md.
        preferences: Labeled pairs.
        replies: In place of preferences, the SQLite file of a model's replies: one row a call goes to
            the file ``out``.
        layout: ``trl``: prompt, chosen, rejected, p_chosen. ``soft``: prompt, first, second, p_first,
            weight, source, group and the provenance of each label.
        min_margin: Leave out pairs with ``|p - 0.5|`` below this, in [0, 0.5].
        with_margin: Add TRL's ``margin`` (log-odds of p_chosen), which TRL's RewardTrainer subtracts
            inside its loss.
        name: What the card calls the data set; by default the folder's name.
        license_id: License of the texts, as the hub names it (``apache-2.0``, ``cc-by-4.0``, ...).
        metrics: metrics.json of the labeling job, whose failures and agreement with people the card
            tells; by default the one beside the preferences, where there is one.
        run: In place of preferences, the folder of an A2C stage, whose policy goes to the folder
            ``out``.
        checkpoint: Which of the run's; by default checkpoints/last.ckpt.
        form: ``adapter`` writes the policy's adapters alone, as a PEFT folder; ``whole`` folds them
            into a transformers folder.
    """
    if sum(each is not None for each in (preferences, replies, run)) != 1:
        raise ValueError(
            "expected one of preferences, replies and run to export, got several or none"
        )
    if run is not None:
        target = export_run(Path(run), checkpoint, Path(out), form)
        sys.stdout.write(f"{form} of {run} written to {target}\n")
        return 0
    if preferences is None:
        if not Path(str(replies)).is_file():
            raise FileNotFoundError(f"expected a file of replies at {replies}, found none")
        with ReplyStore(str(replies)) as store:
            sys.stdout.write(f"{export_replies(store, out)} calls written to {out}\n")
        return 0
    is_trl = layout == "trl"
    within(0, 0.5, min_margin=min_margin)
    if with_margin and not is_trl:
        raise ValueError("expected with_margin only with layout trl; the soft layout has p_first")
    source = DataSource(preferences) if isinstance(preferences, str) else preferences
    loaded = load_preferences(source)
    pairs = loaded.rows
    table = trl_rows(pairs, min_margin, with_margin) if is_trl else soft_rows(pairs, min_margin)
    left_out = Counter(loaded.dropped) + Counter(table.left_out)
    reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(left_out.items()))
    if not table.rows:
        raise ValueError(
            f"expected pairs to export from {source.name}, none of {len(pairs)} is left ({reasons}); "
            "label them first, or lower min_margin"
        )
    target = Path(out)
    if target.suffix in (".jsonl", ".parquet"):
        write_table(target, table)
    elif target.suffix:
        raise ValueError(f"expected out to end in .jsonl or .parquet, or to be a folder, got {out}")
    else:
        write_table(target / "train.parquet", table)
        known = read_metrics(path) if (path := metrics_of(source, metrics)) else {}
        title = name or target.resolve().name
        card = dataset_card(title, pairs, table, "train.parquet", license_id, known)
        write_text(target / "README.md", card)
    told = f"{len(table.rows)} pairs written to {out}, {left_out.total()} left out"
    sys.stdout.write(told + (f" ({reasons})\n" if reasons else "\n"))
    return 0


def export_run(run: Path, checkpoint: str | None, out: Path, form: Form) -> Path:
    """Write the policy of an A2C stage's checkpoint.

    ``FileNotFoundError``: there is no such checkpoint. ``ValueError``: the run has no actor, other
    weights, or no adapters to write alone; or something else than a model stands at ``out``.
    """
    path = run / "checkpoints" / "last.ckpt" if checkpoint is None else Path(checkpoint)
    if not path.exists():
        raise FileNotFoundError(
            f"expected a checkpoint at {path}, found none; name one by checkpoint"
        )
    check_place(out)
    actor = build_actor(config_of(run))
    check_export(actor.policy, form)
    load_weights(actor, Candidate(path, step=0, value=0.0))
    return export_policy(out, actor.policy, form)


def write_table(path: Path, table: Exported) -> None:
    """Write the rows as the file's ending says."""
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        write_json_lines(path, table.rows)


def metrics_of(source: DataSource, metrics: str | None) -> Path | None:
    """Return the metrics file of the labeling job, named or beside; None where none is there."""
    if metrics is None:
        beside = Path(source.name).parent / "metrics.json"
        return beside if Path(source.name).is_file() and beside.is_file() else None
    if not Path(metrics).is_file():
        raise FileNotFoundError(f"expected metrics of the labeling job at {metrics}, found no file")
    return Path(metrics)
