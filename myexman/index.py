"""Index: all runs under a root as a table."""

from pathlib import Path

import yaml

from .logger import read_rows


class Index:
    """Index(root).info() -> one dict per run, oldest first: `run` (number), `path`, every argument, `commit`, and the columns
    of the last line of logs.csv (an argument keeps its name if both have it)."""

    def __init__(self, root):
        self.root = Path(root).expanduser()

    def info(self):
        links = sorted((self.root / "index").glob("[0-9]*")) if self.root.exists() else []
        rows = [self.read(link) for link in links]
        return [row for row in rows if row]

    @staticmethod
    def read(link):
        try:
            params = yaml.safe_load((link / "params.yaml").read_text())
        except OSError:  # claimed a moment ago, or removed by hand
            return None
        meta = params.pop("meta", {})
        logs = read_rows(link / "logs.csv") if (link / "logs.csv").exists() else []
        last = logs[-1] if logs else {}
        return {"run": link.name, "path": str(link.resolve()), "script": meta.get("script"), "commit": meta.get("commit"), **last, **params}


def format_table(rows, columns):
    """Plain-text table of dicts; a missing value is blank."""

    def cell(value):
        if value is None:
            return ""
        if isinstance(value, (list, tuple)):
            return " ".join(map(str, value))
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    table = [list(columns), *([cell(row.get(c)) for c in columns] for row in rows)]
    width = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, width)).rstrip() for line in table)
