"""Files that are whole at any time."""

import errno
import os
import secrets
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path


def runs_root():
    """The folder of all runs, unless --root says otherwise: $DWP_PATH, else ./logs."""
    return Path(os.environ.get("DWP_PATH", "./logs"))


@contextmanager
def replacing(*files):
    """Give paths to write to, which take the place of the files, all of them, when the block has ended; they are on the disk then.

        with replacing("a.csv", "b.csv") as (a, b):
            …

    A link stays one: what it leads to is replaced.  Raises OSError in one line, as on a full disk; the former files are then as they
    were."""
    files = [Path(os.path.realpath(file)) for file in files]
    parts = [file.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.{file.name}") for file in files]
    try:
        yield parts
        for part in parts:
            with part.open("rb") as f:
                os.fsync(f.fileno())
        for part, file in zip(parts, files):
            part.replace(file)
        for folder in {file.parent for file in files}:
            sync_folder(folder)
    except BaseException as e:
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        if not isinstance(e, OSError):
            raise
        why = e.strerror or e
        what = f"{files[0]} ({why}); the former one is" if len(files) == 1 else f"to {files[0].parent} ({why}); what was there is"
        raise OSError(f"cannot write {what} kept") from e


def acquire(lock, timeout=-1):
    """Take a filelock.FileLock, and return what gives it back at the end of a `with` block.

    Raises filelock.Timeout, and OSError with advice where the file system has no locks."""
    try:
        return lock.acquire(timeout=timeout)
    except (OSError, NotImplementedError) as e:
        if isinstance(e, TimeoutError) or (isinstance(e, OSError) and e.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)):
            raise
        place = Path(lock.lock_file).parent
        where = "use a folder on another file system ($DWP_PATH and --root say where runs go)"
        raise OSError(f"the file system of {place} has no locks ({e}): {where}") from e


def sync_folder(folder):
    """Put a folder's list of files on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def clear_parts(folder):
    """Remove what a process left that was killed while it wrote."""
    for part in Path(folder).glob(".[0-9]*.*"):
        part.unlink(missing_ok=True)


def check_archive(file):
    """Raise ValueError if a member of a zip file, as torch.save and np.savez write, does not have its checksum. (torch does not look.)"""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if bad := archive.testzip():
                raise ValueError(f"{file} is damaged: the checksum of {bad} does not match")
