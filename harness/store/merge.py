"""What other databases hold, copied into one. It is data alone: nothing of it is executed, or used as a path.

Rows are found again by what is the same in every database: runs, sweeps and ensembles by uid, experiments by name, data
sets by fingerprint, splits and environments by sha256. Runs are copied in batches, each with everything that it refers
to in one transaction, so that a merge that is killed leaves whole runs, and the same merge again does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    MetaData,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, StatementError

from harness.errors import StoreError
from harness.results import Selection
from harness.store import models, open_store
from harness.store.backup import copy_sqlite
from harness.store.database import Database, connect, explained
from harness.store.schema import alembic_config, prepare, revision
from harness.store.snapshot import Snapshot, has_shape, snapshot, table_of, types_of
from harness.store.store import Store

__all__ = ["Merged", "back_up", "merge", "opened_unchanged"]

Values = dict[str, Any]
Progress = Callable[[int, int], None]

_BATCH = 200  # runs, or ensembles, in a transaction at most
_BATCH_BYTES = 64 * 2**20  # of logits

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


@dataclass
class Merged:
    """What a merge did. ``left_out`` are ensembles of runs that were left out; ``notes`` says which runs, and why."""

    new_runs: int = 0
    updated_runs: int = 0
    known_runs: int = 0
    new_ensembles: int = 0
    known_ensembles: int = 0
    new_sets: int = 0
    known_sets: int = 0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)


def merge(
    url: str,
    sources: Sequence[str],
    *,
    say: Callable[[str], None] = lambda _text: None,
    progress: Progress = lambda _done, _total: None,
) -> Merged:
    """Copy into a database what others hold and it does not. Doing so again changes nothing.

    A run that both hold stays as it is, unless the other database's went further: it completed, or had more attempts,
    or more epochs. It then takes its place under the same number. Sweeps and tags of both are united; a note is kept
    unless it is empty. A run that is being executed, there or here, is left alone. Of two passports of a data set that
    stays which says more.

    Args:
        url: the database to copy into, made where it is missing.
        sources: databases to copy from, which are not changed.
        say: told where the schema of ``url`` was brought up to date.
        progress: told how many runs and ensembles of a source are done, and how many there are.

    Raises:
        StoreError: a database cannot be used, or a source is ``url`` itself. What was copied before is kept.
    """
    merged = Merged()
    with ExitStack() as stack:
        for source in sources:
            _refuse_itself(source, url)
        opened = [stack.enter_context(opened_unchanged(source)) for source in sources]
        target = stack.enter_context(open_store(url, say=say))
        for store in opened:
            _copy(store, target, merged, progress)
    return merged


def back_up(url: str, path: Path, *, progress: Progress = lambda _done, _total: None) -> None:
    """Write a database, as it is at one moment, to a new SQLite file: with all numbers, and whoever writes meanwhile.

    Raises:
        StoreError: there is a file of that name, or one of both cannot be read or written.
    """
    if path.exists() or path.is_symlink():
        raise StoreError(f"{path}: it is there already; name a new file for the copy")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist; create it")
    source = connect(url, create=False)
    try:
        if source.path:
            with explained(source.name), source.engine.connect() as connection:
                if not revision(connection):
                    prepare(source, create=False)  # which says what it is instead
            copy_sqlite(source.path, path)
            return
    finally:
        source.engine.dispose()
    with TemporaryDirectory(dir=path.parent, prefix=".harness-") as folder, opened_unchanged(url) as store:
        rows = Path(folder) / path.name
        with open_store(str(rows)) as target:
            _copy(store, target, Merged(), progress, exact=True)
        copy_sqlite(rows, path)


@contextmanager
def opened_unchanged(url: str) -> Iterator[Store]:
    """Open a database to read, and leave it as it is: of an older schema, a copy is made and brought up to date.

    Raises:
        StoreError: as :func:`harness.store.open_store` does.
    """
    with ExitStack() as stack:
        database = connect(url, create=False)
        stack.callback(database.engine.dispose)
        with explained(database.name):
            older = _older_revision(database)
            if not older:
                prepare(database, create=False)
        if older:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="harness-")))
            copy = folder / "copy.db"
            if database.path:
                copy_sqlite(database.path, copy)
            else:
                _copy_older(database, copy, older)
            store = stack.enter_context(open_store(str(copy)))
            database = replace(store.database, name=database.name)
        yield Store(database)


def _older_revision(database: Database) -> str:
    """Return the revision of a schema that this package could bring up to date; empty of any other."""
    with database.engine.connect() as connection:
        found = revision(connection)
        scripts = ScriptDirectory.from_config(alembic_config(connection))
    older = {script.revision for script in scripts.walk_revisions()} - {scripts.get_current_head()}
    return found if found in older else ""


def _copy_older(source: Database, path: Path, found: str) -> None:
    """Copy every row of an older schema, which no model describes, to a new SQLite file."""
    target = connect(str(path), create=True)
    with ExitStack() as stack:
        stack.callback(target.engine.dispose)
        reader = stack.enter_context(snapshot(source))
        stack.enter_context(explained(target.name))
        connection = stack.enter_context(target.writer.begin())
        command.upgrade(alembic_config(connection), found)
        there, here = MetaData(), MetaData()
        there.reflect(reader.connection)
        here.reflect(connection)
        for table in here.sorted_tables:
            for column in table.c:
                if isinstance(column.type, JSON):
                    column.type.none_as_null = True
            if table.name != "alembic_version":
                for portion in reader.portions(select(there.tables[table.name])):
                    connection.execute(insert(table), [_in_utc(row) for row in portion])


def _in_utc(row: Values) -> Values:
    return {key: value.astimezone(UTC) if isinstance(value, datetime) else value for key, value in row.items()}


def _refuse_itself(source: str, target: str) -> None:
    one, other = connect(source, create=False), connect(target, create=True)
    try:
        if one.path and other.path:
            same = other.path.exists() and one.path.samefile(other.path)
        else:
            same = not one.path and not other.path and _server(one) == _server(other)
    finally:
        one.engine.dispose()
        other.engine.dispose()
    if same:
        raise StoreError(f"results database {one.name}: it cannot be merged into itself; name another with --db")


def _server(database: Database) -> tuple[Any, ...]:
    query = "SELECT pg_postmaster_start_time(), oid FROM pg_database WHERE datname = current_database()"
    with explained(database.name), database.engine.connect() as connection:
        return tuple(connection.execute(text(query)).one())


def _copy(source: Store, target: Store, merged: Merged, progress: Progress, *, exact: bool = False) -> None:
    """Copy what ``target`` does not hold.

    Args:
        source: where from.
        target: where to.
        merged: is added to.
        progress: told how far it is.
        exact: keep every number, and copy runs that are being executed too; ``target`` is empty then.
    """
    running = Selection(status="running")
    before = source.run_ids(running)
    with snapshot(source.database) as reader:
        copied = {
            _RUNS: _Batch.copy_runs,
            _ENSEMBLES: _Batch.copy_ensembles,
            _MEASUREMENT_SETS: _Batch.copy_sets,
        }
        counts = [reader.connection.scalar(select(func.count()).select_from(table)) for table in copied]
        alive = frozenset() if exact else frozenset(before + source.run_ids(running))
        total, done = sum(count or 0 for count in counts), 0
        progress(done, total)
        for table, copy in copied.items():
            columns = [column for column in table.c if column.name not in ("labels", "scores")]
            query = rest = select(*columns).order_by(table.c.id).limit(_BATCH)
            while rows := reader.all(rest):
                for part in _of_bounded_size(reader, rows) if table is _RUNS else [rows]:
                    with _writing(target.database, reader) as connection:
                        copy(_Batch(reader, connection, target, alive, exact, merged), part)
                    done += len(part)
                    progress(done, total)
                rest = query.where(table.c.id > rows[-1]["id"])
        with _writing(target.database, reader) as connection:
            _Batch(reader, connection, target, alive, exact, merged).copy_passports()


def _of_bounded_size(reader: Snapshot, runs: list[Values]) -> Iterator[list[Values]]:
    """Split runs so that a transaction does not keep other writers waiting for long."""
    size = func.sum(func.length(_PREDICTIONS.c.logits)).label("size")
    query = select(_STAGES.c.run_id, size).join(_PREDICTIONS, _PREDICTIONS.c.stage_id == _STAGES.c.id)
    of_runs = _STAGES.c.run_id.in_([run["id"] for run in runs])
    sizes = {row["run_id"]: int(row["size"]) for row in reader.all(query.where(of_runs).group_by(_STAGES.c.run_id))}
    part: list[Values] = []
    left = _BATCH_BYTES
    for run in runs:
        left -= sizes.get(run["id"], 0)
        if part and left < 0:
            yield part
            part, left = [], _BATCH_BYTES - sizes.get(run["id"], 0)
        part.append(run)
    yield part


@contextmanager
def _writing(target: Database, source: Snapshot) -> Iterator[Connection]:
    with explained(target.name):
        try:
            with target.writer.begin() as connection:
                if not target.path:  # as planning does: two that add the same, in another order, would wait for ever
                    connection.execute(text("LOCK TABLE sweeps IN SHARE ROW EXCLUSIVE MODE"))
                yield connection
        except DBAPIError:
            raise
        except (StatementError, ValueError, TypeError, OverflowError) as error:  # of the bindings, and of the drivers
            reason = " ".join(str(getattr(error, "orig", error)).split())
            raise StoreError(f"results database {source.name}: a stored value cannot be copied: {reason}") from error


@dataclass(frozen=True)
class _Batch:
    """Some rows on their way, in one transaction of ``writer``."""

    reader: Snapshot
    writer: Connection
    target: Store
    alive: frozenset[int]
    exact: bool
    merged: Merged

    # --- runs ------------------------------------------------------------------------------------------------------

    def copy_runs(self, rows: list[Values]) -> None:
        """Copy runs with everything that hangs on them, and everything that they refer to."""
        for row in rows:
            if row["id"] in self.alive:
                self._note(f"run {row['id']} is being executed, and left out; merge again when it has ended")
        rows = [row for row in rows if row["id"] not in self.alive]
        columns = (_RUNS.c.id, _RUNS.c.uid, _RUNS.c.status, _RUNS.c.attempt, _RUNS.c.note)
        query = select(*columns).where(_RUNS.c.uid.in_([row["uid"] for row in rows])).with_for_update()
        known = {row["uid"]: dict(row) for row in self.writer.execute(query).mappings()}
        new = [row for row in rows if row["uid"] not in known]
        further = self._further([(row, known[row["uid"]]) for row in rows if row["uid"] in known])
        self.merged.new_runs += len(new)
        self.merged.updated_runs += len(further)
        self.merged.known_runs += len(rows) - len(new) - len(further)

        self._fill_notes(rows, known)
        sweeps = self._sweeps([row["id"] for row in rows])
        ids = self._insert_runs(new, further, known)
        self._insert_stages({row["id"]: ids[row["id"]] for row in (*new, *further)})
        ids |= {row["id"]: known[row["uid"]]["id"] for row in rows if row["uid"] in known}
        self._unite(_TAGS, {"run_id": ids})
        self._unite(_SWEEP_RUNS, {"run_id": ids, "sweep_id": sweeps})

    def _further(self, pairs: list[tuple[Values, Values]]) -> list[Values]:
        """Return the rows of runs that went further than those of the same uid in the target."""
        pairs = [(row, known) for row, known in pairs if known["status"] != "completed"]
        if not pairs:
            return []
        there = _epochs(self.reader.connection, [row["id"] for row, _ in pairs])
        here = _epochs(self.writer, [known["id"] for _, known in pairs])
        further = [
            (row, known)
            for row, known in pairs
            if _progress(row, there.get(row["id"], 0)) > _progress(known, here.get(known["id"], 0))
        ]
        running = tuple(known["id"] for _, known in further if known["status"] == "running")
        alive = set(self.target.run_ids(Selection(status="running", ids=running))) if running else set()
        for row, known in further:
            if known["id"] in alive:
                self._note(
                    f"run {row['id']} went further than run {known['id']} here, which is being executed, and left "
                    "alone; merge again when it has ended"
                )
        return [row for row, known in further if known["id"] not in alive]

    def _fill_notes(self, rows: list[Values], known: Mapping[str, Values]) -> None:
        for row in rows:
            if row["note"] and row["uid"] in known and not known[row["uid"]]["note"]:
                here = _RUNS.c.id == known[row["uid"]]["id"]
                self.writer.execute(update(_RUNS).where(here).values(note=row["note"]))

    def _insert_runs(self, new: list[Values], further: list[Values], known: Mapping[str, Values]) -> dict[int, int]:
        both = [*new, *further]
        refers = {
            "dataset_id": self._datasets({row["dataset_id"] for row in both}),
            "environment_id": self._environments(both),
        }
        ids = {}
        if new:
            by_uid = {row["uid"]: row["id"] for row in new}
            query = insert(_RUNS).returning(_RUNS.c.id, _RUNS.c.uid)
            for run_id, uid in self.writer.execute(query, [self._values(_RUNS, row, refers) for row in new]):
                ids[by_uid[uid]] = run_id
        for row in further:
            run_id = ids[row["id"]] = known[row["uid"]]["id"]
            for table in (_STAGES, _MEASUREMENTS, _ATTEMPTS):
                self.writer.execute(delete(table).where(table.c.run_id == run_id))
            values = self._values(_RUNS, row, refers)
            del values["note"]
            self.writer.execute(update(_RUNS).where(_RUNS.c.id == run_id).values(values))
        return ids

    def _insert_stages(self, runs: Mapping[int, int]) -> None:
        """Copy what hangs on runs; ``runs`` gives the target's id for the source's."""
        if not runs:
            return
        refers = {"run_id": runs}
        query = insert(_STAGES).returning(_STAGES.c.id, _STAGES.c.run_id, _STAGES.c.name)
        of_runs = _STAGES.c.run_id.in_(runs)
        stages: dict[int, int] = {}
        for portion in self.reader.portions(select(_STAGES).where(of_runs).order_by(_STAGES.c.id)):
            found = {(runs[row["run_id"]], row["name"]): row["id"] for row in portion}
            for stage_id, run_id, name in self.writer.execute(
                query, [self._values(_STAGES, row, refers) for row in portion]
            ):
                stages[found[run_id, name]] = stage_id
        of_stages = select(_STAGES.c.id).where(of_runs)
        for table in (_EPOCHS, _PREDICTIONS):
            blob = table.c.get("logits")
            for portion in self.reader.portions(select(table).where(table.c.stage_id.in_(of_stages)), blob):
                self.writer.execute(insert(table), [self._values(table, row, {"stage_id": stages}) for row in portion])
        for table in (_MEASUREMENTS, _ATTEMPTS):
            order = table.c.get("id", table.c.run_id)
            hanging = select(table).where(table.c.run_id.in_(runs)).order_by(order)
            for portion in self.reader.portions(hanging, table.c.get("samples")):
                self.writer.execute(insert(table), [self._values(table, row, refers) for row in portion])

    def _unite(self, table: Table, refers: Mapping[str, Mapping[int, int]]) -> None:
        """Add the source's tags, or places in sweeps, to the target's."""
        for portion in self.reader.portions(select(table).where(table.c.run_id.in_(refers["run_id"]))):
            self._insert_missing(table, list(table.primary_key), [self._values(table, row, refers) for row in portion])

    # --- what runs refer to ----------------------------------------------------------------------------------------

    def _shared(
        self, table: Table, key: str, ids: Collection[int], refers: Mapping[str, Mapping[int, int]] | None = None
    ) -> dict[int, int]:
        """Copy rows that the target does not have under their key; return the target's ids for the source's."""
        if not ids:
            return {}
        column = table.c[key]
        keys = {row["id"]: row[key] for row in self.reader.all(select(table.c.id, column).where(table.c.id.in_(ids)))}
        found = select(column, table.c.id).where(column.in_(keys.values()))
        known = {row[0]: row[1] for row in self.writer.execute(found)}
        if missing := [row_id for row_id, value in keys.items() if value not in known]:
            query = select(table).where(table.c.id.in_(missing)).order_by(table.c.id)
            for portion in self.reader.portions(query, table.c.get("ids")):
                self._insert_missing(table, [column], [self._values(table, row, refers or {}) for row in portion])
            known = {row[0]: row[1] for row in self.writer.execute(found)}
        return {row_id: known[value] for row_id, value in keys.items()}

    def _environments(self, rows: list[Values]) -> dict[int, int]:
        return self._shared(_ENVIRONMENTS, "sha256", {row["environment_id"] for row in rows} - {None})

    def _sweeps(self, run_ids: list[int]) -> dict[int, int]:
        """Copy the sweeps of runs, and their experiments; an experiment began when the first of both did."""
        planned = select(_SWEEP_RUNS.c.sweep_id).where(_SWEEP_RUNS.c.run_id.in_(run_ids))
        rows = self.reader.all(select(_SWEEPS).where(_SWEEPS.c.id.in_(planned)).order_by(_SWEEPS.c.id))
        experiments = self._experiments({row["experiment_id"] for row in rows})
        of_old = {
            row["id"]: known for row in rows if not row["plan_hash"] and (known := self._old_sweep(row, experiments))
        }
        others = {row["id"] for row in rows} - set(of_old)
        return of_old | self._shared(_SWEEPS, "uid", others, {"experiment_id": experiments})

    def _old_sweep(self, row: Values, experiments: Mapping[int, int]) -> int | None:
        """Find a sweep from before there were sweeps: each time that its database is migrated it gets another uid."""
        query = select(_SWEEPS.c.id).where(
            _SWEEPS.c.plan_hash == "",
            _SWEEPS.c.experiment_id == self._referred(_SWEEPS, experiments, row["experiment_id"]),
            _SWEEPS.c.command == row["command"],
            _SWEEPS.c.created_at == row["created_at"],
        )
        return self.writer.scalar(query.limit(1))

    def _experiments(self, ids: Collection[int]) -> dict[int, int]:
        experiments = self._shared(_EXPERIMENTS, "name", ids)
        begun = [
            {"here": experiments[row["id"]], "begun": row["created_at"]}
            for row in self.reader.all(select(_EXPERIMENTS).where(_EXPERIMENTS.c.id.in_(ids)))
        ]
        if begun:
            later = _EXPERIMENTS.c.created_at > bindparam("begun", type_=_EXPERIMENTS.c.created_at.type)
            query = update(_EXPERIMENTS).where(_EXPERIMENTS.c.id == bindparam("here"), later)
            self.writer.execute(query.values(created_at=bindparam("begun")), begun)
        return experiments

    def _datasets(self, ids: Collection[int]) -> dict[int, int]:
        """Copy data sets with the images of their splits."""
        datasets = self._shared(_DATASETS, "fingerprint", ids)
        query = select(_DATASET_SPLITS, _SPLITS.c.sha256).outerjoin(_SPLITS, _SPLITS.c.id == _DATASET_SPLITS.c.split_id)
        links = self.reader.all(query.where(_DATASET_SPLITS.c.dataset_id.in_(datasets)))
        here = query.where(_DATASET_SPLITS.c.dataset_id.in_(datasets.values()))
        known = {(row["dataset_id"], row["name"]): row["sha256"] for row in self.writer.execute(here).mappings()}
        missing = []
        for link in links:
            digest = link.pop("sha256")
            if (there := known.get((datasets[link["dataset_id"]], link["name"]))) is None:
                missing.append(link)
            elif there != digest:
                raise StoreError(
                    f"results database {self.reader.name}: the split {link['name']!r} of its data set "
                    f"{link['dataset_id']} has other images than that of the same fingerprint in "
                    f"{self.target.database.name}; look for damage with `harness db check` on both"
                )
        splits = self._shared(_SPLITS, "sha256", {link["split_id"] for link in missing})
        refers = {"dataset_id": datasets, "split_id": splits}
        values = [self._values(_DATASET_SPLITS, link, refers) for link in missing]
        self._insert_missing(_DATASET_SPLITS, list(_DATASET_SPLITS.primary_key), values)
        return datasets

    def copy_passports(self) -> None:
        """Give data sets that both have the passport that says more: one where the images were looked at, or any."""
        query = select(_DATASETS).where(_DATASETS.c.passport.is_not(None))
        there = {row["fingerprint"]: self._values(_DATASETS, row, {})["passport"] for row in self.reader.all(query)}
        both = select(_DATASETS).where(_DATASETS.c.fingerprint.in_(there))
        for row in self.writer.execute(both).mappings().all():
            known, other = row["passport"], there[row["fingerprint"]]
            says_something = known is not None and has_shape(_DATASETS.c.passport, known)
            if not says_something or (known["baselines"] is None and other["baselines"] is not None):
                here = _DATASETS.c.id == row["id"]
                self.writer.execute(update(_DATASETS).where(here).values(passport=other))

    # --- ensembles -------------------------------------------------------------------------------------------------

    def copy_ensembles(self, rows: list[Values]) -> None:
        """Copy ensembles whose runs are all there."""
        uids = self.writer.scalars(select(_ENSEMBLES.c.uid).where(_ENSEMBLES.c.uid.in_([row["uid"] for row in rows])))
        known = set(uids)
        rows = [row for row in rows if row["uid"] not in known]
        members = self.reader.all(select(_MEMBERS).where(_MEMBERS.c.ensemble_id.in_([row["id"] for row in rows])))
        runs = self._runs_here({member["run_id"] for member in members})
        incomplete = {member["ensemble_id"] for member in members if member["run_id"] not in runs}
        rows = [row for row in rows if row["id"] not in incomplete]
        self.merged.known_ensembles += len(known)
        self.merged.new_ensembles += len(rows)
        self.merged.left_out += len(incomplete)
        refers = {
            "experiment_id": self._experiments({row["experiment_id"] for row in rows}),
            "dataset_id": self._datasets({row["dataset_id"] for row in rows}),
        }
        by_uid = {row["uid"]: row["id"] for row in rows}
        ids: dict[int, int] = {}
        query = select(_ENSEMBLES).where(_ENSEMBLES.c.id.in_(by_uid.values())).order_by(_ENSEMBLES.c.id)
        for portion in self.reader.portions(query, _ENSEMBLES.c.scores):
            returning = insert(_ENSEMBLES).returning(_ENSEMBLES.c.id, _ENSEMBLES.c.uid)
            values = [self._values(_ENSEMBLES, row, refers) for row in portion]
            ids |= {by_uid[uid]: ensemble_id for ensemble_id, uid in self.writer.execute(returning, values)}
        voters = [
            self._values(_MEMBERS, member, {"ensemble_id": ids, "run_id": runs})
            for member in members
            if member["ensemble_id"] in ids
        ]
        if voters:
            self.writer.execute(insert(_MEMBERS), voters)

    def _runs_here(self, ids: Collection[int]) -> dict[int, int]:
        uids = {row["uid"]: row["id"] for row in self.reader.all(_uids().where(_RUNS.c.id.in_(ids)))}
        return {uids[uid]: run_id for run_id, uid in self.writer.execute(_uids().where(_RUNS.c.uid.in_(uids)))}

    # --- measurement sets ------------------------------------------------------------------------------------------

    def copy_sets(self, rows: list[Values]) -> None:
        """Copy measurement sets with their measurements."""
        uid = _MEASUREMENT_SETS.c.uid
        known = set(self.writer.scalars(select(uid).where(uid.in_([row["uid"] for row in rows]))))
        rows = [row for row in rows if row["uid"] not in known]
        self.merged.known_sets += len(known)
        self.merged.new_sets += len(rows)
        if not rows:
            return
        by_uid = {row["uid"]: row["id"] for row in rows}
        refers = {"environment_id": self._environments(rows)}
        returning = insert(_MEASUREMENT_SETS).returning(_MEASUREMENT_SETS.c.id, uid)
        values = [self._values(_MEASUREMENT_SETS, row, refers) for row in rows]
        ids = {by_uid[found]: set_id for set_id, found in self.writer.execute(returning, values)}
        measured = select(_SET_MEASUREMENTS).where(_SET_MEASUREMENTS.c.set_id.in_(ids))
        for portion in self.reader.portions(
            measured.order_by(*_SET_MEASUREMENTS.primary_key), _SET_MEASUREMENTS.c.samples
        ):
            here = [self._values(_SET_MEASUREMENTS, row, {"set_id": ids}) for row in portion]
            self.writer.execute(insert(_SET_MEASUREMENTS), here)

    # --- any table -------------------------------------------------------------------------------------------------

    def _values(self, table: Table, row: Values, refers: Mapping[str, Mapping[int, int]]) -> Values:
        """Return a row of the source as one of the target."""
        for column, types in _types(table).items():
            value = row[column.name]
            if not isinstance(value, types) or not has_shape(column, value):
                raise StoreError(
                    f"results database {self.reader.name}: {table.name}.{column.name} holds {str(value)[:50]!r}, which "
                    "does not belong there; `harness db check` says more"
                )
        values = dict(row)
        if not self.exact and "id" in values:
            del values["id"]
        for name, ids in refers.items():
            if values[name] is not None:
                values[name] = self._referred(table, ids, values[name])
        return values

    def _referred(self, table: Table, ids: Mapping[int, int], row_id: int) -> int:
        if row_id not in ids:
            raise StoreError(
                f"results database {self.reader.name}: a row of {table.name} refers to one that is not there; "
                "`harness db check` says more"
            )
        return ids[row_id]

    def _insert_missing(self, table: Table, key: Sequence[Any], rows: list[Values]) -> None:
        if rows:
            dialect: Any = sqlite if self.target.database.path else postgresql
            self.writer.execute(dialect.insert(table).on_conflict_do_nothing(index_elements=key), rows)

    def _note(self, text: str) -> None:
        self.merged.notes.append(f"{self.reader.name}: {text}")


def _uids() -> Any:
    return select(_RUNS.c.id, _RUNS.c.uid)


def _epochs(connection: Connection, run_ids: list[int]) -> dict[int, int]:
    query = select(_STAGES.c.run_id, func.count()).join(_EPOCHS, _EPOCHS.c.stage_id == _STAGES.c.id)
    return dict(connection.execute(query.where(_STAGES.c.run_id.in_(run_ids)).group_by(_STAGES.c.run_id)).all())


def _progress(run: Mapping[str, Any], epochs: int) -> tuple[bool, int, int, bool]:
    """Return how far a run went, to compare by."""
    status = run["status"]
    return status == "completed", run["attempt"], epochs, status not in ("planned", "running")


@cache
def _types(table: Table) -> dict[Column[Any], tuple[type, ...]]:
    return {column: types_of(column) for column in table.c}
