"""An append-only file of records that is on the disk before anybody hears of them."""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from clisonix.errors import ClisonixError
from clisonix.files import cannot_write, fsync_folder, write_bytes

_MAGIC = b"clisonix tide log 1\n"
_HEAD = struct.Struct("<II")  # length, and its own checksum: a wrong length would hide all that follows
_TAG_BYTES = 32


class Log:
    """Records chained by SHA-256: each tag covers the record and the tag before it.

    A record that a crash tore, which nobody was told about, is cut off when the log is opened; a damaged one among
    whole ones is refused.

    Args:
        file: open for reading and writing in binary; a file on a disk is synced after every record.

    Raises:
        ClisonixError: it is no log, or a record in it is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._tag = hashlib.sha256(_MAGIC).digest()
        self.records: list[bytes] = list(self._read())

    @classmethod
    def open(cls, path: Path) -> Log:
        """The log at `path`, made where there is none."""
        try:
            new = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            log = cls(path.open("r+b" if not new else "x+b", buffering=0))
            if new:
                fsync_folder(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        return log

    @classmethod
    def rewrite(cls, path: Path, records: list[bytes]) -> Log:
        """Replace the log at `path`, in one atomic step, by one with these records; how a log is kept short."""
        import io

        memory = io.BytesIO()
        log = cls(memory)
        for record in records:
            log.append(record)
        write_bytes(path, memory.getvalue())
        return cls.open(path)

    def append(self, record: bytes) -> None:
        """Add a record; on return it survives a power cut.

        Raises:
            OSError: the disk is full or gone; the record is then not in the log.
        """
        head = _HEAD.pack(len(record), _checksum(len(record)))
        tag = hashlib.sha256(b"".join((self._tag, head, record))).digest()
        begin = self._file.seek(0, os.SEEK_END)
        try:
            _write_all(self._file, b"".join((head, record, tag)))
            self._sync()
        except OSError:
            self._file.truncate(begin)
            raise
        self._tag = tag

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _sync(self) -> None:
        try:
            number = self._file.fileno()
        except OSError:  # in memory
            return
        os.fsync(number)

    def _read(self) -> Iterator[bytes]:
        self._file.seek(0)
        content = self._file.read()
        if len(content) < len(_MAGIC):
            if not _MAGIC.startswith(content):
                raise ClisonixError("the file is no Tide log: give the path of one, or of none")
            self._file.seek(0)
            self._file.truncate()
            _write_all(self._file, _MAGIC)
            self._sync()
            return
        if not content.startswith(_MAGIC):
            raise ClisonixError("the file is no Tide log of version 1: give the path of one, or of none")
        at, number = len(_MAGIC), 0
        while at < len(content):
            begin = at
            if not any(content[begin:]):
                break  # a file may have grown before its content reached the disk
            if at + _HEAD.size > len(content):
                break
            length, check = _HEAD.unpack_from(content, at)
            end = at + _HEAD.size + length + _TAG_BYTES
            record = content[at + _HEAD.size : end - _TAG_BYTES]
            sound = check == _checksum(length)
            if sound and (end > len(content) or not any(content[end - _TAG_BYTES :])):
                break
            tag = hashlib.sha256(b"".join((self._tag, content[at : end - _TAG_BYTES]))).digest()
            if not sound or tag != content[end - _TAG_BYTES : end]:
                raise ClisonixError(f"record {number} of the Tide log is damaged: restore the file from a copy")
            yield record
            self._tag, at, number = tag, end, number + 1
        self._file.truncate(at)


def _checksum(length: int) -> int:
    return zlib.crc32(length.to_bytes(4, "little")) ^ 0x54494445


def _write_all(file: BinaryIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]
