"""`python -m clisonix.tide`: run a coordinator, or make the keys of sites."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from clisonix.errors import ClisonixError
from clisonix.tide.net import CoordinatorSettings, serve
from clisonix.tide.net.identity import make_key


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; 2 when the input was bad."""
    parser = argparse.ArgumentParser(prog="python -m clisonix.tide", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    coordinate = commands.add_parser("coordinate", help="run the coordinator of a training")
    coordinate.add_argument("config", type=Path, help="YAML file of coordinator settings")
    keys = commands.add_parser("keys", help="make the secret of each site named")
    keys.add_argument("sites", nargs="+")
    keys.add_argument("--folder", type=Path, default=Path("keys"))
    given = parser.parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        if given.command == "keys":
            for site in given.sites:
                print(make_key(given.folder, site))
        else:
            print(serve(CoordinatorSettings.read(given.config)))
    except ClisonixError as error:
        print(f"clisonix: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
