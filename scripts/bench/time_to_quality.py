"""Time, energy, memory and bytes to a quality: the green recipe against dense training and against small models.

Contenders, each tuned by the same search: dense with AdamW; dense with `torch.optim.Muon`; a narrower dense twin that
has no more parameters than ours, with both; plain low-rank factors from random numbers with AdamW; the green recipe.

Registered before any run:

- Search, on fold 0 of each task, which is never scored: three learning rates for the whole number of epochs, twice
  or half the best while that one is at the edge (at most three more), then the best rate for half the epochs. The
  half is taken if its final quality is at most 0.5 points below the best.
- Scored: folds 1 and on, seeds 0 and on; all contenders of a (seed, fold) one after the other, in an order that
  rotates.
- Target of a fold: the mean final quality of dense AdamW over the seeds. There are four looks an epoch, which are not
  counted; it is reached at the first look that, with the one before it, is on average at least that.
- Changed later: going on past the edge was added, for all contenders, after folds 1 to 3 of `watch` had been run once
  with three rates only, of which both twins and ours had taken the highest.
- Time is that of the processor, on one thread, since other work shares the machine; wall time is in the raw file.

    python scripts/bench/time_to_quality.py --tasks watch --data DIR --out docs/results/time_to_quality.json

`--work` keeps one file for each run: an interrupted benchmark goes on where it was. `--page` also writes
`docs/results/training.md` from the record.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from results_training import summarise, write_page
from time_to_quality_contenders import ABLATIONS, ALL, CONTENDERS, SIZES, TASKS, config_of, measure

from clisonix.files import read_json, write_json
from clisonix.meter.recording.machine import hardware, software

SEARCH_FOLD = 0
MARGIN = 0.005
MORE_RATES = 3
# Whole number of epochs: where the loss of a dense model on the search fold has been level for a while.
EPOCHS = {"fsdd": 16, "watch": 4, "p300": 20}


class Bench:
    """Runs that are still to be made, and the files of those that were."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.root, self.work, self.size = Path(arguments.data), Path(arguments.work), arguments.size
        self.compiled, self.epochs = arguments.compile, arguments.epochs

    def run(self, task: str, name: str, *, rate: float, epochs: int, seed: int, fold: int) -> dict[str, Any]:
        """One run, from its file if it was made already."""
        key = {"task": task, "size": self.size, "name": name, "rate": rate, "epochs": epochs, "seed": seed,
               "fold": fold, "compiled": self.compiled}  # fmt: skip
        file = self.work / ("-".join(str(v) for v in key.values()) + ".json")
        if not file.is_file():
            context = multiprocessing.get_context("fork")
            process = context.Process(target=_one, args=(key, self.root, file))
            process.start()
            process.join()
            if process.exitcode != 0:
                raise SystemExit(f"the run {key} failed")
        found: dict[str, Any] = read_json(file)
        last = found["curve"][-1]
        print(f"{task} {name} rate {rate:g} seed {seed} fold {fold}: {last['quality']:.4f} after {last['epoch']} "
              f"epochs, {last['cpu_s']:.1f} s", flush=True)  # fmt: skip
        return found

    def search(self, task: str, name: str) -> list[dict[str, Any]]:
        """The same number of runs for each contender, on a fold that is never scored."""
        whole = self.epochs or EPOCHS[task]
        tried = [self.run(task, name, rate=r, epochs=whole, seed=0, fold=SEARCH_FOLD) for r in ALL[name].rates]
        best = _best(tried)
        for _ in range(MORE_RATES):
            rates = [run["rate"] for run in tried]
            if min(rates) < best["rate"] < max(rates):
                break
            rate = best["rate"] * (2 if best["rate"] == max(rates) else 0.5)
            tried.append(self.run(task, name, rate=rate, epochs=whole, seed=0, fold=SEARCH_FOLD))
            best = _best(tried)
        tried.append(self.run(task, name, rate=best["rate"], epochs=whole // 2, seed=0, fold=SEARCH_FOLD))
        enough = tried[-1]["curve"][-1]["quality"] >= best["curve"][-1]["quality"] - MARGIN
        chosen = tried[-1] if enough else best
        return [{**run, "chosen": run is chosen} for run in tried]


def _best(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return max(runs, key=lambda run: (run["curve"][-1]["quality"], -run["curve"][-1]["log_loss"]))


def _one(key: dict[str, Any], root: Path, file: Path) -> None:
    torch.set_num_threads(1)
    given = {k: key[k] for k in ("rate", "epochs", "seed", "fold", "compiled")}
    config = config_of(key["task"], key["size"], key["name"], root=root, **given)
    found = measure(config, key["task"], key["name"], root)
    write_json(file, {**key, **found, "load": os.getloadavg()[0]})


def schedule(seeds: int, folds: list[int], names: list[str]) -> Iterator[tuple[int, int, list[str]]]:
    """Seeds outside, so that an interrupted benchmark has whole ones; the order of contenders rotates."""
    for seed in range(seeds):
        for fold in folds:
            turn = (seed * len(folds) + fold) % len(names)
            yield seed, fold, names[turn:] + names[:turn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--contenders", nargs="+", choices=ALL, default=list(CONTENDERS))
    parser.add_argument("--ablations", action="store_true", help="also the recipe without each of its parts")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folds", type=int, help="so many of the scored folds; default: all")
    parser.add_argument("--epochs", type=int, help="whole number of epochs; default: by task")
    parser.add_argument("--compile", action="store_true", help="torch.compile on all sides")
    parser.add_argument("--data", type=Path, default=os.environ.get("CLISONIX_DATA"))
    parser.add_argument("--work", type=Path, default=Path("runs/time_to_quality"), help="one file for each run")
    parser.add_argument("--out", type=Path, help="JSON file with every run")
    parser.add_argument("--page", type=Path, help="page to write from it")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON line")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data DIR or set CLISONIX_DATA")
    names = [*arguments.contenders, *(n for n in ABLATIONS if arguments.ablations)]
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments)
    record: dict[str, Any] = {
        "machine": {"hardware": {**hardware(), "threads": 1}, "software": software()},
        "size": arguments.size,
        "asked": {"seeds": arguments.seeds, "tasks": arguments.tasks, "contenders": names},
        "search": {},
        "runs": [],
    }
    for task in arguments.tasks:
        found = {name: bench.search(task, name) for name in names}
        record["search"][task] = found
        chosen = {name: next(run for run in runs if run["chosen"]) for name, runs in found.items()}
        folds = [f for f in range(TASKS[task].folds) if f != SEARCH_FOLD][: arguments.folds]
        for seed, fold, order in schedule(arguments.seeds, folds, names):
            for name in order:
                settings = {key: chosen[name][key] for key in ("rate", "epochs")}
                record["runs"].append(bench.run(task, name, seed=seed, fold=fold, **settings))
            # After every (seed, fold), so that what is there can be looked at.
            if arguments.out:
                write_json(arguments.out, {**record, "summary": summarise(record["runs"])})
                if arguments.page:
                    write_page(arguments.out, arguments.page)
    if arguments.json:
        print(json.dumps(summarise(record["runs"])))


if __name__ == "__main__":
    main()
