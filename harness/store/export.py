"""A database as tables of files: CSV, Parquet, or JSON lines. Written in portions, so that memory does not grow.

==================  =====================================================================================
runs                one row a run, under the columns of :data:`TABLES`
stages, epochs      figures of each, by ``run_id`` and ``stage``
predictions         one row an image, run and stage: id, group, true label and logits
measurements        one row a sample
attempts            one row a process that worked on a run
ensembles           those of which every member is exported, and ``ensemble_members`` their voters
measurement_sets    what was measured without a run, and ``set_measurements``, one row a sample; without a filter
==================  =====================================================================================

Text that a spreadsheet would take for a formula, as it begins with one of ``= + - @``, a tab or a carriage return, has
a single quote put before it in CSV. Numbers are left alone. In CSV, lists are joined by semicolons. JSON knows no NaN
and no infinity: both become null in JSON lines.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TextIO

import numpy as np
from sqlalchemy import Select, select

from harness.errors import StoreError
from harness.results import Selection
from harness.store import models
from harness.store.codec import unpack_doubles, unpack_labels, unpack_logits, unpack_strings
from harness.store.snapshot import Snapshot, snapshot, table_of
from harness.store.store import Store

__all__ = ["FORMATS", "TABLES", "Format", "csv_text", "export"]

Format = Literal["csv", "parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("csv", "parquet", "jsonl")
Kind = Literal["text", "texts", "integer", "number", "numbers", "truth", "time", "json"]
Values = dict[str, Any]
Progress = Callable[[int, int], None]

TABLES: Mapping[str, Mapping[str, Kind]] = {
    "runs": {
        "id": "integer",
        "uid": "text",
        "experiments": "texts",
        "status": "text",
        "backbone": "text",
        "schedule": "text",
        "dataset": "text",
        "fingerprint": "text",
        "synthetic": "truth",
        "seed": "integer",
        "config": "json",
        "config_hash": "text",
        "plugins": "json",
        "created_at": "time",
        "started_at": "time",
        "finished_at": "time",
        "device": "text",
        "device_name": "text",
        "python": "text",
        "torch": "text",
        "environment": "json",
        "weights_kind": "text",
        "weights_origin": "text",
        "weights_sha256": "text",
        "parameters": "integer",
        "test_accuracy": "number",
        "test_auc": "number",
        "attempt": "integer",
        "tags": "texts",
        "note": "text",
    },
    "stages": {
        "run_id": "integer",
        "stage": "text",
        "index": "integer",
        "planned_epochs": "integer",
        "trainable": "integer",
        "tested_epoch": "integer",
        "seconds": "number",
        "images_per_second": "number",
        "weights_sha256": "text",
        "optimizer_sha256": "text",
        "execution": "json",
        "val_accuracy": "number",
        "test_images": "integer",
        "test_correct": "integer",
        "test_auc": "number",
        "test_confusion": "json",
        "threshold": "number",
        "threshold_correct": "integer",
        "temperature": "number",
    },
    "epochs": {
        "run_id": "integer",
        "stage": "text",
        "epoch": "integer",
        "lr": "number",
        "train_loss": "number",
        "train_accuracy": "number",
        "val_loss": "number",
        "val_accuracy": "number",
        "seconds": "number",
        "images_per_second": "number",
    },
    "predictions": {
        "run_id": "integer",
        "stage": "text",
        "split": "text",
        "image": "text",
        "group": "text",
        "label": "integer",
        "logits": "numbers",
    },
    "measurements": {
        "run_id": "integer",
        "name": "text",
        "unit": "text",
        "batch_size": "integer",
        "stage": "text",
        "device": "text",
        "index": "integer",
        "sample": "number",
    },
    "attempts": {
        "run_id": "integer",
        "number": "integer",
        "host": "text",
        "pid": "integer",
        "started_at": "time",
        "heartbeat_at": "time",
        "ended_at": "time",
        "outcome": "text",
        "failure_kind": "text",
        "failure_message": "text",
        "failure_traceback": "text",
    },
    "ensembles": {
        "id": "integer",
        "uid": "text",
        "experiment": "text",
        "method": "text",
        "split": "text",
        "plugin": "json",
        "dataset": "text",
        "fingerprint": "text",
        "images": "integer",
        "correct": "integer",
        "auc": "number",
        "threshold": "number",
        "threshold_correct": "integer",
    },
    "ensemble_members": {"ensemble_id": "integer", "position": "integer", "run_id": "integer", "stage": "text"},
    "measurement_sets": {
        "id": "integer",
        "uid": "text",
        "label": "text",
        "suite": "text",
        "name": "text",
        "config": "json",
        "plugins": "json",
        "weights": "json",
        "device": "text",
        "device_name": "text",
        "python": "text",
        "torch": "text",
        "environment": "json",
        "status": "text",
        "message": "text",
        "commit": "text",
        "created_at": "time",
    },
    "set_measurements": {
        "set_id": "integer",
        "name": "text",
        "unit": "text",
        "batch_size": "integer",
        "device": "text",
        "details": "json",
        "index": "integer",
        "sample": "number",
    },
}

_BATCH = 500  # runs
_ROWS = 10_000  # at most, in memory
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

_ATTEMPTS = table_of(models.AttemptRow)
_DATASETS = table_of(models.DatasetRow)
_DATASET_SPLITS = table_of(models.DatasetSplitRow)
_ENSEMBLES = table_of(models.EnsembleRow)
_ENVIRONMENTS = table_of(models.EnvironmentRow)
_EPOCHS = table_of(models.EpochRow)
_EXPERIMENTS = table_of(models.ExperimentRow)
_MEASUREMENTS = table_of(models.MeasurementRow)
_MEASUREMENT_SETS = table_of(models.MeasurementSetRow)
_MEMBERS = table_of(models.EnsembleMemberRow)
_PREDICTIONS = table_of(models.PredictionRow)
_RUNS = table_of(models.RunRow)
_SPLITS = table_of(models.SplitRow)
_SET_MEASUREMENTS = table_of(models.SetMeasurementRow)
_STAGES = table_of(models.StageRow)
_SWEEPS = table_of(models.SweepRow)
_SWEEP_RUNS = table_of(models.SweepRunRow)
_TAGS = table_of(models.TagRow)

_ENVIRONMENT = (
    *(_ENVIRONMENTS.c[name] for name in ("device", "device_name", "python", "torch")),
    _ENVIRONMENTS.c.details.label("environment"),
)


def export(
    store: Store,
    folder: Path,
    format: Format,
    *,
    where: str = "",
    progress: Progress = lambda _done, _total: None,
) -> dict[str, int]:
    """Write a database's rows to a file for each table; return how many rows each has.

    Args:
        store: the database.
        folder: new or empty.
        format: of the files, and their suffix. ``parquet`` needs pyarrow.
        where: filter of runs; by default all.
        progress: told how many runs are done, and how many there are.

    Raises:
        StoreError: also where the folder is neither new nor empty. No file is left then.
        ConfigError: the filter cannot be used.
    """
    lost = frozenset(store.run_ids(Selection(status="lost")))
    run_ids = sorted(store.run_ids(Selection(where=where)))
    _prepare(folder)
    paths = {table: folder / f"{table}.{format}" for table in TABLES}
    try:
        with ExitStack() as stack:
            writers = {
                table: stack.enter_context(_WRITERS[format](path, TABLES[table])) for table, path in paths.items()
            }
            reader = _Reader(stack.enter_context(snapshot(store.database)), lost)
            counts = dict.fromkeys(TABLES, 0)
            progress(0, len(run_ids))
            for start in range(0, len(run_ids), _BATCH):
                for table, rows in reader.tables_of_runs(run_ids[start : start + _BATCH]):
                    writers[table].write(rows)
                    counts[table] += len(rows)
                progress(min(start + _BATCH, len(run_ids)), len(run_ids))
            sets = () if where else reader.sets()
            for table, rows in chain(reader.ensembles(frozenset(run_ids)), sets):
                writers[table].write(rows)
                counts[table] += len(rows)
    except BaseException as error:
        for path in paths.values():
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{folder}: it cannot be written: {error.strerror or error}") from error
        raise
    return counts


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f"{folder}: this folder is not empty; name a new one")
    except FileExistsError:
        raise StoreError(f"{folder}: this is a file; name a new folder") from None
    except OSError as error:
        raise StoreError(f"{folder}: it cannot be made: {error.strerror}") from error


# --- what is written -------------------------------------------------------------------------------------------------


class _Reader:
    """Yields rows under the columns of :data:`TABLES`, with the table they belong to."""

    def __init__(self, reader: Snapshot, lost: frozenset[int]) -> None:
        self._reader = reader
        self._lost = lost
        # A data set's images are the same for many runs, one after another.
        self._images = lru_cache(maxsize=8)(self._load_images)

    def tables_of_runs(self, ids: Sequence[int]) -> Iterator[tuple[str, list[Values]]]:
        """Yield everything of some runs."""
        yield "runs", self._runs(ids)
        stages = {
            row["id"]: {**row, "stage": row["name"]}
            for row in self._reader.all(select(_STAGES).where(_STAGES.c.run_id.in_(ids)).order_by(*_run_order(_STAGES)))
        }
        yield "stages", list(stages.values())
        of_stages = select(_STAGES.c.id).where(_STAGES.c.run_id.in_(ids))
        epochs = select(_EPOCHS).where(_EPOCHS.c.stage_id.in_(of_stages)).order_by(*_EPOCHS.primary_key)
        for portion in self._reader.portions(epochs):
            yield "epochs", [{**row, **_named(stages, row)} for row in portion]
        yield from self._predictions(ids, stages)
        samples = select(_MEASUREMENTS).where(_MEASUREMENTS.c.run_id.in_(ids)).order_by(*_run_order(_MEASUREMENTS))
        yield from self._samples("measurements", samples)
        attempts = select(_ATTEMPTS).where(_ATTEMPTS.c.run_id.in_(ids)).order_by(*_ATTEMPTS.primary_key)
        for portion in self._reader.portions(attempts):
            yield "attempts", portion

    def _runs(self, ids: Sequence[int]) -> list[Values]:
        query: Select[Any] = (
            select(
                _RUNS,
                _DATASETS.c.name.label("dataset"),
                _DATASETS.c.fingerprint,
                _DATASETS.c.synthetic,
                *_ENVIRONMENT,
            )
            .join(_DATASETS, _DATASETS.c.id == _RUNS.c.dataset_id)
            .outerjoin(_ENVIRONMENTS, _ENVIRONMENTS.c.id == _RUNS.c.environment_id)
            .where(_RUNS.c.id.in_(ids))
            .order_by(_RUNS.c.id)
        )
        rows = {row["id"]: {**row, "experiments": [], "tags": []} for row in self._reader.all(query)}
        for tag in self._reader.all(select(_TAGS).where(_TAGS.c.run_id.in_(ids)).order_by(*_TAGS.primary_key)):
            rows[tag["run_id"]]["tags"].append(tag["tag"])
        planned = (
            select(_SWEEP_RUNS.c.run_id, _EXPERIMENTS.c.name)
            .join(_SWEEPS, _SWEEPS.c.id == _SWEEP_RUNS.c.sweep_id)
            .join(_EXPERIMENTS, _EXPERIMENTS.c.id == _SWEEPS.c.experiment_id)
            .where(_SWEEP_RUNS.c.run_id.in_(ids))
            .order_by(_SWEEPS.c.created_at, _SWEEPS.c.id)
        )
        for link in self._reader.all(planned):
            names = rows[link["run_id"]]["experiments"]
            if link["name"] not in names:
                names.append(link["name"])
        for run_id in self._lost & rows.keys():
            rows[run_id]["status"] = "lost"
        return list(rows.values())

    def _predictions(self, ids: Sequence[int], stages: Mapping[int, Values]) -> Iterator[tuple[str, list[Values]]]:
        on_split = (_DATASET_SPLITS.c.dataset_id == _RUNS.c.dataset_id) & (
            _DATASET_SPLITS.c.name == _PREDICTIONS.c.split
        )
        query: Select[Any] = (
            select(_PREDICTIONS, _DATASET_SPLITS.c.split_id)
            .join(_STAGES, _STAGES.c.id == _PREDICTIONS.c.stage_id)
            .join(_RUNS, _RUNS.c.id == _STAGES.c.run_id)
            .join(_DATASET_SPLITS, on_split)
            .where(_RUNS.c.id.in_(ids))
            .order_by(*_PREDICTIONS.primary_key)
        )
        for portion in self._reader.portions(query, _PREDICTIONS.c.logits):
            for row in portion:
                known = {**_named(stages, row), "split": row["split"]}
                logits = unpack_logits(row["logits"], row["classes"])
                images = self._images(row["split_id"])
                for start in range(0, len(logits), _ROWS):
                    yield (
                        "predictions",
                        [
                            {**known, "image": image, "group": group, "label": label, "logits": of_image}
                            for (image, group, label), of_image in zip(
                                images[start : start + _ROWS], logits[start : start + _ROWS], strict=False
                            )
                        ],
                    )

    def _load_images(self, split_id: int) -> list[tuple[str, str, int]]:
        (row,) = self._reader.all(select(_SPLITS).where(_SPLITS.c.id == split_id))
        labels = unpack_labels(row["labels"]).tolist()
        return list(zip(unpack_strings(row["ids"]), unpack_strings(row["groups"]), labels, strict=True))

    def sets(self) -> Iterator[tuple[str, list[Values]]]:
        """Yield measurement sets, and their samples."""
        both: Select[Any] = select(_MEASUREMENT_SETS, *_ENVIRONMENT).order_by(_MEASUREMENT_SETS.c.id)
        with_environment = _ENVIRONMENTS.c.id == _MEASUREMENT_SETS.c.environment_id
        for portion in self._reader.portions(both.outerjoin(_ENVIRONMENTS, with_environment)):
            yield "measurement_sets", portion
        yield from self._samples("set_measurements", select(_SET_MEASUREMENTS).order_by(*_SET_MEASUREMENTS.primary_key))

    def _samples(self, name: str, query: Select[Any]) -> Iterator[tuple[str, list[Values]]]:
        for portion in self._reader.portions(query, query.selected_columns.samples):
            for row in portion:
                values = unpack_doubles(row["samples"]).tolist()
                for start in range(0, len(values), _ROWS):
                    part = enumerate(values[start : start + _ROWS], start)
                    yield name, [{**row, "index": index, "sample": value} for index, value in part]

    def ensembles(self, run_ids: frozenset[int]) -> Iterator[tuple[str, list[Values]]]:
        """Yield the ensembles of which every member is in ``run_ids``, and those members."""
        columns = [column for column in _ENSEMBLES.c if column.name not in ("labels", "scores")]
        query: Select[Any] = (
            select(
                *columns, _EXPERIMENTS.c.name.label("experiment"), _DATASETS.c.name.label("dataset"),
                _DATASETS.c.fingerprint,
            )
            .join(_EXPERIMENTS, _EXPERIMENTS.c.id == _ENSEMBLES.c.experiment_id)
            .join(_DATASETS, _DATASETS.c.id == _ENSEMBLES.c.dataset_id)
            .order_by(_ENSEMBLES.c.id)
        )  # fmt: skip
        for portion in self._reader.portions(query):
            members: dict[int, list[Values]] = {row["id"]: [] for row in portion}
            of_these = select(_MEMBERS).where(_MEMBERS.c.ensemble_id.in_(members)).order_by(*_MEMBERS.primary_key)
            for member in self._reader.all(of_these):
                members[member["ensemble_id"]].append(member)
            chosen = [row for row in portion if all(member["run_id"] in run_ids for member in members[row["id"]])]
            yield "ensembles", chosen
            yield "ensemble_members", [member for row in chosen for member in members[row["id"]]]


def _run_order(table: Any) -> tuple[Any, Any]:
    return table.c.run_id, table.c.get("index", table.c.id)


def _named(stages: Mapping[int, Values], row: Values) -> Values:
    stage = stages[row["stage_id"]]
    return {"run_id": stage["run_id"], "stage": stage["name"]}


# --- how it is written -----------------------------------------------------------------------------------------------


class _Writer(Protocol):
    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None: ...

    def __enter__(self) -> _Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def write(self, rows: Sequence[Values]) -> None: ...


class _TextWriter:
    """A text file. What UTF-8 or a reader cannot take, as odd file names hold, becomes backslash escapes."""

    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        self._columns = columns
        self._file: TextIO = path.open("w", encoding="utf-8", newline="")

    def __enter__(self) -> _TextWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, rows: Sequence[Values]) -> None:
        raise NotImplementedError


class _CsvWriter(_TextWriter):
    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        super().__init__(path, columns)
        self._csv = csv.writer(self._file, lineterminator="\r\n")
        self._csv.writerow(columns)

    def write(self, rows: Sequence[Values]) -> None:
        self._csv.writerows([_cell(row[name], kind) for name, kind in self._columns.items()] for row in rows)


def _cell(value: Any, kind: Kind) -> Any:
    if value is None:
        return ""
    match kind:
        case "integer" | "number":
            return value
        case "numbers":
            return ";".join(map(str, value))
        case "time":
            return value.isoformat()
        case "truth":
            return "true" if value else "false"
        case "json":
            text = _json(value)
        case "texts":
            text = _clean(";".join(value))
        case "text":
            text = _clean(str(value))
    return csv_text(text)


def csv_text(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


class _JsonWriter(_TextWriter):
    def write(self, rows: Sequence[Values]) -> None:
        for row in rows:
            record = {name: _jsonable(row[name]) for name in self._columns}
            self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _jsonable(value: Any) -> Any:
    """Return a value as JSON knows it."""
    match value:
        case str():
            return _clean(value)
        case float():
            return value if math.isfinite(value) else None
        case datetime():
            return value.isoformat()
        case dict():
            return {_clean(str(key)): _jsonable(item) for key, item in value.items()}
        case list() | tuple() | np.ndarray():
            return [_jsonable(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return value


class _ParquetWriter:
    def __init__(self, path: Path, columns: Mapping[str, Kind]) -> None:
        import pyarrow
        from pyarrow import parquet

        kinds = {
            "text": pyarrow.string(),
            "texts": pyarrow.list_(pyarrow.string()),
            "integer": pyarrow.int64(),
            "number": pyarrow.float64(),
            "numbers": pyarrow.list_(pyarrow.float32()),
            "truth": pyarrow.bool_(),
            "time": pyarrow.timestamp("us", "UTC"),
            "json": pyarrow.string(),
        }
        self._columns = columns
        self._rows: list[Values] = []  # not yet written: a row group of a few rows is slow to read
        self._pyarrow = pyarrow
        self._schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self._parquet = parquet.ParquetWriter(path, self._schema)

    def __enter__(self) -> _ParquetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._parquet.close()

    def write(self, rows: Sequence[Values]) -> None:
        self._rows += rows
        if len(self._rows) >= _ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [[_parquet_value(row[name], kind) for row in self._rows] for name, kind in self._columns.items()]
            arrays = [self._pyarrow.array(values, of.type) for values, of in zip(columns, self._schema, strict=True)]
            self._parquet.write_batch(self._pyarrow.record_batch(arrays, schema=self._schema))
            self._rows.clear()


def _parquet_value(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "text":
        return _clean(str(value))
    if kind == "texts":
        return [_clean(text) for text in value]
    return _json(value) if kind == "json" else value


def _json(value: Any) -> str:
    return json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False)


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


_WRITERS: Mapping[str, type[_Writer]] = {"csv": _CsvWriter, "jsonl": _JsonWriter, "parquet": _ParquetWriter}
