"""What the notes of `scripts/tide_local.sh` say; fails when the sites do not hold the same state.

python scripts/bench/tide_local.py FOLDER SITES
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any


def summary(folder: Path, sites: int) -> tuple[dict[str, Any], list[str]]:
    """Figures, and what is wrong."""
    hub = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    notes = [
        [json.loads(line) for line in (folder / f"site{number}.jsonl").read_text().splitlines()]
        for number in range(sites)
    ]
    wrong = []
    digests = {each["round"]: each["digest"] for each in hub}
    ends = [[each for each in site if each["event"] == "end"] for site in notes]
    for number, (site, end) in enumerate(zip(notes, ends, strict=True)):
        if not end or end[-1]["digest"] != hub[-1]["digest"]:
            wrong.append(f"site{number} ended on {end[-1]['digest'][:16] if end else 'nothing'}")
        wrong += [
            f"site{number} held {each['digest'][:16]} in round {each['round']}"
            for each in site
            if each["event"] == "sync" and digests.get(each["round"]) != each["digest"]
        ]
    syncs = [each for site in notes for each in site if each["event"] == "sync"]
    windows = [sum(each["used"].get(f"site{number}", 0) for each in hub) for number in range(sites)]
    for number, site in enumerate(notes):
        last = [each for each in site if each["event"] == "sync"][-1]
        if last["window"] != windows[number]:
            wrong.append(f"site{number} stands at window {last['window']}, but the commits used {windows[number]}")
    known = [each for each in syncs if each["joules"] is not None]
    return {
        "data": ends[0][-1]["data"] if ends[0] else None,
        "rounds": hub[-1]["round"],
        "digest": hub[-1]["digest"],
        "digests_at_the_end": [end[-1]["digest"] if end else None for end in ends],
        "accuracy_on_people_held_out": ends[0][-1]["accuracy"] if ends[0] else None,
        "joins_per_site": [sum(each["event"] == "joined" for each in site) for site in notes],
        "windows_used_per_site": windows,
        "bytes_up_per_sync_and_site": statistics.median(each["bytes_sent"] for each in syncs),
        "bytes_down_per_sync_and_site": statistics.median(each["bytes_received"] for each in syncs),
        "seconds_per_sync": statistics.median(each["seconds"] for each in syncs),
        "joules_per_sync": statistics.median(each["joules"] for each in known) if known else None,
        "joules_low_high": [statistics.median(e[k] for e in known) for k in ("low", "high")] if known else None,
        "joules_source": known[0]["source"] if known else "no sensor",
        "sync_share_of_joules": _share(notes),
        "longest_round_s": max(each["seconds"] for each in hub[1:]),
    }, wrong


def _share(notes: list[list[dict[str, Any]]]) -> float | None:
    """Of the sites that were never killed, whose whole run was metered."""
    whole = [site for site in notes if sum(each["event"] == "joined" for each in site) == 1]
    spent = sum(each.get("run_joules") or 0 for site in whole for each in site)
    return sum(each.get("joules") or 0 for site in whole for each in site) / spent if spent else None


def main() -> int:
    figures, wrong = summary(Path(sys.argv[1]), int(sys.argv[2]))
    print(json.dumps(figures, indent=2))
    for each in wrong:
        print(f"wrong: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
