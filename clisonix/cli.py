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

from clisonix.errors import ClisonixError

if TYPE_CHECKING:
    from clisonix.meter.record import Record

app = typer.Typer(
    help="Train, compress and account for deep learning on physiological signals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder with recordings.", envvar="CLISONIX_DATA", show_envvar=True),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    html: Annotated[bool, typer.Option("--html", help="Write RUN/report.html (the default).")] = False,
    md: Annotated[bool, typer.Option("--md", help="Print Markdown.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a run gave and what it cost."""
    from clisonix.files import write_bytes
    from clisonix.meter.record import read_content
    from clisonix.meter.report import render_html, render_markdown

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
    a: Annotated[Path, typer.Argument(help="Run folder, or a folder of runs that differ in their seed.")],
    b: Annotated[Path, typer.Argument(help="The same, to compare with.")],
    force: Annotated[bool, typer.Option(help="Compare unlike hardware or sensors all the same.")] = False,
    as_json: Json = False,
) -> None:
    """Put two runs side by side: time, energy, size and quality, with intervals."""
    from clisonix.meter.compare import compare as compare_runs
    from clisonix.meter.table import comparison_table

    comparison = compare_runs([a], [b], force=force)
    if as_json:
        _print_json(comparison.to_json())
    else:
        out.print(comparison_table(comparison))


@app.command()
def verify(run: Annotated[Path, typer.Argument(help="Run folder.")], as_json: Json = False) -> None:
    """Recompute every figure of a run from its files; exit 1 if any differs."""
    from clisonix.meter.verify import verify as verify_run

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
    runs: Annotated[Path, typer.Argument(help="Folder that holds run folders.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="Port on this machine; 0 takes a free one.")] = 0,
) -> None:
    """Show runs and comparisons in the browser, on this machine only."""
    from clisonix.demo import serve

    serve(runs, port=port)


def _summary(record: Record) -> str:
    from clisonix.meter.words import quantity

    quality, energy = record.quality or {}, record.total("train")
    parts = [f"{quality.get('metric', 'quality')} {100 * quality.get('value', float('nan')):.1f} %"]
    parts.append(f"trained in {quantity(record.time.get('train_s'), 's')}")
    parts.append(quantity(record.size.get("bytes"), "bytes"))
    parts.append(f"{quantity(energy.joules, 'J')}: {energy.how()}")
    return ", ".join(parts)


def _print_json(content: Any) -> None:  # noqa: ANN401 - whatever JSON can say
    sys.stdout.write(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
