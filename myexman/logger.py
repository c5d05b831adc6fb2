"""One CSV row per evaluation, on the disk at once, and the same row on the console."""

import csv
import io
import math
import os
import time
from pathlib import Path

from tqdm import tqdm

from .files import replacing
from .parser import read_params


class Logger:
    """logger.row(epoch=3, loss=0.1) appends to <run_dir>/logs.csv and prints an aligned line (the header every 20 lines).

    The columns are those of the first row; a row with others is an error. resume_at: rows of an existing file whose `epoch` is
    beyond it are dropped, and the file is continued, without columns that are newer than it, and with nan where a row lacks one.
    echo: columns shown on the console; None shows all.  tensorboard: whether the numbers go to a file for it, too. logger.rows holds all
    rows; logger.began is when the run would have begun without the pause before it was resumed, in seconds since the epoch, if its rows
    have `seconds`."""

    def __init__(self, run_dir, echo=None, resume_at=0, tensorboard=False):
        self.file = Path(run_dir) / "logs.csv"
        self.board = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            self.board = SummaryWriter(run_dir, purge_step=resume_at + 1)
        self.echo, self.columns, self.rows = echo, None, []
        former = read_log(self.file) if resume_at else []
        kept = [row for row in former if row["epoch"] <= resume_at]
        self.continued = bool(kept)
        if kept:
            self.columns = list(kept[0])
        if len(kept) < len(former):
            with replacing(self.file) as (part,):
                append_rows(kept, part, list(former[0]))
        for row in kept:
            self.print(row)
            self.rows.append(row)

        self.began = time.time() - (kept[-1].get("seconds", 0) if kept else 0)

    @property
    def last(self):
        """The epoch of the last row; 0 before the first."""
        return self.rows[-1]["epoch"] if self.rows else 0

    def row(self, **values):
        if self.columns is None:
            self.columns = list(values)
            self.file.unlink(missing_ok=True)
        if self.continued:
            values = {name: values.get(name, math.nan) for name in self.columns}
        if set(values) != set(self.columns):
            raise ValueError(f"row has columns {sorted(values)}, {self.file} has {sorted(self.columns)}")
        append_rows([values], self.file, self.columns)
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, values["epoch"])
            self.board.flush()
        self.print(values)
        self.rows.append(values)

    def print(self, values):
        names = [c for c in self.echo or self.columns if c in values]
        width = [max(len(c), 8) for c in names]
        if len(self.rows) % 20 == 0:
            tqdm.write("  ".join(c.rjust(w) for c, w in zip(names, width)))
        cells = [f"{values[c]:.4g}" if isinstance(values[c], float) else str(values[c]) for c in names]
        tqdm.write("  ".join(c.rjust(w) for c, w in zip(cells, width)))


def append_rows(rows, file, columns):
    """Append rows, dicts by column, to a CSV file, all or none; they are on the disk when this returns. A new file gets a header first.
    A last line that was cut off by a kill is removed.

    Raises OSError, as on a full disk, and ValueError if the file has other columns; it is then as it was."""
    file, text = Path(file), io.StringIO()
    writer = csv.DictWriter(text, columns)
    old = file.read_bytes() if file.exists() else b""
    whole = old.rfind(b"\n") + 1
    if not whole:
        writer.writeheader()
    elif (header := next(csv.reader([old.partition(b"\n")[0].decode("utf-8-sig")]))) != list(columns):
        raise ValueError(f"{file} has the columns {', '.join(header)}, not {', '.join(columns)}: move it away")
    writer.writerows(rows)
    rest = memoryview(text.getvalue().encode())
    with file.open("r+b" if old else "wb", buffering=0) as f:
        try:
            f.truncate(whole)
            f.seek(whole)
            while rest:
                rest = rest[f.write(rest) :]
            os.fsync(f.fileno())
        except OSError as e:
            f.truncate(whole)
            raise OSError(f"cannot write {file} ({e.strerror}); it is unchanged") from e


def read_log(file):
    """The rows of a logs.csv; none if there is none yet.  Raises OSError, and ValueError if it is damaged."""
    rows = read_rows(file) if file.exists() else []
    if not all(isinstance(row.get("epoch"), int) and all(isinstance(v, (int, float)) for v in row.values()) for row in rows):
        raise ValueError(f"{file} is not the log of a run, which has rows of numbers and whole numbers as `epoch`")
    return rows


def progress(run_dir):
    """How far a run's training got at its last evaluation: (epochs done, epochs asked for), each None if it is not known, as of a folder
    that no run made, whose params.yaml has no `meta`."""
    run_dir = Path(run_dir)
    try:
        params = read_params(run_dir / "params.yaml")
    except (OSError, ValueError):
        return None, None
    if "meta" not in params:
        return None, None
    rows = read_log(run_dir / "logs.csv")
    epochs = params.get("epochs") or params.get("num_epochs")
    return rows[-1]["epoch"] if rows else 0, epochs if isinstance(epochs, int) else None


def read_rows(file):
    """The rows of a CSV file as dicts, numbers as numbers, but for the column `commit`, since a hash may look like one; a last line without
    an end, which a kill cut off, is left out, as append_rows() leaves it out.

    Raises OSError, and ValueError in one line if it is no such file."""

    def value(text):
        if "_" in text:  # 12_0 is no number here, though Python reads one
            return text
        for cast in (int, float):
            try:
                return cast(text)
            except ValueError:
                pass
        return text

    try:
        text = Path(file).read_bytes().decode("utf-8-sig")
        whole = text[: text.rfind("\n") + 1]
        rows = list(csv.DictReader(io.StringIO(whole, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"{file} is not a CSV file in UTF-8") from e
    if any(None in row or None in row.values() for row in rows):
        raise ValueError(f"{file} has rows that are longer or shorter than its header")
    return [{k: v if k == "commit" else value(v) for k, v in row.items()} for row in rows]
