"""What a filter finds is what the same condition finds in Python, on both databases; any other text is refused."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import case, func, literal, select
from sqlalchemy.orm import Session

from harness.errors import ConfigError
from harness.results import RunStatus
from harness.store.database import connect
from harness.store.models import (
    AttemptRow,
    Base,
    DatasetRow,
    EnvironmentRow,
    ExperimentRow,
    RunRow,
    SweepRow,
    SweepRunRow,
    TagRow,
)
from harness.store.where import FIELDS, compile_where, sort_column

LOST = 6
STATUS = case((RunRow.id.in_([LOST]), literal("lost")), else_=RunRow.__table__.c.status)
ODD = 'ODD \udcff\0 O\'Neill "x" \\ 100% _ 日本 é'


def day(number, hour=0):
    return datetime(2026, 11, number, hour, tzinfo=UTC)


def run(number, **facts):
    known = {
        "id": number,
        "uid": f"uid{number}",
        "backbone": "resnet18",
        "schedule": "paper",
        "dataset": "chest-xray",
        "experiment": ["table1"],
        "status": "completed",
        "seed": number,
        "weights": "pretrained",
        "config": {"precision": "fp32"},
        "device": "cpu",
        "tag": [],
        "note": "",
        "accuracy": None,
        "auc": None,
        "parameters": None,
        "created": day(number),
        "started": None,
        "finished": None,
        "hash": f"{number}abc",
        "failure": [],
    }
    assert facts.keys() <= known.keys()
    return SimpleNamespace(**(known | facts))


RUNS = [
    run(1, accuracy=0.86, auc=0.9, parameters=2**40, started=day(1, 1), finished=day(1, 2), hash="0123"),
    run(2, accuracy=0.863, tag=["good", "final"], backbone="timm:resnet18", seed=2**32 - 1, experiment=["a", "b"]),
    run(3, accuracy=1.0, auc=1.0, tag=["bad"], backbone="alexnet", dataset="phantom", device="cuda:0", hash="123"),
    run(4, backbone="5", weights=None, device=None, status="planned", config={}, experiment=[]),
    run(5, accuracy=0.0, tag=["good", "bad"], note="50% better", status="failed", failure=["OOM", "killed"]),
    run(LOST, note="50 better", status="running", config={"precision": "bf16"}, schedule="Paper", weights="file"),
    run(
        7,
        note=ODD,
        tag=["日本", "a_b"],
        config={
            "precision": "fp32",
            "data": {
                "path": ODD.replace("\0", ""),
                "nul": "\0",
                "n-o": "5",
                "smile": "😀",
                "empty": None,
                "huge": 10**400,
                "text": "x",
                "on": True,
            },
            "stages": [{"epochs": 25, "lr": 1e-05}, {"epochs": 10}],
        },
    ),
    run(
        8,
        note="a%b_c and more",
        tag=["a-b"],
        config={
            "precision": "fp32",
            "data": {"path": "/data/5", "n-o": 5, "smile": "", "huge": 3.5, "text": 7, "on": False},
            "stages": [{"epochs": "many"}],
        },
    ),
]


@pytest.fixture
def session(url):
    """RUNS, in a database."""
    database = connect(url, create=True)
    Base.metadata.create_all(database.writer)
    with Session(database.writer) as filling:
        fill(filling)
        filling.commit()
    with Session(database.engine) as reading:
        yield reading
    database.engine.dispose()


def fill(session):
    def unique(made, key, make):
        if key not in made:
            made[key] = make(len(made) + 1)
            session.add(made[key])
            session.flush()
        return made[key].id

    datasets, environments, sweeps = {}, {}, {}
    plain = {"classes": [], "counts": {}, "synthetic": True, "citation": "", "licence": ""}

    def dataset(name):
        return lambda number: DatasetRow(id=number, name=name, fingerprint=f"of {name}", **plain)

    def environment(device):
        details = {"device_name": f"{device} name", "python": "3", "torch": "2.9.0", "details": {}}
        return lambda number: EnvironmentRow(id=number, sha256=str(number), device=device, **details)

    def sweep(name):
        def make(number):
            session.add(ExperimentRow(id=number, name=name, created_at=day(1)))
            session.flush()
            given = {"command": "", "ensembles": [], "plan_hash": "", "created_at": day(1)}
            return SweepRow(id=number, uid=name, experiment_id=number, **given)

        return make

    for each in RUNS:
        row = RunRow(
            attempt=len(each.failure),
            dataset_id=unique(datasets, each.dataset, dataset(each.dataset)),
            environment_id=each.device and unique(environments, each.device, environment(each.device)),
            plugins=[],
            config_hash=each.hash,
            weights_kind=each.weights,
            test_accuracy=each.accuracy,
            test_auc=each.auc,
            **{f"{when}_at": getattr(each, when) for when in ("created", "started", "finished")},
            **{name: getattr(each, name) for name in ("id", "uid", "status", "backbone", "schedule", "seed")},
            **{name: getattr(each, name) for name in ("config", "parameters", "note")},
        )
        session.add(row)
        session.flush()
        session.add_all(TagRow(run_id=each.id, tag=tag) for tag in each.tag)
        times = {"started_at": day(1), "heartbeat_at": day(1)}
        for number, kind in enumerate(each.failure, start=1):
            process = {"host": "here", "pid": 1, "process_started": 0.0}
            session.add(AttemptRow(run_id=each.id, number=number, failure_kind=kind, **process, **times))
        for name in each.experiment:
            session.add(SweepRunRow(sweep_id=unique(sweeps, name, sweep(name)), run_id=each.id, position=0))


def found(session, text):
    try:
        return list(session.scalars(select(RunRow.id).where(compile_where(text, STATUS)).order_by(RunRow.id)))
    finally:
        session.rollback()


def refusal(text):
    """Return why a filter is refused, which is said in one line."""
    with pytest.raises(ConfigError) as caught:
        compile_where(text, STATUS)
    return checked(caught.value)


def checked(error):
    message = str(error)
    assert message.startswith("--where: ")
    assert message.isprintable()
    assert message.encode()
    return message


def config(each, *path, kind):
    """Look up a value of that kind in a run's configuration."""
    value = each.config
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError):
            return None
    return value if type(value) in kind else None


FILTERS = {
    # each kind of field, each comparison
    "id = 3": lambda r: r.id == 3,
    "id in (3, 1,8)": lambda r: r.id in (1, 3, 8),
    "id not in (3,1)": lambda r: r.id not in (1, 3),
    "id >= 3.5": lambda r: r.id >= 3.5,
    "id < 99999999999": lambda r: True,
    "id < 99999999999999999999999999 and id > -99999999999999999999999999": lambda r: True,
    "id = 9223372036854775808 or id = -9223372036854775809 or id=9223372036854775807": lambda r: False,
    f"id = {'0' * 4900}1": lambda r: r.id == 1,
    "seed = 4294967295": lambda r: r.seed == 2**32 - 1,
    "seed in (1, 2.5, 1e0, 4294967295, 1e300)": lambda r: r.seed in (1, 2**32 - 1),
    "seed = '+2.'": lambda r: False,
    "parameters = 1099511627776": lambda r: r.parameters == 2**40,
    "uid = uid3": lambda r: r.id == 3,
    "backbone = resnet18": lambda r: r.backbone == "resnet18",
    "backbone == 'resnet18'": lambda r: r.backbone == "resnet18",
    "backbone != resnet18": lambda r: r.backbone != "resnet18",
    "backbone <> resnet18": lambda r: r.backbone != "resnet18",
    "backbone=timm:resnet18": lambda r: r.backbone == "timm:resnet18",
    "backbone ~ RESNET": lambda r: "resnet" in r.backbone,
    "backbone = 5": lambda r: r.backbone == "5",
    "backbone in (5, alexnet)": lambda r: r.backbone in ("5", "alexnet"),
    "BACKBONE < resnet18": lambda r: r.backbone < "resnet18",
    "schedule <= Z": lambda r: r.schedule <= "Z",
    "schedule > Paper": lambda r: r.schedule > "Paper",
    "dataset = phantom": lambda r: r.dataset == "phantom",
    "dataset != phantom": lambda r: r.dataset != "phantom",
    "fingerprint = 'of phantom'": lambda r: r.dataset == "phantom",
    "experiment = a": lambda r: "a" in r.experiment,
    "experiment != table1": lambda r: "table1" not in r.experiment,
    "experiment in (b, nothing)": lambda r: "b" in r.experiment,
    "experiment is null": lambda r: not r.experiment,
    "status = lost": lambda r: r.id == LOST,
    "status = running": lambda r: False,
    "status != lost and status not in (failed, completed)": lambda r: r.status == "planned",
    "status ~ L and not status = 'failed'": lambda r: r.status != "failed",
    "status >= lost": lambda r: r.id == LOST or r.status >= "lost",
    "weights = file": lambda r: r.weights == "file",
    "weights != file": lambda r: r.weights != "file",
    "not weights = file": lambda r: r.weights != "file",
    "weights not in (file, random)": lambda r: r.weights != "file",
    "weights is null": lambda r: r.weights is None,
    "precision = fp32": lambda r: r.config.get("precision") == "fp32",
    "precision != fp32": lambda r: r.config.get("precision") != "fp32",
    "precision is null": lambda r: "precision" not in r.config,
    "device = cuda:0": lambda r: r.device == "cuda:0",
    "device != cuda:0": lambda r: r.device != "cuda:0",
    "device is null": lambda r: r.device is None,
    "device_name ~ 'CUDA:0'": lambda r: r.device == "cuda:0",
    "torch >= 2.9": lambda r: r.device is not None,
    "tag = good": lambda r: "good" in r.tag,
    "tag != bad": lambda r: "bad" not in r.tag,
    "not tag = bad": lambda r: "bad" not in r.tag,
    "tag not in (bad, final)": lambda r: not {"bad", "final"} & set(r.tag),
    "tag in (bad, final) and tag = good": lambda r: r.id in (2, 5),
    "tag is null": lambda r: not r.tag,
    "tag is not null": lambda r: bool(r.tag),
    "tag ~ OO": lambda r: "good" in r.tag,
    "failure = killed": lambda r: "killed" in r.failure,
    "failure is null": lambda r: not r.failure,
    "hash = 0123": lambda r: r.hash == "0123",
    "hash = 123": lambda r: r.hash == "123",
    "note = ''": lambda r: r.note == "",
    'note != ""': lambda r: r.note != "",
    "accuracy > 0.86": lambda r: r.accuracy is not None and r.accuracy > 0.86,
    "accuracy>86%": lambda r: r.accuracy is not None and r.accuracy > 0.86,
    "accuracy = '86%'": lambda r: r.accuracy == 0.86,
    "accuracy = 86.3%": lambda r: r.accuracy == 0.863,
    "accuracy = 863e-3": lambda r: r.accuracy == 0.863,
    "accuracy in (+1, -1, .863)": lambda r: r.accuracy in (1, 0.863),
    "accuracy >= 1e-999": lambda r: r.accuracy is not None,
    "created = 2026-11-03": lambda r: r.created == day(3),
    "created > 2026-11-03T00:00:01+00:00": lambda r: r.created > day(3),
    "created <= 2026-11-03T01:00+01:00": lambda r: r.created <= day(3),
    "created < 2026-11-03T00:59+01:00": lambda r: r.created < day(3),
    "created in (2026-11-03, '2026-11-04 00:00')": lambda r: r.created in (day(3), day(4)),
    "created > 0001-01-01 and created < 9999-12-31T23:59:59.999999": lambda r: True,
    "started >= 2026-11-01T01:00Z": lambda r: r.started is not None,
    "finished is null": lambda r: r.finished is None,
    "finished != 2026-11-01T02": lambda r: r.finished is None,
    # values in the configuration
    "config.stages.0.epochs = 25": lambda r: config(r, "stages", 0, "epochs", kind=(int,)) == 25,
    "config.stages.0.epochs > 2": lambda r: config(r, "stages", 0, "epochs", kind=(int,)) == 25,
    "config.stages.0.epochs = '25'": lambda r: False,
    "config.stages.0.epochs in (many, 25)": lambda r: r.id in (7, 8),
    "config.stages.0.epochs not in (many, 25)": lambda r: r.id not in (7, 8),
    "config.stages.0.epochs != many": lambda r: r.id != 8,
    "config.stages.00.lr = 1e-05": lambda r: r.id == 7,
    "config.stages.1.epochs < 1e9": lambda r: r.id == 7,
    "config.stages.999999.epochs is not null": lambda r: False,
    "config.stages is not null": lambda r: "stages" in r.config,
    "config.stages = x or config.stages != x and id = 1": lambda r: r.id == 1,
    "config.data.n-o = 5": lambda r: r.id == 8,
    "config.data.n-o = '5'": lambda r: r.id == 7,
    "config.data.n-o ~ 5": lambda r: r.id == 7,
    "config.data.huge > 3": lambda r: r.id in (7, 8),
    "config.data.text = x": lambda r: r.id == 7,
    "config.data.text < y": lambda r: r.id == 7,
    "config.data.text > 6": lambda r: r.id == 8,
    "config.data.on = true": lambda r: r.id == 7,
    "config.data.on in (false)": lambda r: r.id == 8,
    "config.data.on = 1": lambda r: False,
    "config.data.empty is null and config.data.on is not null": lambda r: r.id in (7, 8),
    "config.data.path ~ 'o''neill'": lambda r: r.id == 7,
    "config.data.smile = '😀'": lambda r: r.id == 7,
    "config.null is null and config.precision.x is null and config.0 is null": lambda r: True,
    # precedence
    "id = 1 or id = 2 and id = 3": lambda r: r.id == 1,
    "(id = 1 or id = 2) and not id = 1": lambda r: r.id == 2,
    "not id = 1 and id < 3": lambda r: r.id == 2,
    "not (id = 1 and id < 3)": lambda r: r.id != 1,
    "not id = 1 or id = 1": lambda r: True,
    "not not id = 1": lambda r: r.id == 1,
    "NOT (id=1 OR(id In (2)))AND id Is Not NULL": lambda r: r.id > 2,
    "\tid\n=\r\n1 ": lambda r: r.id == 1,
    "((((((((((((((((((((id = 1))))))))))))))))))))": lambda r: r.id == 1,
    # a run without an accuracy fulfils no comparison, and so the opposite of each
    "accuracy < 0.9 or accuracy >= 0.9": lambda r: r.accuracy is not None,
    "not accuracy >= 0": lambda r: r.accuracy is None,
    "accuracy != 1": lambda r: r.accuracy != 1,
    "not accuracy != 1": lambda r: r.accuracy == 1,
    "accuracy not in (1, 0)": lambda r: r.accuracy not in (1, 0),
    "accuracy is null": lambda r: r.accuracy is None,
    "not (accuracy is null or auc is null)": lambda r: r.auc is not None,
    "not (accuracy > 0.5 and auc > 0.5)": lambda r: r.auc is None,
    # characters that mean something to somebody
    "note ~ '%'": lambda r: "%" in r.note,
    "note ~ '50%'": lambda r: "50%" in r.note,
    "note ~ 50%": lambda r: "50%" in r.note,
    "note ~ '_'": lambda r: "_" in r.note,
    "note ~ _": lambda r: "_" in r.note,
    "note ~ '/'": lambda r: False,
    "note ~ ''": lambda r: True,
    "tag ~ a_b": lambda r: "a_b" in r.tag,
    "note ~ 'and more'": lambda r: r.id == 8,
    'note ~ "O\'NEILL"': lambda r: r.id == 7,
    "note ~ 'o''neill \"x\" \\\\ 1'": lambda r: r.id == 7,
    'note ~ "o\\\'neill ""x\\" \\ 1"': lambda r: r.id == 7,
    "note ~ '日本 é'": lambda r: r.id == 7,
    "tag = 日本": lambda r: r.id == 7,
    "note ~ '\udcff\0'": lambda r: r.id == 7,
    "note = '\udcff\0' or tag = '\0' or config.a = '\udcff\0' or device ~ '\0\ud800' or status ~ '\0'": lambda r: False,
    "note = '\\'; DROP TABLE runs; --'": lambda r: False,
    "note ~ '''; DROP TABLE runs; --'": lambda r: False,
    "backbone = '\" OR 1=1'": lambda r: False,
    "backbone in (\"') or (1=1\", ':param_1', '%(param_1)s', '?')": lambda r: False,
    "config.data.text = \"x' or '1'='1\"": lambda r: False,
}


def test_a_filter_finds_what_the_same_condition_finds_in_python(session):
    assert {text: found(session, text) for text in FILTERS} == {
        text: [each.id for each in RUNS if same(each)] for text, same in FILTERS.items()
    }
    assert session.scalar(select(func.count()).select_from(RunRow)) == len(RUNS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the filter ends where a field should follow"),
        ("  \n", "the filter ends where a field should follow"),
        ("acuracy > 1", r"no field is called 'acuracy' \(position 1\). Did you mean accuracy"),
        ("id=1 and\n colour = red", r"'colour' \(position 11\). Available: accuracy, auc"),
        ("config = 1", r"'config' \(position 1\). Did you mean config.KEY"),
        ("config.a..b = 1", "'config.a..b'.*config.KEY"),
        ("config.ü = 1", "'config.ü'.*config.KEY"),
        (f"config{'.a' * 99} = 1", "no field is called 'config.a.a"),
        ("accuracy", "ends where =, !=, <, .* or is not null should follow"),
        ("accuracy >", "ends where a value should follow"),
        ("accuracy > and id = 1", "expected a value at position 12, found 'and'"),
        ("weights = null", "expected a value at position 11, found 'null'"),
        ("accuracy 0.86", "expected =, !=, .* at position 10, found '0.86'$"),
        ("accuracy > high", r"accuracy is compared with a number, not 'high' \(position 12\)"),
        ("accuracy > nan", "a number, not 'nan'"),
        ("accuracy in (1, -inf)", r"a number, not '-inf' \(position 17\)"),
        ("accuracy > 1e5%", "a number, not"),
        ("accuracy > 1_000", "a number, not '1_000'"),
        ("accuracy > ٣", "a number, not '٣'"),
        ("accuracy > 1e999", "the number '1e999' is too large"),
        (f"id < -1{'0' * 400}", "the number '-1000.*…' is too large"),
        ("config.a = 1e999", "the number '1e999' is too large"),
        ("accuracy ~ 8", "~ looks into text, and accuracy is a number"),
        ("created ~ 2026", "~ looks into text, and created is a time"),
        ("created > yesterday", "created is compared with a time such as 2026-11-22 .* not 'yesterday'"),
        ("created > 2026-02-30", "not '2026-02-30'"),
        ("created > 0001-01-01T00:00+14:00", "a time such as"),
        ("created > 2026-11-22 10:00", "found '10:00'; quote a value that holds spaces"),
        ("status = complete", r"no status is called 'complete' \(position 10\). Did you mean completed\?"),
        ("status in (lost, Lost)", "'Lost'"),
        ("status < z", "'z'"),
        ("note = a b", "expected and, or, or the end at position 10, found 'b'; quote"),
        ("note = a;b", "';' at position 9 is no part of a filter; quote"),
        ("note = '; DROP TABLE runs; --", "the quote at position 8 is never closed"),
        ("note = 'C:\\'", "the quote at position 8 is never closed"),
        ("note = 'a' OR 1=1", "no field is called '1'"),
        ('" OR 1=1', "the quote at position 1 is never closed"),
        ("%", "'%' at position 1 is no part"),
        ("note ~ %", "'%' at position 8 is no part"),
        ("note = 😀", "'😀' at position 8 is no part"),
        ("_", "=, !=, .* should follow"),
        ("note = a\0b", r"'\\x00' at position 9"),
        ("note\udcff = a", r"'\\udcff' at position 5"),
        ("'note' = a", "expected a field at position 1"),
        ("(id = 1", "ends where and, or, or \\) should follow"),
        ("id = 1)", "expected and, or, or the end at position 7, found '\\)'"),
        ("id in 3", "expected \\( and values at position 7, found '3'$"),
        ("id in ()", "expected a value at position 8"),
        ("id in (1, 2", "ends where a comma or \\) should follow"),
        ("id in (1 2)", "expected a comma or \\) at position 10"),
        ("id is 3", "expected null or not null at position 7"),
        ("id not 3", "expected in at position 8"),
        ("id === 3", "expected a value at position 6"),
        ("id = 1 and or id = 2", "expected a field at position 12, found 'or'"),
        ("a" * 100_000, "the filter has 100,000 characters; at most 5,000 are taken"),
        ("(" * 5_000, "ends where a field should follow"),
        ("\N{LINE SEPARATOR} note = ''\N{LINE SEPARATOR}x", "found 'x'"),
        ("note\N{RIGHT-TO-LEFT OVERRIDE}", r"'\\u202e' at position 5"),
    ],
)
def test_what_is_no_filter_is_refused_in_one_line(text, says):
    assert re.search(says, refusal(text))


def test_only_filters_that_any_database_can_take_are_long_or_deep(session):
    everyone, first = [each.id for each in RUNS], [1]
    assert found(session, f"{'(' * 2490}id = 1{')' * 2490}") == first
    assert found(session, "not " * 1248 + "id = 1") == first
    assert found(session, " or ".join(["id=1"] * 625)) == first
    assert found(session, " and ".join(["id<9"] * 555)) == everyone
    assert found(session, f"id in ({','.join('1' * 2490)})") == first
    assert found(session, f"config.a not in ({',a,1' * 1240})".replace("(,", "(")) == everyone
    assert found(session, f"note ~ '{'%' * 4990}'") == found(session, "note = '" + "\ud800" * 4990 + "'") == []
    assert found(session, " or ".join(["tag!=a"] * 200)) == everyone
    assert found(session, " or ".join(["config.a.b ~ '%'"] * 240)) == []
    assert found(session, " or ".join(["not experiment ~ x"] * 100)) == everyone

    for leaf in ("id=1", "not experiment ~ x and id=1", "config.a.b not in (1, x) and id=1"):
        for inverse in ("", "not "):
            text = leaf
            for level in range(11):
                text = f"id = 1 {('and', 'or')[level % 2]} {inverse}({text})"
            found(session, text)
            for level in range(11, 14):
                text = f"id = 1 {('and', 'or')[level % 2]} {inverse}({text})"
            assert "nested more than 12 deep" in refusal(text)


def test_a_filter_is_quick_to_refuse():
    start = datetime.now(UTC)
    for text in (
        "id = " + "1" * 4_980 + "x",
        "note = '" + "''" * 2_490,
        "note = '" + "\\" * 4_980,
        '"' * 4_999,
        "=" * 4_999,
    ):
        refusal(text)
    assert datetime.now(UTC) - start < timedelta(seconds=2)


def test_lark_is_imported_by_the_first_filter_alone():
    code = "import sys, harness.store.where; assert 'lark' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# --- sorting ---------------------------------------------------------------------------------------------------------


def test_runs_are_sorted_by_each_column_that_has_an_order(session):
    sortable = {name for name, each in FIELDS.items() if each.sortable}
    assert sortable == {
        *("id", "backbone", "schedule", "status", "seed", "weights", "accuracy", "auc"),
        *("parameters", "created", "started", "finished"),
    }
    for name in sortable:
        column = sort_column(name, STATUS)
        rows = session.execute(select(RunRow.id, column.label("value")).order_by(column.asc().nulls_last(), RunRow.id))
        got = {row.id: row.value for row in rows}
        facts = {each.id: getattr(each, name) for each in RUNS}
        assert got == (facts | {LOST: "lost"} if name == "status" else facts)
        if name not in ("backbone", "schedule"):  # whose order is the database's
            assert list(got) == sorted(got, key=lambda i: (got[i] is None, 0 if got[i] is None else got[i], i))
    assert sort_column("Accuracy", STATUS) is sort_column("accuracy", STATUS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("acuracy", "--sort: no field is called 'acuracy'. Did you mean accuracy"),
        ("tag", "--sort: runs cannot be sorted by tag. .*Available: accuracy, auc, backbone, created"),
        ("config.KEY", "--sort: no field is called 'config.KEY'. Available"),
        ("id; DROP TABLE runs", "--sort: no field is called 'id; DROP"),
        ("", "--sort: no field is called ''. Available"),
        ("\n\0\udcff" * 1000, r"--sort: no field is called '\\n"),
    ],
)
def test_a_sort_that_is_none_is_refused(name, says):
    with pytest.raises(ConfigError, match=says) as caught:
        sort_column(name, STATUS)
    assert str(caught.value).isprintable()


def test_every_field_is_described_and_can_be_asked_for(session):
    literals = {"text": "lost", "number": "1", "time": "2026-11-22"}
    for name, each in FIELDS.items():
        assert each.help
        everyone = found(session, f"{name} = {literals[each.kind]}") + found(
            session, f"{name} != {literals[each.kind]}"
        )
        assert sorted(everyone) == [each.id for each in RUNS]
        everyone = found(session, f"{name} is null") + found(session, f"{name} is not null")
        assert sorted(everyone) == [each.id for each in RUNS]
    assert set(get_args(RunStatus)) == set(FIELDS["status"].help.split(", "))


# --- any text at all -------------------------------------------------------------------------------------------------

QUIET = {
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}
FOUND = [
    *("and", "or", "not", "in", "is", "null", "(", ")", ",", "=", "!=", "<", ">=", "~", "<>", "==", "(1, 2)", "is not"),
    *FIELDS,
    *("config.a", "config.stages.0.epochs", "config.0.1", "config.data.path", "accuracy > 0.5", "tag = good and"),
    *("5", "-1", "0.5", "86%", "1e30", "99999999999999999999", "1e999", "nan", "inf", "9223372036854775807", "0x1F"),
    *("2026-11-22", "2026-11-22T10:00", "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59", "lost", "resnet18", "good"),
    *(
        "''",
        '""',
        "'a''b'",
        '"\\""',
        "'",
        '"',
        "\\",
        "%",
        "_",
        ";",
        "--",
        "/*",
        "\0",
        "\ud800",
        "😀",
        "İ",
        "ß",
        "{0}",
        "%s",
    ),
]
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("aid=<>~!()'\"\\%_. 1e-:\n\0\ud800"), max_size=40),
    st.builds(
        lambda parts, space: space.join(parts), st.lists(st.sampled_from(FOUND), max_size=12), st.sampled_from(" \n")
    ),
    st.builds(
        lambda parts, glue: f" {glue} ".join(" ".join(part) for part in parts),
        st.lists(
            st.tuples(
                st.sampled_from([*FIELDS, "config.a.0", "config.data.huge"]),
                st.sampled_from(["=", "!=", "<", ">=", "~", "in ( ", "not in ("]),
                st.one_of(
                    st.sampled_from(FOUND),
                    st.text(max_size=9).map(lambda text: "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"),
                    st.integers().map(str),
                    st.floats().map(str),
                    st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=14))])).map(
                        datetime.isoformat
                    ),
                ),
            ).map(lambda parts: (*parts, ")") if "in" in parts[1] else parts),
            min_size=1,
            max_size=3,
        ),
        st.sampled_from(["and", "or", "and not"]),
    ),
)


@settings(max_examples=400, **QUIET)
@given(text=TEXTS)
def test_any_text_is_a_filter_or_refused(session, text):
    try:
        compile_where(text, STATUS)
    except ConfigError as error:
        checked(error)
    else:
        found(session, text)


# --- any condition ---------------------------------------------------------------------------------------------------


def leaf(field, values, *signs):
    one = st.tuples(st.just(field), st.sampled_from(signs), values.map(lambda value: (value,)))
    some = st.tuples(
        st.just(field), st.sampled_from(["in", "not in"]), st.lists(values, min_size=1, max_size=3).map(tuple)
    )
    none = st.tuples(st.just(field), st.sampled_from(["is null", "is not null"]), st.just(()))
    return st.one_of(one, one, some, none)


LEAVES = st.one_of(
    leaf(
        "backbone", st.sampled_from(["resnet18", "timm:resnet18", "5", "a", "R"]), "=", "!=", "<", "<=", ">", ">=", "~"
    ),
    leaf("accuracy", st.sampled_from([0.0, 0.5, 0.86, 0.863, 1.0, 7.0]), "=", "!=", "<", "<=", ">", ">="),
    leaf("tag", st.sampled_from(["good", "bad", "a_b", "o", "日本", "it's"]), "=", "!=", "~", "<", ">"),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=10,
)


def rendered(tree, within="or"):
    """Return a condition's text, with parentheses only where its meaning needs them."""
    binds = {"or": 0, "and": 1, "not": 2}
    match tree:
        case "not", inner:
            return f"not {rendered(inner, 'not')}"
        case ("and" | "or") as word, parts:
            text = f" {word} ".join(rendered(part, word) for part in parts)
            return f"({text})" if binds[word] < binds[within] else text
        case field, ("is null" | "is not null") as sign, _:
            return f"{field} {sign}"
        case field, ("in" | "not in") as sign, values:
            return f"{field} {sign} ({', '.join(map(quoted, values))})"
        case field, sign, (value,):
            return f"{field} {sign} {quoted(value)}"


def quoted(value):
    return str(value) if isinstance(value, float) else '"' + value + '"'


def holds(tree, each):
    match tree:
        case "not", inner:
            return not holds(inner, each)
        case "and", parts:
            return all(holds(part, each) for part in parts)
        case "or", parts:
            return any(holds(part, each) for part in parts)
    field, sign, values = tree
    has = getattr(each, field)
    has = [] if has is None else has if isinstance(has, list) else [has]
    positive = {"!=": "=", "not in": "in", "is null": "is not null"}
    test = {
        "=": lambda item: item == values[0],
        "in": lambda item: item in values,
        "is not null": lambda item: True,
        "<": lambda item: item < values[0],
        "<=": lambda item: item <= values[0],
        ">": lambda item: item > values[0],
        ">=": lambda item: item >= values[0],
        "~": lambda item: values[0].lower() in item.lower(),
    }[positive.get(sign, sign)]
    return any(map(test, has)) != (sign in positive)


@settings(max_examples=300, **QUIET)
@given(tree=CONDITIONS)
def test_any_condition_finds_what_it_finds_in_python(session, tree):
    assert found(session, rendered(tree)) == [each.id for each in RUNS if holds(tree, each)]
