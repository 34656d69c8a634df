"""What keeps a database in order: what is in it, whether all of it fits together, and what of it nobody needs."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import JSON, Connection, func, or_, select, text
from sqlalchemy.orm import Session

from harness.analysis import metrics
from harness.analysis.validation import classify_at, threshold_on_validation
from harness.errors import StoreError
from harness.paths import checkpoint_dir, checkpoints_dir, is_checkpoint
from harness.results import RunStatus, Selection
from harness.store import models, open_store
from harness.store.codec import sha256, unpack_doubles, unpack_labels, unpack_logits, unpack_strings
from harness.store.database import Database, connect, explained
from harness.store.schema import revision
from harness.store.shared import remove_unused
from harness.store.snapshot import Snapshot, has_shape, snapshot, table_of, types_of
from harness.store.store import Store

__all__ = ["Finding", "Info", "Removed", "Upgraded", "check", "collect_garbage", "info", "upgrade"]

Values = dict[str, Any]
Progress = Callable[[int, int], None]

_ATTEMPTS = table_of(models.AttemptRow)
_DATASETS = table_of(models.DatasetRow)
_DATASET_SPLITS = table_of(models.DatasetSplitRow)
_ENSEMBLES = table_of(models.EnsembleRow)
_MEASUREMENTS = table_of(models.MeasurementRow)
_SET_MEASUREMENTS = table_of(models.SetMeasurementRow)
_PREDICTIONS = table_of(models.PredictionRow)
_PLANNED = select(models.SweepRunRow.run_id).distinct()
_RUNS = table_of(models.RunRow)
_SPLITS = table_of(models.SplitRow)
_STAGES = table_of(models.StageRow)

_ENDED = ("completed", "failed", "interrupted")
_STORED_AS: Mapping[type, str] = {  # by SQLite
    bool: "integer",
    bytes: "blob",
    datetime: "text",
    dict: "text",
    float: "real",
    int: "integer",
    list: "text",
    str: "text",
    type(None): "null",
}


# --- its schema ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Upgraded:
    """The revisions of a schema before and after. ``message`` says where the copy from before is, if one was made."""

    before: str
    after: str
    message: str


def upgrade(url: str) -> Upgraded:
    """Bring a database's schema up to date.

    Raises:
        StoreError: it cannot be opened, or its schema is newer than this version of harness.
    """
    database = connect(url, create=False)
    try:
        with explained(database.name), database.engine.connect() as connection:
            before = revision(connection)
    finally:
        database.engine.dispose()
    said: list[str] = []
    with (
        open_store(url, create=False, say=said.append) as store,
        explained(store.database.name),
        store.database.engine.connect() as connection,
    ):
        return Upgraded(before, revision(connection), " ".join(said))


# --- what is in it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Info:
    """A database in figures. ``name`` is a path, or a URL without its password; ``engine`` says which database it is.

    ``bytes_per_prediction`` is what the logits of one image take, and None where none are stored.
    """

    name: str
    engine: str
    revision: str
    bytes: int
    rows: Mapping[str, int]
    runs: Mapping[str, int]
    predictions: int
    bytes_per_prediction: float | None
    oldest_run: Values | None
    newest_run: Values | None


def info(store: Store) -> Info:
    """Describe a database.

    Raises:
        StoreError: it cannot be read.
    """
    database = store.database
    lost = len(store.run_ids(Selection(status="lost")))
    with snapshot(database) as reader, explained(database.name):
        connection = reader.connection
        statuses = select(_RUNS.c.status, func.count()).group_by(_RUNS.c.status)
        runs: dict[str, int] = dict(connection.execute(statuses).all())
        runs |= {"running": max(0, runs.get("running", 0) - lost), "lost": lost}
        stored = select(func.sum(_PREDICTIONS.c.n), func.sum(func.length(_PREDICTIONS.c.logits)))
        images, size = connection.execute(stored).one()
        tables = sorted(models.Base.metadata.tables.values(), key=lambda table: table.name)
        return Info(
            name=database.name,
            engine=_engine(connection),
            revision=revision(connection),
            bytes=_size(database, connection),
            rows={table.name: connection.scalar(select(func.count()).select_from(table)) or 0 for table in tables},
            runs={status: runs[status] for status in get_args(RunStatus) if runs.get(status)},
            predictions=int(images or 0),
            bytes_per_prediction=int(size) / int(images) if images else None,
            oldest_run=_run_at_end(connection, _RUNS.c.created_at.asc(), _RUNS.c.id.asc()),
            newest_run=_run_at_end(connection, _RUNS.c.created_at.desc(), _RUNS.c.id.desc()),
        )


def _engine(connection: Connection) -> str:
    if connection.dialect.name == "postgresql":
        return f"PostgreSQL {connection.scalar(text('SHOW server_version'))}"
    mode = connection.scalar(text("PRAGMA journal_mode"))
    return f"SQLite {connection.scalar(text('SELECT sqlite_version()'))}, journal mode {mode}"


def _size(database: Database, connection: Connection) -> int:
    if database.path is None:
        return connection.scalar(text("SELECT pg_database_size(current_database())")) or 0
    files = (database.path.with_name(database.path.name + suffix) for suffix in ("", "-wal", "-shm"))
    return sum(file.stat().st_size for file in files if file.exists())


def _run_at_end(connection: Connection, *order: Any) -> Values | None:
    row = connection.execute(select(_RUNS.c.id, _RUNS.c.created_at).order_by(*order).limit(1)).mappings().first()
    return dict(row) if row else None


# --- whether it fits together ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """Something that does not fit; ``note`` is something to know that is no damage."""

    text: str
    note: bool = False


def check(
    store: Store,
    *,
    expected_hash: Callable[[Mapping[str, Any]], str | None] = lambda _config: None,
    progress: Progress = lambda _done, _total: None,
) -> Iterator[Finding]:
    """Look at every row whether it fits the others, and at a file of SQLite whether it is whole.

    Args:
        store: the database.
        expected_hash: returns the hash of a run's config, or None where it cannot tell.
        progress: told how many rows have been looked at, and how many there are.

    Raises:
        StoreError: nothing of it can be read.
    """
    with snapshot(store.database) as reader:
        yield from _Checker(store, reader, expected_hash, progress).everything()


@dataclass
class _Checker:
    store: Store
    reader: Snapshot
    expected_hash: Callable[[Mapping[str, Any]], str | None]
    progress: Progress
    done: int = 0
    total: int = 0
    classes: dict[int, int] = field(default_factory=dict)  # of each data set

    def everything(self) -> Iterator[Finding]:
        self.labels = lru_cache(maxsize=8)(self._labels)
        about_rows = (self._splits, self._runs, self._predictions, self._measurements, self._ensembles, self._lost)
        sections: tuple[Callable[[], Iterable[Finding]], ...] = (self._file, self._types, self._shapes, self._look_up)
        failed = set()
        for section in (*sections, *about_rows):
            try:
                yield from section()
            except StoreError as error:
                if str(error) not in failed:
                    yield Finding(str(error))
                failed.add(str(error))

    def _look_up(self) -> Iterable[Finding]:
        looked_at = (_SPLITS, _RUNS, _PREDICTIONS, _ENSEMBLES)
        with explained(self.reader.name):
            counts = [self.reader.connection.scalar(select(func.count()).select_from(each)) for each in looked_at]
        self.total = sum(count or 0 for count in counts)
        for row in self.reader.all(select(_DATASETS.c.id, _DATASETS.c.classes)):
            if isinstance(row["classes"], list):
                self.classes[row["id"]] = len(row["classes"])
        return ()

    def _went_on(self, rows: int) -> None:
        self.done += rows
        self.progress(self.done, self.total)

    def _file(self) -> Iterator[Finding]:
        if self.store.database.path is None:
            return  # PostgreSQL lets in no row that refers to nothing
        with explained(self.reader.name):
            for (line,) in self.reader.connection.execute(text("PRAGMA integrity_check")):
                if line != "ok":
                    yield Finding(f"the file is damaged: {' '.join(line.split())}; go back to a copy of it")
            for table, row_id, parent, _ in self.reader.connection.execute(text("PRAGMA foreign_key_check")):
                yield Finding(f"row {row_id} of {table} refers to a row of {parent} that is not there")

    def _types(self) -> Iterator[Finding]:
        if self.store.database.path is None:
            return  # PostgreSQL lets in no value of another type
        for table in models.Base.metadata.sorted_tables:
            kinds = {column.name: func.typeof(text(f'"{column.name}"')) for column in table.c}
            proper = {column.name: {_STORED_AS[kind] for kind in types_of(column)} for column in table.c}
            odd = or_(*(kind.not_in(proper[name]) for name, kind in kinds.items()))
            found = select(text("rowid AS row_number"), *(kind.label(name) for name, kind in kinds.items()))
            for portion in self.reader.portions(found.select_from(table).where(odd)):
                for row in portion:
                    for name in kinds:
                        if row[name] not in proper[name]:
                            where = f"row {row['row_number']} of {table.name}"
                            yield Finding(f"{where}: {name} holds a value of the type {row[name]}")

    def _shapes(self) -> Iterator[Finding]:
        for table in models.Base.metadata.sorted_tables:
            columns = [column for column in table.c if isinstance(column.type, JSON)]
            if not columns:
                continue
            for portion in self.reader.portions(select(*table.primary_key, *columns)):
                for row in portion:
                    for column in columns:
                        if not has_shape(column, row[column.name]):
                            key = ", ".join(str(row[each.name]) for each in table.primary_key)
                            yield Finding(f"{table.name} {key}: its {column.name} is not of the form that it should be")

    def _splits(self) -> Iterator[Finding]:
        users: dict[int, list[int]] = {}
        for row in self.reader.all(select(_DATASET_SPLITS.c.split_id, _DATASET_SPLITS.c.dataset_id)):
            users.setdefault(row["split_id"], []).append(row["dataset_id"])
        for portion in self.reader.portions(select(_SPLITS).order_by(_SPLITS.c.id), _SPLITS.c.ids):
            for row in portion:
                yield from self._judged(f"split {row['id']}", self._split, row, users.get(row["id"], []))
            self._went_on(len(portion))

    def _split(self, row: Values, datasets: list[int]) -> Iterator[str]:
        ids, groups, labels = unpack_strings(row["ids"]), unpack_strings(row["groups"]), unpack_labels(row["labels"])
        for name, values in (("ids", ids), ("groups", groups), ("labels", labels)):
            if len(values) != row["n"]:
                yield f"it has {len(values)} {name} for {row['n']} images"
        if sha256({"ids": ids, "groups": groups, "labels": labels.tolist()}) != row["sha256"]:
            yield "its ids, groups and labels do not have its sha256"
        for dataset_id in datasets:
            classes = self.classes.get(dataset_id)
            if classes is not None and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
                yield f"it has labels up to {labels.max()}, and data set {dataset_id} has {classes} classes"

    # --- runs ------------------------------------------------------------------------------------------------------

    def _runs(self) -> Iterator[Finding]:
        for portion in self.reader.portions(select(_RUNS).order_by(_RUNS.c.id)):
            ids = [row["id"] for row in portion]
            stages: dict[int, list[Values]] = {}
            of_runs = select(_STAGES).where(_STAGES.c.run_id.in_(ids)).order_by(_STAGES.c.index)
            for row in self.reader.all(of_runs):
                stages.setdefault(row["run_id"], []).append(row)
            pairs = select(_PREDICTIONS.c.stage_id, _PREDICTIONS.c.split).join(_STAGES)
            predicted = {tuple(row.values()) for row in self.reader.all(pairs.where(_STAGES.c.run_id.in_(ids)))}
            ends = select(_ATTEMPTS.c.run_id, _ATTEMPTS.c.number, _ATTEMPTS.c.outcome)
            attempts = {
                (row["run_id"], row["number"]): row["outcome"]
                for row in self.reader.all(ends.where(_ATTEMPTS.c.run_id.in_(ids)))
            }
            splits = self._splits_of({row["dataset_id"] for row in portion})
            planned = {row["run_id"] for row in self.reader.all(_PLANNED.where(models.SweepRunRow.run_id.in_(ids)))}
            for row in portion:
                if row["id"] not in planned:
                    yield Finding(f"run {row['id']}: it is of no sweep, so no list can show it")
                of_run = stages.get(row["id"], [])
                wanted = splits.get(row["dataset_id"], [])
                yield from self._judged(f"run {row['id']}", self._run, row, of_run, attempts)
                if row["status"] == "completed":
                    yield from self._judged(f"run {row['id']}", self._completed, of_run, wanted, predicted)
            self._went_on(len(portion))

    def _splits_of(self, dataset_ids: set[int]) -> dict[int, list[str]]:
        splits: dict[int, list[str]] = {}
        links = select(_DATASET_SPLITS.c.dataset_id, _DATASET_SPLITS.c.name)
        for row in self.reader.all(links.where(_DATASET_SPLITS.c.dataset_id.in_(dataset_ids))):
            splits.setdefault(row["dataset_id"], []).append(row["name"])
        return splits

    def _run(self, row: Values, stages: list[Values], attempts: Mapping[tuple[int, int], str | None]) -> Iterator[str]:
        if row["status"] not in get_args(RunStatus):
            yield f"its status is {row['status']!r}"
        if row["attempt"] and (row["id"], row["attempt"]) not in attempts:
            yield f"its last attempt, number {row['attempt']}, is not stored"
        elif row["status"] in _ENDED and attempts.get((row["id"], row["attempt"])) != row["status"]:
            yield f"its status is {row['status']!r}, which is not how its last attempt ended"
        expected = self.expected_hash(row["config"])
        if expected is not None and expected != row["config_hash"]:
            yield f"its config has the hash {expected}, and {row['config_hash']!r} is stored"
        tested = [stage for stage in stages if stage["test_images"] and stage["test_correct"] is not None]
        accuracy = tested[-1]["test_correct"] / tested[-1]["test_images"] if tested else None
        auc = tested[-1]["test_auc"] if tested else None
        of = f"the stage {tested[-1]['name']!r}, tested last, has" if tested else "its tested stages, none, have"
        if not _equal(row["test_accuracy"], accuracy):
            yield f"its test accuracy is {row['test_accuracy']}, and {of} {accuracy}"
        if not _equal(row["test_auc"], auc):
            yield f"its AUC is {row['test_auc']}, and {of} {auc}"

    def _completed(self, stages: list[Values], splits: list[str], predicted: set[Any]) -> Iterator[str]:
        if not stages:
            yield "it completed, and has no stage"
        for stage in stages:
            for split in splits:
                if (stage["id"], split) not in predicted:
                    yield f"it completed, and has no predictions of {split!r} after {stage['name']!r}"

    def _predictions(self) -> Iterator[Finding]:
        on_split = (_DATASET_SPLITS.c.dataset_id == _RUNS.c.dataset_id) & (
            _DATASET_SPLITS.c.name == _PREDICTIONS.c.split
        )
        figures = (
            "name", "run_id", "val_accuracy", "test_images", "test_correct", "test_auc", "test_confusion", "threshold",
            "threshold_correct",
        )  # fmt: skip
        query = (
            select(_PREDICTIONS, *(_STAGES.c[name] for name in figures), _RUNS.c.dataset_id, _DATASET_SPLITS.c.split_id)
            .join(_STAGES, _STAGES.c.id == _PREDICTIONS.c.stage_id)
            .join(_RUNS, _RUNS.c.id == _STAGES.c.run_id)
            .outerjoin(_DATASET_SPLITS, on_split)
        )
        for portion in self.reader.portions(query, _PREDICTIONS.c.logits):
            for row in portion:
                where = f"run {row['run_id']}, stage {row['name']!r}, split {row['split']!r}"
                yield from self._judged(where, self._prediction, row)
            self._went_on(len(portion))

    def _prediction(self, row: Values) -> Iterator[str]:
        n, classes = row["n"], row["classes"]
        if not (isinstance(n, int) and isinstance(classes, int) and isinstance(row["logits"], bytes)):
            return  # which is found of the types
        if len(row["logits"]) != 4 * n * classes:
            yield f"its logits take {len(row['logits'])} bytes; {n} images of {classes} classes take {4 * n * classes}"
            return
        if row["split_id"] is None:
            yield "its data set has no such split"
            return
        if (known := self.classes.get(row["dataset_id"])) not in (None, classes):
            yield f"it has {classes} classes, and its data set has {known}"
            return
        labels = self.labels(row["split_id"])
        if labels is None:  # which is found of the split
            return
        if len(labels) != n:
            yield f"it has logits of {n} images, and the split has {len(labels)}"
            return
        logits = unpack_logits(row["logits"], classes)
        predicted = metrics.classify(logits) if n else labels
        expected: Values = {}
        if row["split"] == "val":
            expected["val_accuracy"] = metrics.accuracy(labels, predicted)
            if row["threshold"] is not None:
                expected["threshold"] = threshold_on_validation(labels, metrics.softmax(logits)[:, 1])
        elif row["split"] == "test":
            expected = {
                "test_images": n,
                "test_correct": metrics.correct(labels, predicted),
                "test_auc": metrics.auc(labels, metrics.softmax(logits)),
                "test_confusion": metrics.confusion(labels, predicted, classes).tolist(),
            }
            if row["threshold"] is not None:
                decided = classify_at(metrics.softmax(logits)[:, 1], row["threshold"])
                expected["threshold_correct"] = metrics.correct(labels, decided)
        for name, value in expected.items():
            if not _equal(row[name], value):
                yield f"its {name} is {row[name]}; its logits and labels give {value}"

    # --- measurements and ensembles --------------------------------------------------------------------------------

    def _measurements(self) -> Iterator[Finding]:
        of = {"run": _MEASUREMENTS.c.run_id, "measurement set": _SET_MEASUREMENTS.c.set_id}
        for what, owner in of.items():
            table = owner.table.c
            length = func.length(table.samples)
            query = select(owner.label("owner"), table.name, table.n, length.label("length"))
            for portion in self.reader.portions(query.where(length != 8 * table.n)):
                for row in portion:
                    yield Finding(
                        f"{what} {row['owner']}, measurement {row['name']!r}: its samples take {row['length']} bytes; "
                        f"{row['n']} of them take {8 * row['n']}"
                    )

    def _ensembles(self) -> Iterator[Finding]:
        on_split = (_DATASET_SPLITS.c.dataset_id == _ENSEMBLES.c.dataset_id) & (
            _DATASET_SPLITS.c.name == _ENSEMBLES.c.split
        )
        query = select(_ENSEMBLES, _DATASET_SPLITS.c.split_id).outerjoin(_DATASET_SPLITS, on_split)
        for portion in self.reader.portions(query.order_by(_ENSEMBLES.c.id), _ENSEMBLES.c.scores):
            for row in portion:
                yield from self._judged(f"ensemble {row['id']} ({row['method']!r})", self._ensemble, row)
            self._went_on(len(portion))

    def _ensemble(self, row: Values) -> Iterator[str]:
        images, classes = row["images"], self.classes.get(row["dataset_id"])
        decided, scores = unpack_labels(row["labels"]), unpack_doubles(row["scores"])
        if len(decided) != images:
            yield f"it has {len(decided)} labels for {images} images"
            return
        if classes is not None and len(scores) != images * classes:
            yield f"it has {len(scores)} scores for {images} images of {classes} classes"
        if row["split_id"] is None:
            yield f"its data set has no split {row['split']!r}"
            return
        labels = self.labels(row["split_id"])
        if labels is not None and len(labels) != images:
            yield f"it decided on {images} images, and the split {row['split']!r} has {len(labels)}"
        elif labels is not None and (correct := metrics.correct(labels, decided)) != row["correct"]:
            yield f"it says that {row['correct']} images are right; its labels give {correct}"
        elif labels is not None and row["threshold"] is not None and classes == 2:
            at_threshold = metrics.correct(labels, classify_at(scores.reshape(images, 2)[:, 1], row["threshold"]))
            if at_threshold != row["threshold_correct"]:
                yield (
                    f"it says that {row['threshold_correct']} images are right at its threshold; its scores give "
                    f"{at_threshold}"
                )

    def _lost(self) -> Iterator[Finding]:
        for run_id in sorted(self.store.run_ids(Selection(status="lost"))):
            known = f"run {run_id} was recorded as running, and its process is gone"
            yield Finding(f"{known}; `harness resume` goes on with it", note=True)

    # --- help ------------------------------------------------------------------------------------------------------

    def _judged(self, where: str, judge: Callable[..., Iterator[str]], *arguments: Any) -> Iterator[Finding]:
        """Yield what ``judge`` says of a row; SQLite takes any value for any column, so that it may fail."""
        try:
            for said in judge(*arguments):
                yield Finding(f"{where}: {said}")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, zlib.error) as error:
            yield Finding(f"{where}: a stored value cannot be read: {' '.join(str(error).split())}")

    def _labels(self, split_id: int) -> NDArray[np.int64] | None:
        try:
            (row,) = self.reader.all(select(_SPLITS.c.labels).where(_SPLITS.c.id == split_id))
            return unpack_labels(row["labels"])
        except (ValueError, TypeError, zlib.error):
            return None


def _equal(stored: Any, expected: Any) -> bool:
    """Compare a figure with one computed again, which may differ in its last digits; NaN is stored as None."""
    if isinstance(expected, float):
        if expected != expected:
            return stored is None
        return isinstance(stored, float | int) and isclose(stored, expected, rel_tol=1e-9, abs_tol=1e-9)
    return bool(stored == expected)


# --- what nobody needs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Removed:
    """What was removed: ``rows`` by table, and checkpoints. ``bytes`` is what that freed on disk."""

    rows: Mapping[str, int]
    checkpoints: int
    checkpoint_bytes: int
    database_bytes: int

    @property
    def bytes(self) -> int:
        """What was freed in all."""
        return self.checkpoint_bytes + self.database_bytes


def collect_garbage(store: Store, *, all_checkpoints: bool = False, dry_run: bool = False) -> Removed:
    """Remove rows that nothing refers to, and checkpoints of runs that completed; give SQLite's free space back.

    Args:
        store: the database.
        all_checkpoints: also remove checkpoints that belong to no run of this database, such as those of others.
        dry_run: only tell what would be removed. What SQLite would give back beside it is estimated.

    Raises:
        StoreError: the database cannot be written, or a checkpoint not be removed.
    """
    database = store.database
    folders = _unneeded_checkpoints(database, all_checkpoints=all_checkpoints)
    sizes = [_bytes_in(folder) for folder in folders]
    with explained(database.name), Session(database.writer) as session:
        before = _size(database, session.connection())
        rows = remove_unused(session)
        if dry_run:
            freed = _free_pages(session.connection()) if database.path else 0
            session.rollback()
            return Removed(rows, len(folders), sum(sizes), freed)
        session.commit()
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass  # its run removed it, or goes on and writes a new one
        except OSError as error:
            raise StoreError(f"the checkpoint {folder} cannot be removed: {error.strerror}") from error
    freed = 0
    if database.path:
        with explained(database.name), database.writer.connect() as connection:
            connection.exec_driver_sql("COMMIT")  # of what SQLAlchemy began: VACUUM runs in no transaction
            connection.exec_driver_sql("VACUUM")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            freed = max(0, before - _size(database, connection))
    return Removed(rows, len(folders), sum(sizes), freed)


def _bytes_in(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # its run goes on, or ends, meanwhile
            total += file.stat().st_size
    return total


def _unneeded_checkpoints(database: Database, *, all_checkpoints: bool) -> list[Path]:
    # Listed before the runs are read: a checkpoint made meanwhile may be of a run planned meanwhile.
    parent = checkpoints_dir()
    entries = list(parent.iterdir()) if parent.is_dir() else []
    found = {entry.name: entry for entry in entries if is_checkpoint(entry)}
    if not found:
        return []
    unneeded = []
    with snapshot(database) as reader:
        for portion in reader.portions(select(_RUNS.c.uid, _RUNS.c.status)):
            for row in portion:
                folder = found.pop(checkpoint_dir(row["uid"]).name, None)
                if folder and row["status"] == "completed":
                    unneeded.append(folder)
    return sorted([*unneeded, *(found.values() if all_checkpoints else ())])


def _free_pages(connection: Connection) -> int:
    pages, size = (connection.scalar(text(f"PRAGMA {name}")) or 0 for name in ("freelist_count", "page_size"))
    return int(pages) * int(size)
