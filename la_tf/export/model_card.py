"""The page that describes an export: origin, results, use, checksums."""

import dataclasses
import hashlib
import pathlib
from importlib import metadata
from typing import Any

import jinja2

from la_tf.config import Config
from la_tf.errors import RunError
from la_tf.export.saved_model import VERSION, read_signatures
from la_tf.export.weights import checksum, named_tensors
from la_tf.results import run_facts
from la_tf.results.evaluations import read_evaluations
from la_tf.results.tables import Table, milestone_rows, milestone_table, result_tables
from la_tf.runs import runtime
from la_tf.runs.log import Record, read_log
from la_tf.runs.trained_run import TrainedRun

MODEL_CARD = "README.md"
MARK = "<!-- model card of la_tf -->"  # tells our page from a README that a person wrote


def model_card(run: TrainedRun, folder: pathlib.Path, onnx: str = "") -> str:
    """The page, in Markdown; no path of this machine is in it.

    Args:
      run: what was exported. Its logs and evaluations are read; where they are missing, the page
        says so.
      folder: holds everything else of the export; its files are hashed.
      onnx: a sentence on the network in ONNX, if it is there.

    Raises:
      ExportError: the folder holds no SavedModel.
      OSError: a file cannot be read.
    """
    run = dataclasses.replace(run, config=_without_paths(run.config))
    records = _metrics(run)
    tables, missing = _results(run, records)
    return _template().render(
        mark=MARK,
        name=run.path.resolve().name,
        dim=run.config.network.dim,
        config=run.config,
        data=run.data,
        signatures=read_signatures(folder / VERSION),
        tensor_name=next(iter(named_tensors(run.network))),
        onnx=onnx,
        facts=run_facts.summary(run, records),
        warnings=run_facts.warnings(run, records),
        tables=tables,
        missing=missing,
        configuration=[
            section
            for section in run_facts.configuration(run.config, run.num_examples)
            if section.name != "run"
        ],
        environments=_environments(run),
        exported=_exported(),
        weights=checksum(run.network),
        files=_digests(folder),
    )


def _without_paths(config: Config) -> Config:
    """With the names of folders in place of where they are."""
    data = config.data
    names = {"data": _name(data.data), "val_data": data.val_data and _name(data.val_data)}
    return dataclasses.replace(config, data=dataclasses.replace(data, **names))


def _name(data: str) -> str:
    return data if data.startswith("tfds:") else pathlib.Path(data).resolve().name


def _metrics(run: TrainedRun) -> list[Record]:
    try:
        return read_log(run.path / "metrics.jsonl")
    except (OSError, ValueError):
        return []


def _results(run: TrainedRun, records: list[Record]) -> tuple[list[Table], list[str]]:
    """Tables of what was measured, and sentences on what was not."""
    total_steps = run.config.schedule.epochs * run.steps_per_epoch
    rows, gallery = milestone_rows(records, run.warm_start_steps, total_steps, run.method)
    tables = [milestone_table(rows, gallery)] if rows else []
    try:
        evaluated = result_tables(read_evaluations(run.path))
    except RunError:
        return tables, ["The results of tools/evaluate.py cannot be read, so none are shown."]
    if not tables and not evaluated:
        return [], ["Not evaluated."]
    return tables + evaluated, []


def _environments(run: TrainedRun) -> dict[str, dict[str, str]]:
    try:
        return run_facts.environments(run)
    except RunError:
        return {"Every start": {"the environment": "is not known"}}


def _exported() -> dict[str, Any]:
    environment = runtime.environment()
    return {
        "la_tf": metadata.version("la_tf"),
        "tensorflow": environment["packages"]["tensorflow"],
        "python": environment["python"],
        "git commit": environment["git_commit"] or "none",
    }


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """The files of an export below its folder, by name, with their SHA-256."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
        digests[path.relative_to(folder).as_posix()] = digest.hexdigest()
    return digests


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("la_tf.export"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).replace("|", "\\|").split())
    environment.filters["tensors"] = lambda kinds: ", ".join(f"`{n}` {k}" for n, k in kinds.items())
    return environment.get_template("model_card.md")
