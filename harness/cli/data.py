"""`harness data`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from harness.cli.options import Database, Json
from harness.cli.output import bar, err, escape, out, print_json, say
from harness.errors import ConfigError, DataError, HarnessError

if TYPE_CHECKING:
    from harness.api import Dataset, ImageSplits
    from harness.results import DatasetRecord, Passport

app = typer.Typer(help="Add, list and inspect data sets.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Data set plugin, from `harness data list`.")]
Named = Annotated[str, typer.Argument(metavar="NAME", help="Data set plugin, or imagefolder:FOLDER.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Option of the data set, such as data.split=grouped. Repeatable.")
]


@app.command("list")
def list_data(as_json: Json = False) -> None:
    """List the data set plugins, and whether their images are here.

    Example: harness data list
    """
    from pydantic import ValidationError
    from rich.table import Table

    from harness import registry
    from harness.api import Dataset

    rows: list[dict[str, Any]] = []
    for plugin in registry.plugins("dataset"):
        row: dict[str, Any] = {"name": plugin.name, "distribution": plugin.distribution, "synthetic": False}
        try:
            dataset = registry.load(plugin, Dataset)
            row["synthetic"] = dataset.synthetic
            splits = dataset.load(plugin.name, dataset.Options())
            row |= {"state": "ready", "images": {name: len(refs) for name, refs in splits.named().items()}}
        except ValidationError as error:
            missing = ", ".join(f"data.{item['loc'][0]}" for item in error.errors())
            row |= {"state": f"needs {missing}", "images": {}}
        except Exception as error:  # a plugin's own, whatever it raises
            said = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            row |= {"state": said, "images": {}}
        rows.append(row)
    if as_json:
        print_json(rows)
        return
    table = Table()
    for heading in ("name", "train / val / test", "state"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        state = f"{row['state']}, synthetic" if row["synthetic"] else row["state"]
        table.add_row(escape(row["name"]), " / ".join(map(str, row["images"].values())), escape(state))
    out.print(table)


@app.command("add")
def add_data(
    name: Name,
    source: Annotated[Path, typer.Option("--from", help="Zip file or folder; a zip is read where it lies.")],
    root: Annotated[
        str | None, typer.Option(help="Folder inside it that holds train and test, where there is more than one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify every image of a data set and register it. The images stay where they are.

    Example: harness data add chest-xray --from chest_xray.zip
    """
    from harness import registry
    from harness.api import Dataset

    dataset = registry.load(registry.find("dataset", name), Dataset)
    _register(name, dataset, source, root, as_json)


@app.command("fetch")
def fetch_data(
    name: Name,
    source: Annotated[
        str | None,
        typer.Option("--from", help="One of its sources; else the first. An unknown one lists them."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A mirror of that source's file.")] = None,
    as_json: Json = False,
) -> None:
    """Download a data set from one of its publishers, then verify and register it.

    A download that was cut off goes on where it stopped; a file that is there is checked and kept.

    Example: harness data fetch chest-xray --from mendeley
    """
    from harness import registry
    from harness.api import Dataset
    from harness.data.fetch import fetch
    from harness.paths import data_dir

    dataset = registry.load(registry.find("dataset", name), Dataset)
    if dataset.downloads:
        err.print(f"{escape(dataset.citation)}. Licence: {escape(dataset.licence)}.", soft_wrap=True)
    folder = data_dir() / "downloads" / name
    try:
        with bar("downloading", of_bytes=True) as progress:
            path = fetch(name, dataset.downloads, source, folder, url=url, progress=progress, note=say)
    except KeyboardInterrupt:
        say("interrupted; what has come is kept, and the same command goes on from there")
        raise typer.Exit(130) from None
    try:
        _register(name, dataset, path, None, as_json)
    except DataError as error:
        raise DataError(
            f"{error}\nThe download is kept: `harness data add {name} --from {path}` tries again, and deleting it "
            "makes `harness data fetch` download it anew"
        ) from error


@app.command("show")
def show_data(
    name: Named,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Show the splits that a run would use: images by class, patients, and what the splits share.

    Example: harness data show chest-xray --set data.split=grouped
    """
    from harness.data.record import describe
    from harness.data.splits import leak

    plain, dataset, splits = _load(name, settings)
    named = splits.named()
    counts = {split: dict(of_class) for split, of_class in describe(plain, dataset, splits).counts.items()}
    groups = {split: len({ref.group for ref in refs}) for split, refs in named.items()}
    shared = {split: leak(named[split], splits.train) for split in ("val", "test")}
    if as_json:
        print_json(
            {
                "name": plain,
                "fingerprint": splits.fingerprint,
                "synthetic": dataset.synthetic,
                "classes": splits.classes,
                "counts": counts,
                "groups": groups,
                "share_with_group_in_train": shared,
                "citation": dataset.citation,
                "licence": dataset.licence,
            }
        )
        return
    out.print(_count_table(splits.classes, counts, groups))
    for split, share in shared.items():
        out.print(f"{share:.1%} of {split} images show a patient (group) that train shows too")
    synthetic = ", synthetic" if dataset.synthetic else ""
    out.print(f"fingerprint {splits.fingerprint[:16]}{synthetic}")
    if dataset.citation:
        out.print(escape(f"{dataset.citation}. {dataset.licence}."), soft_wrap=True)


@app.command("audit")
def audit_data(
    name: Named,
    settings: Settings = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 unless the verdict is clean.")] = False,
    db: Database = "benchmark.db",
    as_json: Json = False,
) -> None:
    """Look at every image, say what figures on these splits are worth, and store that with the data set.

    The verdict is leaky where a patient or an identical file is in two splits, suspect where labels conflict, files are
    there twice, patients are unknown or a trivial number tells the classes apart, and clean otherwise.

    Example: harness data audit chest-xray --set data.split=grouped
    """
    from dataclasses import asdict, replace

    from harness.data.audit import audit
    from harness.data.record import describe
    from harness.store import open_store

    plain, dataset, splits = _load(name, settings)
    with bar("looking at images") as progress:
        passport = audit(splits, progress)
    record = replace(describe(plain, dataset, splits), passport=passport)
    with open_store(db, say=say) as store:
        store.add_dataset(record)
    if as_json:
        about = {"name": plain, "fingerprint": record.fingerprint, "classes": record.classes, "counts": record.counts}
        print_json(about | asdict(passport))
    else:
        _print_passport(record, passport)
    if strict and passport.verdict != "clean":
        raise typer.Exit(1)


def _print_passport(record: DatasetRecord, passport: Passport) -> None:
    counts = {split: dict(of_class) for split, of_class in record.counts.items()}
    out.print(_count_table(record.classes, counts, passport.patients, shares=True))
    if pictures := passport.pictures:
        (narrow, wide), (low, high) = pictures.width, pictures.height
        sizes = f"{narrow} x {low}" if pictures.sizes == 1 else f"of {pictures.sizes} sizes, {narrow} to {wide} wide"
        sizes += "" if pictures.sizes == 1 else f" and {low} to {high} high"
        modes = ", ".join(f"{number:,} of mode {mode}" for mode, number in pictures.modes.items())
        out.print(escape(f"images {sizes}; {modes}"), soft_wrap=True)
    of_labels = f", {passport.conflicts} with several labels" if passport.conflicts else ", none with several labels"
    groups = f"{passport.duplicate_groups} groups of identical files ({passport.duplicate_files} files)"
    out.print(groups + (of_labels if passport.duplicate_groups else ""))
    out.print(_overlap_table(passport))
    out.print(_baseline_table(passport))
    for note in passport.notes:
        out.print(escape(note), soft_wrap=True)
    out.print(f"fingerprint {record.fingerprint[:16]}{', synthetic' if record.synthetic else ''}")
    colour = {"clean": "green", "suspect": "yellow", "leaky": "red"}[passport.verdict]
    out.print(f"[bold {colour}]{passport.verdict}[/]")
    for reason in passport.reasons:
        out.print(f"- {reason.verdict}: {escape(reason.text)}", soft_wrap=True)


def _overlap_table(passport: Passport) -> Any:
    from rich.table import Table

    table = Table()
    for heading, side in (("in both", "left"), ("patients", "right"), ("files", "right"), ("images", "right")):
        table.add_column(heading, justify=cast(Any, side))
    for one in passport.overlaps:
        patients = "unknown" if one.patients is None else str(one.patients)
        share = f"{one.images} of {one.total} {one.second}, {one.images / one.total:.1%}"
        table.add_row(f"{one.first} and {one.second}", patients, str(one.files), share)
    return table


def _baseline_table(passport: Passport) -> Any:
    from rich.table import Table

    table = Table()
    table.add_column("trivial answers, learned on train", overflow="fold")
    for split in ("val", "test"):
        table.add_column(f"{split} accuracy", justify="right")
        table.add_column(f"{split} AUC", justify="right")
    for one in (*((passport.majority,) if passport.majority else ()), *(passport.baselines or ())):
        cells = []
        for split in ("val", "test"):
            cells.append(f"{one.accuracy[split]:.1%}" if split in one.accuracy else "")
            cells.append(f"{one.auc[split]:.3f}" if split in one.auc else "")
        table.add_row(escape(f"{one.name}: {one.rule}"), *cells)
    return table


def _load(name: str, settings: list[str] | None) -> tuple[str, Dataset, ImageSplits]:
    """Return the plugin's name, the plugin and its splits, of ``NAME`` or ``NAME:ARGUMENT`` and ``--set``."""
    from harness import registry
    from harness.api import Dataset
    from harness.config import apply_to_dataset, parse_set

    plain, colon, argument = name.partition(":")
    dataset = registry.load(registry.find("dataset", plain), Dataset)
    overrides = [parse_set(text) for text in settings or ()]
    for override in overrides:
        if override.path[0] != "data":
            raise ConfigError(
                f"--set {'.'.join(override.path)}: options of a data set begin with data., as data.split=grouped"
            )
    options = apply_to_dataset(plain, argument if colon else None, dataset.Options, overrides)
    return plain, dataset, dataset.load(plain, options)


def _register(name: str, dataset: Any, source: Path, root: str | None, as_json: bool) -> None:
    with bar("verifying") as progress:
        registered = dataset.add(name, source, root=root, progress=progress)

    from harness.data.manifest import duplicate_groups, groups_in_several_splits, read_manifest

    manifest = None if registered is None else read_manifest(registered, "add it again")
    if manifest is None:  # a plugin that keeps its images its own way has nothing more to say
        out.print(f"{escape(name)} is registered")
        return
    duplicates = duplicate_groups(manifest)
    of_split = manifest.counts()
    order = ["train", "val", "test", ""]
    counts = {split: dict(of_split[split]) for split in order if split in of_split}
    totals = {split: sum(of_class.values()) for split, of_class in counts.items()}
    groups = {split: len({e.group for e in manifest.images if e.split == split}) for split in counts}
    torn = groups_in_several_splits(manifest)
    release = next((known for known, sizes in dataset.releases.items() if dict(sizes) == totals), None)
    sizes = sorted({(entry.width, entry.height) for entry in manifest.images})
    if as_json:
        print_json(
            {
                "name": name,
                "source": manifest.source,
                "classes": manifest.classes,
                "counts": counts,
                "groups": groups,
                "groups_in_several_splits": torn,
                "duplicate_groups": len(duplicates),
                "duplicate_files": sum(map(len, duplicates)),
                "grey": manifest.grey,
                "sizes": len(sizes),
                "release": release,
            }
        )
        return
    out.print(_count_table(manifest.classes, counts, groups))
    shape = f"{sizes[0][0]} x {sizes[0][1]}" if len(sizes) == 1 else f"of {len(sizes)} sizes, decoded to the backbone's"
    modes = ", ".join(sorted({entry.mode for entry in manifest.images}))
    out.print(f"images {shape}, mode {modes}{', grey (R = G = B)' if manifest.grey else ''}")
    out.print(f"{len(duplicates)} groups of identical files ({sum(map(len, duplicates))} files)")
    out.print(f"{len(torn)} patients in more than one split")
    if dataset.releases:
        known = f"the counts are {release}" if release else "the counts are those of no published release"
        out.print(escape(known))
    out.print(f"registered; the images stay in {escape(str(manifest.source))}", soft_wrap=True)


def _count_table(
    classes: Any, counts: dict[str, dict[str, int]], groups: Mapping[str, int] | None, *, shares: bool = False
) -> Any:
    from rich.table import Table

    table = Table()
    table.add_column("split")
    for heading in (*classes, "images", "patients"):
        table.add_column(escape(heading), justify="right")
    for split, of_class in counts.items():
        numbers = [of_class.get(name, 0) for name in classes]
        total = sum(numbers)
        cells = [f"{number} ({number / total:.1%})" if shares and total else str(number) for number in numbers]
        table.add_row(escape(split), *cells, str(total), "unknown" if groups is None else str(groups[split]))
    return table
