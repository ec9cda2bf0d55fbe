"""The command line: each verb calls one public function and prints what it gives.

Exit codes: 2 wrong use or an unreadable file; 1 something was found; 3 a device could not run everything; 0 otherwise.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from keras_relu_suite import _bar, _options
from keras_relu_suite._version import __version__
from keras_relu_suite.errors import KRSError
from keras_relu_suite.given import import_modules, keras_model, samples, tflite_bytes


def _say(line: str) -> None:
    click.echo(line, err=True)


def _print(result: Any, as_json: bool) -> None:
    from keras_relu_suite import report

    if as_json:
        click.echo(report.as_json(result.to_dict()))
    else:
        report.show(result.summary())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="krs")
def cli() -> None:
    """Train, watch, export and verify networks of the ReLU family."""


@cli.command()
@click.option("--out", default="demo", show_default=True, metavar="DIR", help="Folder for the files and the report.")
@_options.AS_JSON
def demo(out: str, as_json: bool) -> int:
    """Train a PReLU network on real digits, export it and verify it on every device here."""
    from keras_relu_suite.demo import demo as run

    result = run(out, say=_say)
    _print(result, as_json)
    return result.exit_code


@cli.command()
@_options.AS_JSON
def devices(as_json: bool) -> int:
    """List the devices, available or why not."""
    from keras_relu_suite import report
    from keras_relu_suite.devices import survey

    found = survey()
    if as_json:
        click.echo(json.dumps({"schema_version": 1, "devices": found}, indent=1))
    else:
        report.show(report.devices_text(found))
    return 0


@cli.command()
@_options.FILE
@_options.AS_JSON
@_options.IMPORT
def inspect(file: Path, as_json: bool, modules: tuple[str, ...]) -> int:
    """List the activations of FILE, a .keras or .tflite file."""
    from keras_relu_suite.analysis import inspection

    import_modules(modules)
    if file.suffix in (".keras", ".h5"):
        result = inspection.inspect_model(keras_model(file), file.name)
    else:
        result = inspection.inspect_tflite(tflite_bytes(file), str(file))
    _print(result, as_json)
    return 0


@cli.command()
@_options.MODEL
@_options.data("Samples: .npz with array x (and y), or .npy.", required=True)
@click.option("--layers", multiple=True, metavar="NAME", help="An activation to look at (repeatable, * for any).")
@click.option("--granularity", default="channel", show_default=True, help="What a unit is: channel or position.")
@_options.report(".json")
@_options.AS_JSON
@_options.IMPORT
def diagnose(
    model: Path, data: Path, layers: tuple[str, ...], granularity: str, target: Path | None, as_json: bool,
    modules: tuple[str, ...],
) -> int:  # fmt: skip
    """Find the dead units of MODEL, a .keras file, on data. Exit code 1: some are dead or NaN."""
    from keras_relu_suite.analysis.diagnose import diagnose as run
    from keras_relu_suite.report import files as reports

    import_modules(modules)
    if target is not None:
        reports.check(target, (".json",))
    x, y = samples(data)
    result = run(keras_model(model), x, y, layers or None, granularity)
    _print(result, as_json)
    if target is not None:
        result.save(target)
    return result.exit_code


@cli.command()
@_options.MODEL
@click.argument("path", type=_options.PATH)
@_options.MODE
@_options.IO
@click.option(
    "--calibration", "--data", "data", type=_options.PATH, metavar="FILE",
    help="Typical samples, for int8 and int16x8: .npz with array x, or one array for each input; or .npy.",
)  # fmt: skip
@click.option("--calibration-samples", type=int, metavar="N", help="Use at most the first N of them.")
@click.option("--batch-size", default=1, show_default=True, metavar="N", help="The fixed batch of the file.")
@_options.LOWERING
@_options.TARGET
@click.option("--equalize", is_flag=True, help="Rescale channels between layers first, so that int8 keeps more.")
@_options.RANGES
@click.option("--strict", is_flag=True, help="A note about the file makes the exit code 1.")
@_options.AS_JSON
@_options.IMPORT
def export(
    model: Path, path: Path, mode: str, io: str, data: Path | None, calibration_samples: int | None, batch_size: int,
    lowering: str, target: str, equalize: bool, ranges: str, strict: bool, as_json: bool, modules: tuple[str, ...],
) -> int:  # fmt: skip
    """Write MODEL, a .keras file trained on any backend, as the .tflite file PATH."""
    from keras_relu_suite.export.convert import export as run

    import_modules(modules)
    loaded = keras_model(model)
    calibration = None if data is None else samples(data)[0]
    with _bar.shown() as progress:
        result = run(
            loaded, path, mode, calibration, io, batch_size, calibration_samples,
            lowering=lowering, target=target, equalize=equalize, ranges=ranges, progress=progress,
        )  # fmt: skip
    _print(result, as_json)
    return 0 if result or not strict else 1


@cli.command()
@_options.MODEL
@_options.data("To train on: .npz with arrays x and y.", required=True)
@_options.data("To score on, likewise. [default: a fifth of --data]", name="--test")
@click.option("--activations", metavar="NAME,…", help="relu, prelu, prelu_shared, elu … [default: seven]")
@click.option("--mode", "modes", multiple=True, metavar="MODE", help="As in export. [default: float32, int8]")
@click.option("--device", "names", multiple=True, metavar="NAME", help="As in verify. [default: xnnpack, micro]")
@click.option("--seeds", default=3, show_default=True, help="Networks with each activation.")
@click.option("--epochs", default=10, show_default=True, help="Of training.")
@click.option("--batch-size", default=64, show_default=True, help="Of training.")
@_options.report(".html or .json")
@_options.AS_JSON
@_options.IMPORT
def compare(
    model: Path, data: Path, test: Path | None, activations: str | None, modes: tuple[str, ...],
    names: tuple[str, ...], seeds: int, epochs: int, batch_size: int, target: Path | None, as_json: bool,
    modules: tuple[str, ...],
) -> int:  # fmt: skip
    """Train MODEL, a .keras file, anew with each activation, and say which to ship. Exit code 1: one does not hold."""
    from keras_relu_suite.analysis import compare as comparing
    from keras_relu_suite.report import files as reports

    import_modules(modules)
    if target is not None:
        reports.check(target, (".html", ".json"))
    loaded = keras_model(model, compile=True)
    pairs = tuple(samples(path) for path in (data, test) if path is not None)
    with _bar.shown() as progress:
        result = comparing.compare(
            loaded, pairs if test is not None else pairs[0],
            activations=comparing.ACTIVATIONS if activations is None else activations.split(","),
            modes=modes or comparing.MODES, devices=names or None, seeds=seeds, epochs=epochs, batch_size=batch_size,
            progress=progress,
        )  # fmt: skip
    _print(result, as_json)
    if target is not None:
        result.save(target)
    return result.exit_code


def _explain(context: click.Context, parameter: click.Parameter, code: str | None) -> None:
    """Print what a finding means and stop, whatever else was given or is missing."""
    if code is not None:
        from keras_relu_suite.report import show
        from keras_relu_suite.verify.rules import explain

        show(explain(code))
        context.exit(0)


@cli.command()
@_options.FILE
@_options.TRAINED
@_options.data("Samples: .npz with arrays x (and y), or .npy.")
@click.option(
    "--device", "names", multiple=True, metavar="NAME",
    help="A device (repeatable); 'all' for every one that is available. [default: xnnpack, reference]",
)  # fmt: skip
@click.option(
    "--outputs", type=_options.PATH, metavar="DIR",
    help="Judge what a device that is not here gave for the bundle DIR, which `krs probe` wrote.",
)  # fmt: skip
@_options.report(".html, .json or .xml (JUnit)")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@click.option(
    "--explain", metavar="CODE", is_eager=True, expose_value=False, callback=_explain,
    help="Say what a finding means, why it matters and how to fix it, and exit.",
)  # fmt: skip
@_options.AS_JSON
@_options.IMPORT
def verify(
    file: Path, model: Path | None, data: Path | None, names: tuple[str, ...], outputs: Path | None,
    target: Path | None, strict: bool, as_json: bool, modules: tuple[str, ...],
) -> int:  # fmt: skip
    """Check FILE, a .tflite file, on real runtimes against the network that was trained."""
    from keras_relu_suite import devices as registry
    from keras_relu_suite.report import files as reports
    from keras_relu_suite.verify.check import verify as run

    import_modules(modules)
    if target is not None:
        reports.check(target, (".json", ".html", ".xml"))  # before hours of work, not after
    for name in names:
        if name != "all":
            registry.get(name)  # an unknown name is wrong use, to be told before a model is loaded
    tflite_bytes(file)
    loaded = None if model is None else keras_model(model)
    x, y = (None, None) if data is None else samples(data)
    with _bar.shown() as progress:
        result = run(
            file, model=loaded, data=x, labels=y, devices=names or None, strict=strict, progress=progress,
            outputs=outputs,
        )  # fmt: skip
    _print(result, as_json)
    if target is not None:
        result.save(target)
    return result.exit_code


@cli.command()
@_options.FILE
@click.argument("folder", type=_options.PATH, metavar="DIR")
@_options.TRAINED
@_options.data("Samples for the whole file: .npz with array x, or .npy.")
@_options.AS_JSON
@_options.IMPORT
def probe(
    file: Path, folder: Path, model: Path | None, data: Path | None, as_json: bool, modules: tuple[str, ...]
) -> int:
    """Write a bundle to DIR: what `verify` runs, as .tflite files and raw inputs, for a device that is not here.

    Copy DIR there, run what its manifest.json says, copy the outputs back and judge them with `krs verify FILE
    --outputs DIR`. Exit code 3: an activation of FILE has no probe.
    """
    from keras_relu_suite.verify.probe import probe as run

    import_modules(modules)
    loaded = None if model is None else keras_model(model)
    result = run(file, folder, loaded, None if data is None else samples(data)[0])
    _print(result, as_json)
    return 0 if result else 3


@cli.command()
@_options.FILE
@click.argument("page", type=_options.PATH, required=False, metavar="[OUT.html]")
def report(file: Path, page: Path | None) -> int:
    """Draw the page of FILE.json again, a report of `verify`, `compare` or `demo`, to OUT.html or beside FILE."""
    from keras_relu_suite.report import redraw

    click.echo(redraw(file, page))
    return 0


def main() -> None:
    """Run `krs`. A user's mistake is one line and exit code 2; a bug of ours keeps its traceback."""
    try:
        sys.exit(cli(standalone_mode=False) or 0)
    except KRSError as error:
        click.echo(f"krs: {error}", err=True)
    except click.Abort:
        click.echo("krs: interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        click.echo(f"krs: {error.format_message()}", err=True)
    sys.exit(2)
