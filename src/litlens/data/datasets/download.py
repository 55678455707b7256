"""Fetch files and unpack archives: completely or not at all, and never outside their folder."""

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
from pathlib import Path
from urllib.request import Request, urlopen

from litlens.data.progress import progress
from litlens.errors import UserError

_CHUNK = 1 << 20
# What zipfile, tarfile and their decompressors raise for a damaged, encrypted or unknown archive.
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    EOFError, NotImplementedError, OSError, RuntimeError, ValueError,
)  # fmt: skip


class NotFetched(UserError):  # noqa: N818
    """No mirror served the file; `reason` says why, without places."""

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
    """Fetch a file to `target` from the first mirror that has it, unless it exists with the right checksum.

    The file is written under another name and renamed at the end, so that `target` is complete whenever it exists.

    Args:
        urls: One address, or mirrors in the order in which to try them.
        target: Where the file is written; missing folders are created.
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
        with _unfinished(target) as unfinished:
            try:
                _download(url, unfinished, name=target.name, timeout=timeout)
            # Python's OSError covers URLError, HTTPError, time-outs and refused connections; ValueError a bad
            # address.
            except (OSError, HTTPException, ValueError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(f"no space is left to fetch {target.name} to {target.parent}") from error
                failures[url] = _reason(error)
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
    """Unpack a zip or tar archive (of any compression) to `folder`, which must not exist; completely or not at all.

    Nothing is written outside `folder`: `zipfile` drops the parts of a name that lead out of it, and `tarfile`'s filter
    refuses such names and links.

    Raises:
        UserError: The archive is damaged, unsafe or not an archive, or there is no room for its content.
    """
    with _unfinished(folder) as unfinished:
        try:
            unfinished.mkdir()
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    for entry in progress(zipped.infolist(), description=f"Unpacking {archive.name}"):
                        zipped.extract(entry, unfinished)
            else:
                with tarfile.open(archive) as tar:
                    tar.extractall(unfinished, filter="data")
                    _check_end(tar)
            unfinished.replace(folder)
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"no space is left to unpack {archive} to {folder}") from error
            raise UserError(f"{archive} cannot be unpacked ({_reason(error)}); delete it and fetch it again") from error
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


def _check_end(tar: tarfile.TarFile) -> None:
    """Raise where tarfile mistook damage for the end of an archive, whose last files are followed by zeros alone."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    # Reading to the end also checks the checksum of a compressed archive.
    for rest in iter(lambda: tar.fileobj.read(_CHUNK), b""):
        if rest.strip(b"\0"):
            raise tarfile.ReadError("it is damaged")


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A path in the target's folder, to be renamed at the end; what is left there is removed."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {target.parent}: {_reason(error)}") from error
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


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
