"""Fetching files and unpacking archives: whole or not at all, and never outside their folder."""

import errno
import hashlib
import lzma
import os
import shutil
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.request import Request, urlopen

from litlens.data.progress import progress
from litlens.errors import UserError

_CHUNK = 1 << 20
_Entry = tuple[str, bool, Any]
# What zipfile, tarfile and their decompressors raise for a damaged, encrypted or unknown archive.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    EOFError, NotImplementedError, OSError, RuntimeError, ValueError,
)  # fmt: skip


class NotFetched(UserError):  # noqa: N818
    """No mirror gave the file; `reason` says in a few words why."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def fetch(
    urls: str | Sequence[str],
    target: Path,
    *,
    md5: str | None = None,
    sha256: str | None = None,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file to `target`, from the first of the mirrors that has it, unless it is there and right.

    Written beside the target and renamed at the end, so that `target` is whole whenever it is there.

    Args:
        urls: One address, or mirrors in the order in which to try them.
        target: Where the file is to stand; folders are made.
        md5: What the file must hash to, in hexadecimal.
        sha256: The same.
        timeout: Seconds without an answer after which a server is given up.

    Raises:
        UserError: The file cannot be written, or no mirror gave the right one (`NotFetched`).
    """
    if target.is_file() and _is_right(target, md5=md5, sha256=sha256):
        return target
    failures: dict[str, str] = {}
    for url in [urls] if isinstance(urls, str) else urls:
        with _beside(target) as unfinished:
            try:
                _download(url, unfinished, name=target.name, timeout=timeout)
            # Python's OSError covers URLError, HTTPError, time-outs and refused connections; ValueError a bad
            # address.
            except (OSError, HTTPException, ValueError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"no space is left to fetch {target.name} to {target.parent}") from error
                failures[url] = _told(error)
                continue
            if not _is_right(unfinished, md5=md5, sha256=sha256):
                failures[url] = "what came is another file than expected (its checksum differs)"
                continue
            unfinished.replace(target)
            return target
    told = "; ".join(f"{url}: {reason}" for url, reason in failures.items())
    raise NotFetched(
        f"{target.name} is not in {target.parent} and could not be fetched ({told}); "
        f"put the file there by hand, or run once on a machine with network and copy {target.parent}",
        reason="; ".join(dict.fromkeys(failures.values())),
    )


def extract(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar archive (of any compression) to `folder`, not there yet; whole or not at all.

    Only files and folders are unpacked; an archive with links, or with a path that leaves the folder, is
    refused.

    Raises:
        UserError: The archive is damaged, unsafe or no archive, or there is no room for what is in it.
    """
    with _beside(folder) as unfinished:
        try:
            unfinished.mkdir()
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    entries: list[_Entry] = [(entry.filename, entry.is_dir(), entry) for entry in zipped.infolist()]
                    _unpack(entries, into=unfinished, archive=archive, open_entry=zipped.open)
            else:
                with tarfile.open(archive) as tar:
                    members = _all_members(tar)
                    for member in members:
                        if not (member.isfile() or member.isdir()):
                            raise UserError(f"{archive}: {member.name} is neither file nor folder; not unpacked")
                    entries = [(member.name, member.isdir(), member) for member in members]
                    _unpack(entries, into=unfinished, archive=archive, open_entry=tar.extractfile)
            unfinished.replace(folder)
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"no space is left to unpack {archive} to {folder}") from error
            raise UserError(f"{archive} cannot be unpacked ({_told(error)}); delete it and fetch it again") from error
    return folder


def _download(url: str, path: Path, *, name: str, timeout: float) -> None:
    # Some servers turn Python's own name away.
    request = Request(url, headers={"User-Agent": "Mozilla/5.0 (litlens)"})
    with urlopen(request, timeout=timeout) as answer, path.open("wb") as file:
        length = answer.headers.get("Content-Length")
        size = int(length) if length is not None else None
        total = None if size is None else -(-size // _CHUNK)
        chunks = iter(lambda: answer.read(_CHUNK), b"")
        for chunk in progress(chunks, description=f"Fetching {name} (MiB)", total=total):
            file.write(chunk)
        if size is not None and file.tell() != size:
            raise HTTPException(f"the connection broke after {file.tell()} of {size} bytes")


def _is_right(path: Path, *, md5: str | None, sha256: str | None) -> bool:
    for algorithm, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        # MD5 finds transfer errors here, it guards against nobody: allowed where it is barred for security.
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                digest.update(chunk)
        if digest.hexdigest() != expected.lower():
            return False
    return True


def _all_members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """What is in a tar archive; raises where tarfile takes damage for the end of the archive."""
    members = tar.getmembers()
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    # After the last file come zeros. Reading on to the end also checks a compressed archive's checksum.
    for rest in iter(lambda: tar.fileobj.read(_CHUNK), b""):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it is damaged after " + (members[-1].name if members else "its start"))
    return members


def _unpack(entries: list[_Entry], *, into: Path, archive: Path, open_entry: Any) -> None:
    """Write the entries (name, whether it is a folder, handle); every name is checked before the first."""
    for name, _, _ in entries:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
            raise UserError(f"{archive}: {name} would be written outside its folder; the archive is not unpacked")
    for name, is_folder, handle in progress(entries, description=f"Unpacking {archive.name}", total=len(entries)):
        path = into / name
        if is_folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_entry(handle) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, _CHUNK)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A path beside the target to be renamed at the end; what is left there is removed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {target.parent}: {_told(error)}") from error
    if not os.access(target.parent, os.W_OK):
        raise UserError(f"the folder {target.parent} cannot be written, so {target.name} cannot be put there")
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def _told(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
