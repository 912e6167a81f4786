"""`unmask download | check | convert`."""

import json
from dataclasses import asdict
from pathlib import Path

from unmask_engine.bundle import BundleError
from unmask_server.commands.exits import CommandError


def download(name: str, to: Path | None, revision: str | None) -> None:
    from unmask_engine.catalogue import DownloadError, download_bundle

    try:
        folder = download_bundle(name, to=to, revision=revision)
    except DownloadError as error:
        raise CommandError(str(error)) from None
    print(f"{name} lies in {folder}")
    convert(folder, None)


def check(bundle: str, as_json: bool) -> None:
    from unmask_engine.check import check_bundle

    report = check_bundle(bundle)
    if as_json:
        print(json.dumps(asdict(report) | {"ok": report.ok}))
    else:
        for component in report.components:
            print(f"{'BAD' if component.problems else 'ok ':4}{component.name:18}{component.summary}")
            for problem in component.problems:
                print(f"    {problem}")
    if not report.ok:
        count = sum(len(component.problems) for component in report.components)
        raise CommandError(f"{report.name} has {count} problem(s)")


def convert(source: Path, target: Path | None) -> None:
    from unmask_engine.convert import convert_bundle, convert_file

    if source.is_dir():
        if target is not None:
            raise BundleError("a bundle's bundle.json says where its files go: give no target")
        written = convert_bundle(source)
    else:
        written = [convert_file(source, target or source.with_suffix(".safetensors"))]
    for file in written:
        print(f"wrote {file}")
    if not written:
        print("nothing to convert")
