"""The command line. Exit codes: 0 done; 1 a check failed; 2 bad input, told in one sentence; 130 interrupted."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clisonix.cli_data import data_app
from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.meter.recording.record import Record

app = typer.Typer(
    help="Train, compress and account for deep learning on physiological signals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
sweep_app = typer.Typer(help="Measure the same work under several settings of the machine.", no_args_is_help=True)
app.add_typer(sweep_app, name="sweep")
app.add_typer(data_app, name="data")
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with recordings.", envvar="CLISONIX_DATA", show_envvar=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sides = Annotated[
    list[str],
    typer.Argument(
        metavar="A... [vs] B...",
        help="Two run folders, or folders of runs that differ in their seed; or several on each side of the word vs.",
    ),
]
Force = Annotated[bool, typer.Option(help="Go on although hardware, scope or the way of metering differ.")]


def main() -> None:
    """Run the command line; errors that the user can mend become one sentence."""
    try:
        app()
    except ClisonixError as error:
        err.print(f"clisonix: {error}", markup=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("clisonix: interrupted; a training run goes on with --resume", markup=False)
        sys.exit(130)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file with the recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.key=value, e.g. train.epochs=3 seed=1")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/NAME.")] = None,
    data: Data = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")] = False,
    replace: Annotated[bool, typer.Option(help="Delete the run that is in the folder first.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model and write a run folder with its record and report."""
    from clisonix.progress import ProgressBar
    from clisonix.train import load_config
    from clisonix.train import train as run

    recipe = load_config(config, overrides or ())
    folder = to or Path("runs") / recipe.name
    with ProgressBar(err, folder.name) as progress:
        record = run(
            recipe,
            folder,
            root=data,
            resume=resume,
            replace=replace,
            command=shlex.join(["clisonix", *sys.argv[1:]]),
            visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
            progress=progress,
        )
    if as_json:
        _print_json({"folder": str(folder), "quality": record.quality, "size": record.size, "time": record.time})
        return
    out.print(f"{folder}: {_summary(record)}", markup=False, soft_wrap=True)
    out.print(f"report: {folder / 'report.html'}", markup=False, soft_wrap=True)


@app.command()
def compress(
    run: Annotated[Path, typer.Argument(help="Run folder with a dense model.")],
    budget: Annotated[float, typer.Option(help="Below 1: share of the bytes. Above: bytes.")] = 0.3,
    to: Annotated[Path | None, typer.Option("--out", help="Model file. Default: RUN/compressed.safetensors.")] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Compress a trained model without further training, and show what that cost in quality."""
    from clisonix.train.shrink import shrink

    target = to or run / "compressed.safetensors"
    result = shrink(run, budget, target, root=data)
    if as_json:
        _print_json(result)
        return
    out.print(
        f"{target}: {result['bytes']} of {result['dense_bytes']} bytes "
        f"({result['bytes'] / result['dense_bytes']:.3f}), "
        f"accuracy {100 * result['accuracy']:.1f} % after {100 * result['dense_accuracy']:.1f} % dense\n"
        f"plan: {result['plan']}",
        markup=False,
        soft_wrap=True,
    )


@app.command(context_settings={"allow_interspersed_args": False})
def measure(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND ARGS...", help="Any program.")],
    to: Annotated[Path | None, typer.Option("--out", help="Run folder. Default: runs/PROGRAM-TIME.")] = None,
    place: Annotated[str | None, typer.Option(help="Where the electricity comes from, e.g. FRA or USA-CA.")] = None,
    seed: Annotated[int | None, typer.Option(help="The program's seed: pairs runs in a comparison.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON after the program's output.")
    ] = False,
) -> None:
    """Run any program, write what it cost into a run folder, and exit with the program's exit code."""
    from clisonix.meter.program import NotStartedError
    from clisonix.meter.program import measure as measure_program

    try:
        done = measure_program(command, to, seed=seed, place=place, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))
    except NotStartedError as error:
        err.print(f"clisonix: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    if as_json:
        sys.stdout.write(json.dumps(done.to_json()) + "\n")
    else:
        # The program's own output is left alone.
        err.print(f"{done.folder}: {done.summary()}", markup=False, soft_wrap=True)
    raise typer.Exit(done.exit_code)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    html: Annotated[bool, typer.Option("--html", help="Write RUN/report.html (the default).")] = False,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run gave and what it cost."""
    from clisonix.files import write_bytes
    from clisonix.meter.recording.record import read_content
    from clisonix.meter.reporting.report import render_html, render_markdown

    if html + md + as_json > 1:
        raise ClisonixError("give one of --html, --md and --json")
    if as_json:
        _print_json(read_content(run))
    elif md:
        sys.stdout.write(render_markdown(run))
    else:
        write_bytes(run / "report.html", render_html(run).encode())
        out.print(run / "report.html", markup=False, soft_wrap=True)


@app.command()
def compare(
    runs: Sides,
    margin: Annotated[
        list[str] | None, typer.Option(help="Test for equivalence: energy=2%, quality=0.5. Repeat, or use commas.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Put two runs, or two groups, side by side: time, energy, size and quality, with intervals; b against a."""
    from clisonix.meter.comparing.compare import compare as compare_runs
    from clisonix.meter.comparing.margins import parse_margins
    from clisonix.meter.comparing.runs import two_sides
    from clisonix.meter.comparing.table import comparison_table

    comparison = compare_runs(*two_sides(runs), force=force, margins=parse_margins(margin or (), "--margin"))
    if as_json:
        _print_json(comparison.to_json())
    else:
        out.print(comparison_table(comparison))


@app.command()
def gate(
    runs: Sides,
    max_regress: Annotated[
        list[str] | None,
        typer.Option(help="What is allowed: energy=2%, time=5%, quality=0.5. Repeat, or use commas."),
    ] = None,
    prove: Annotated[bool, typer.Option(help="Pass only if a regression below the margin is shown.")] = False,
    within_run: Annotated[
        bool, typer.Option(help="Judge one run against one by their own epochs; ignores chance between runs.")
    ] = False,
    summary: Annotated[Path | None, typer.Option(help="Append a Markdown summary to this file.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Fail if b regresses against a. Exit codes: 0 none shown; 1 a regression; 2 cannot tell, or bad input."""
    from clisonix.meter.comparing.gate import gate as judge
    from clisonix.meter.comparing.gate_text import append_summary, gate_table
    from clisonix.meter.comparing.margins import parse_margins
    from clisonix.meter.comparing.runs import two_sides

    margins = parse_margins(max_regress or (), "--max-regress")
    found = judge(*two_sides(runs), margins, prove=prove, within_run=within_run, force=force)
    if summary is not None:
        append_summary(summary, found)
    if as_json:
        _print_json(found.to_json())
    else:
        out.print(gate_table(found))
    raise typer.Exit(found.exit_code)


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of ranks or nodes, or merged folders.")],
    to: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged run.")],
    as_json: Json = False,
) -> None:
    """Put the records of several ranks or nodes together, each physical device counted once."""
    from clisonix.files import write_bytes
    from clisonix.meter.recording.merge import merge as merge_runs
    from clisonix.meter.reporting.report import render_html

    record = merge_runs(runs, to)
    write_bytes(to / "report.html", render_html(to).encode())
    if as_json:
        _print_json({"folder": str(to), "parts": len(record.parts), "energy": record.energy, "notes": record.notes})
        return
    out.print(f"{to}: {len(record.parts)} parts, {_summary(record)}", markup=False, soft_wrap=True)
    for note in record.notes:
        out.print(note, markup=False, soft_wrap=True)


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: Json = False) -> None:
    """Recompute every figure of a run from its files; exit 1 if any differs."""
    from clisonix.meter.recording.verify import verify as verify_run

    findings = verify_run(run)
    wrong = [finding for finding in findings if not finding.ok]
    if as_json:
        _print_json([{"ok": finding.ok, "what": finding.what} for finding in findings])
    else:
        for finding in wrong or findings:
            out.print(("ok   " if finding.ok else "FAIL ") + finding.what, markup=False, soft_wrap=True)
        out.print(f"{len(findings) - len(wrong)} of {len(findings)} checks passed")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def doctor(data: Data = None, as_json: Json = False) -> None:
    """Say what works on this machine, and what would make more work."""
    from clisonix.doctor import diagnose

    checks = diagnose(data, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if as_json:
        _print_json([check.to_json() for check in checks])
    else:
        for check in checks:
            mark = {True: "ok ", None: "-  ", False: "BAD"}[check.ok]
            out.print(f"{mark} {check.what}: {check.found}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if any(check.ok is False for check in checks) else 0)


@app.command()
def demo(
    runs: Annotated[
        Path | None, typer.Argument(help="Folder that holds run folders. Default: runs, if there is one.")
    ] = None,
    data: Data = None,
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--open", help="Also open the address in the browser.")] = False,
) -> None:
    """Watch streams weave and a model shrink, and see what runs cost: in the browser, on this machine only."""
    from clisonix.demo import serve

    if runs is None and Path("runs").is_dir():
        runs = Path("runs")
    serve(runs, port=port, open_browser=browser, data=data)


@sweep_app.command("power", context_settings={"allow_interspersed_args": False})
def sweep_power(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The work, after --: the same each time.")],
    min_w: Annotated[float | None, typer.Option("--min", help="Lowest limit, watts. Default: all GPUs' own.")] = None,
    max_w: Annotated[
        float | None, typer.Option("--max", help="Highest limit, watts. Default: all GPUs' own.")
    ] = None,
    steps: Annotated[int, typer.Option(help="How many limits.")] = 5,
    seconds: Annotated[float, typer.Option(help="Repeat the command at each limit for at least so long.")] = 5.0,
    max_slowdown: Annotated[str | None, typer.Option(help="Also look for the best limit so close, e.g. 5%.")] = None,
    warmup: Annotated[bool, typer.Option(help="Run the command once before measuring.")] = True,
    to: Annotated[Path | None, typer.Option("--out", help="Also write the JSON to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Find the power limit at which a command uses least energy; the GPUs' limits are put back afterwards."""
    from clisonix.files import write_json
    from clisonix.meter import sweep_power as sweep
    from clisonix.meter.comparing.margins import parse_percentage
    from clisonix.meter.power.command import Command
    from clisonix.meter.power.sweep_text import sweep_sentences, sweep_table

    found = sweep(
        Command(command),
        min_w=min_w,
        max_w=max_w,
        steps=steps,
        seconds=seconds,
        max_slowdown=None if max_slowdown is None else parse_percentage(max_slowdown, "--max-slowdown"),
        warmup=warmup,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        say=lambda sentence: err.print(f"sweep: {sentence}", markup=False, soft_wrap=True),
    )
    if to is not None:
        write_json(to, found.to_json())
    if as_json:
        _print_json(found.to_json())
        return
    out.print(sweep_table(found))
    for sentence in sweep_sentences(found):
        out.print(sentence, markup=False, soft_wrap=True)


@sweep_app.command("restore")
def sweep_restore(as_json: Json = False) -> None:
    """Put back the power limits that a killed sweep left behind."""
    from clisonix.meter import restore_limits

    found = restore_limits()
    if as_json:
        _print_json({"watts": found})
        return
    for uuid, watts in found.items():
        out.print(f"{uuid}: {watts:g} W", markup=False, soft_wrap=True)
    if not found:
        out.print("no sweep has left power limits behind")


def _summary(record: Record) -> str:
    from clisonix.meter.words import quantity

    quality, energy = record.quality or {}, record.total("train")
    parts = []
    if quality.get("metric") == "accuracy" and quality.get("value") is not None:
        parts.append(f"accuracy {100 * quality['value']:.1f} %")
    parts.append(f"trained in {quantity(record.time.get('train_s'), 's')}")
    if "bytes" in record.size:
        parts.append(quantity(record.size["bytes"], "bytes"))
    parts.append(f"{quantity(energy.joules, 'J')}: {energy.how()}")
    return ", ".join(parts)


def _print_json(content: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
