"""What a site and a coordinator are told, from a mapping or a YAML file."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from clisonix.errors import ClisonixError, nearest
from clisonix.tide.codecs import CodecSettings
from clisonix.tide.replica import Rules


@dataclass(frozen=True)
class Tls:
    """Certificates for both sides; each must show one that `ca` has signed.

    Args:
        ca: certificates that are trusted, PEM.
        certificate: of this node, PEM; a site's carries the site's name as a DNS name.
        key: that belongs to it, PEM.
        server_name: that the coordinator's certificate must carry, where it is not the host that is called.
    """

    ca: Path
    certificate: Path
    key: Path
    server_name: str | None = None


@dataclass(frozen=True)
class _Settings:
    rules: Rules = field(default_factory=Rules)
    tls: Tls | None = None
    insecure: bool = False
    heartbeat_s: float = 5.0
    rounds: int | None = None

    @classmethod
    def of(cls, given: Self | Mapping[str, Any]) -> Self:
        """Settings from a mapping; `rules`, their codecs, and `tls` are mappings in it.

        Raises:
            ClisonixError: a key is unknown or missing, or a value is out of range.
        """
        if isinstance(given, cls):
            return given
        assert isinstance(given, Mapping)
        named = dict(given)
        named["rules"] = _rules(named.get("rules") or {})
        if named.get("tls") is not None:
            named["tls"] = Tls(**_checked("tls", named["tls"], Tls, paths=("ca", "certificate", "key")))
        return cls(**_checked(cls.__name__, named, cls, paths=cls._paths()))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Settings from a YAML file; paths in it are relative to its folder.

        Raises:
            ClisonixError: it cannot be read, or holds something else.
        """
        import yaml

        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ClisonixError(f"{path} cannot be read as YAML ({error}): give the path of a config") from error
        if not isinstance(content, Mapping):
            raise ClisonixError(f"{path} holds no settings: give `name: value` lines")
        here = path.resolve().parent
        named = {key: _beside(here, key, value, cls._paths()) for key, value in content.items()}
        if isinstance(named.get("tls"), Mapping):
            named["tls"] = {k: _beside(here, k, v, ("ca", "certificate", "key")) for k, v in named["tls"].items()}
        return cls.of(named)

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ()

    def _check(self, host: str) -> None:
        if not (math.isfinite(self.heartbeat_s) and self.heartbeat_s > 0):
            raise ClisonixError(f"heartbeat_s is {self.heartbeat_s!r}, but it must be above 0: try 5")
        if self.rounds is not None and self.rounds < 1:
            raise ClisonixError(f"rounds is {self.rounds!r}, but it must be 1 or more, or be left out for no end")
        if self.tls is None and not self.insecure and not _is_local(host):
            raise ClisonixError(
                f"{host} is not this machine and no tls is given: give tls, or insecure: true in a network where "
                "everybody may read the updates"
            )


@dataclass(frozen=True)
class SiteSettings(_Settings):
    """How a site takes part; it only connects outwards.

    Args:
        site: its name.
        coordinator: `host:port` to connect to.
        key: file of the site's secret, which the coordinator holds too.
        inner_steps: local steps between two syncs.
        windows_per_step: of the site's stream that one step uses.
        give_up_s: after which a site that hears nothing new gives up.
        rules: of the training, alike at all nodes.
        tls: certificates; may only be left out on one machine, or with `insecure`.
        insecure: allow plain TCP between machines; messages are still authenticated.
        heartbeat_s: after which a silent peer counts as away.
        rounds: after which the training is over; None for no end.
    """

    engine: str = "sites"
    site: str = ""
    coordinator: str = ""
    key: Path = Path()
    inner_steps: int = 100
    windows_per_step: int = 1
    give_up_s: float = 3600.0

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ("key",)

    def __post_init__(self) -> None:
        name_checked(self.site)
        for each in ("inner_steps", "windows_per_step"):
            if getattr(self, each) < 1:
                raise ClisonixError(f"{each} is {getattr(self, each)!r}, but it must be 1 or more")
        self._check(address(self.coordinator)[0])


@dataclass(frozen=True)
class CoordinatorSettings(_Settings):
    """How the coordinator is run.

    Args:
        listen: `host:port` addresses to bind, and no other.
        keys: folder with `NAME.key` for each site that may join.
        log: file that it resumes from.
        start: safetensors file with the state to begin with, from `write_start`.
        result: safetensors file for the parameters after the last round.
        report: file that gets a line of JSON after each round.
        linger_s: how long it waits at the end for sites that have not taken the last state.
        rules: as at the sites; so are `rounds` and `heartbeat_s`.
        tls: certificates; may only be left out on one machine, or with `insecure`.
        insecure: allow plain TCP between machines; messages are still authenticated.
        heartbeat_s: after which a silent site counts as away.
        rounds: after which the training is over; None for no end.
    """

    engine: str = "sites"
    listen: str | tuple[str, ...] = ()
    keys: Path = Path()
    log: Path = Path()
    start: Path = Path()
    result: Path | None = None
    report: Path | None = None
    linger_s: float = 60.0

    @classmethod
    def _paths(cls) -> tuple[str, ...]:
        return ("keys", "log", "start", "result", "report")

    def __post_init__(self) -> None:
        listen = (self.listen,) if isinstance(self.listen, str) else tuple(self.listen)
        object.__setattr__(self, "listen", listen)  # one address may be given as it is
        if not listen:
            raise ClisonixError("listen is empty: give the addresses to bind, such as 127.0.0.1:7433")
        for each in listen:
            self._check(address(each)[0])


def address(text: str) -> tuple[str, int]:
    """`host:port`, or `[v6]:port`, as a pair.

    Raises:
        ClisonixError: it is neither.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 2**16):
        raise ClisonixError(f"{text!r} is no address: give host:port, such as 127.0.0.1:7433")
    return host.strip("[]"), int(port)


def name_checked(name: str) -> str:
    """A name that is fit for a file and a certificate.

    Raises:
        ClisonixError: it is not.
    """
    if not (0 < len(name) <= 63 and name.replace("-", "").replace("_", "").isalnum() and name.isascii()):
        raise ClisonixError(f"{name!r} is no name for a node: give up to 63 letters, digits, - and _")
    return name


def _rules(given: Rules | Mapping[str, Any]) -> Rules:
    if isinstance(given, Rules):
        return given
    named = _checked("rules", given, Rules)
    for direction in named.keys() & {"up", "down"}:
        named[direction] = CodecSettings.of(named[direction])
    return Rules(**named)


def _checked(what: str, given: Mapping[str, Any], cls: type, paths: tuple[str, ...] = ()) -> dict[str, Any]:
    valid = [each.name for each in fields(cls)]
    for key in given:
        if key not in valid:
            raise ClisonixError(f"{what} has no setting {key!r}{nearest(str(key), valid)}")
    for key in paths:
        required = {"key", "keys", "log", "start", "ca", "certificate"}
        if key in required and not given.get(key):
            raise ClisonixError(f"{what} lacks {key!r}: give the path of it")
    return {k: Path(v) if k in paths and v is not None else v for k, v in given.items()}


def _beside(folder: Path, key: str, value: Any, paths: tuple[str, ...]) -> Any:  # noqa: ANN401 - a value of YAML
    return folder / value if key in paths and isinstance(value, str) else value


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
