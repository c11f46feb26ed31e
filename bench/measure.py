"""Interleaved rounds: in every round each contender gets one slice, in an order that rotates; figures of one round are
compared."""

import json
import os
import platform
import statistics
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path

import psycopg


class Progress:
    """Tells which step runs, how long it has been, and how long it may still be: the plan, corrected by what was so
    far."""

    def __init__(self, planned):
        self.planned, self.done, self.begin = planned, 0, time.monotonic()

    def step(self, text):
        spent, behind = time.monotonic() - self.begin, sum(self.planned[: self.done])
        left = sum(self.planned[self.done :]) * (spent / behind if behind > 20 else 1)
        self.done += 1
        print(f"[{self.done}/{len(self.planned)}, {spent:.0f} s, about {left:.0f} s left] {text}", flush=True)


def rounds(names, count, slice_of):
    """{name: [figure of each round]}; `slice_of(name)` measures one slice."""
    names = list(names)
    figures = {name: [] for name in names}
    for number in range(count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figures[name].append(slice_of(name))
    return figures


def vacuum(server, database):
    """Before each slice, for every contender alike: a hot row leaves dead versions behind."""
    with psycopg.connect(server.dsn(database), autocommit=True) as conn:
        conn.execute("VACUUM inventory")


def checkpoint(server):
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("CHECKPOINT")


def summary(figures):
    """Median, least and greatest."""
    return statistics.median(figures), min(figures), max(figures)


def ratio(one, other):
    """One contender against another, round by round."""
    return summary([a / b for a, b in zip(one, other)])


def fsync_ms(folder, count=200):
    """How long a page takes to the disk: the median of write and fdatasync."""
    path, took = Path(folder) / "fsync", []
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            begin = time.monotonic()
            file.seek(0)
            file.write(b"x" * 8192)
            os.fdatasync(file.fileno())
            took.append((time.monotonic() - begin) * 1000)
    path.unlink()
    return round(statistics.median(took), 3)


def line_of(path, word):
    try:
        return next(
            line.split(":", 1)[1].strip() for line in Path(path).read_text().splitlines() if line.startswith(word)
        )
    except (OSError, StopIteration):
        return "unknown"


def memory_gb():
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def git_commit():
    root = Path(__file__).parent.parent
    try:
        return subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=root, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def circumstances(server, database, scratch):
    """What the figures were measured on."""
    with psycopg.connect(server.dsn(database)) as conn:
        version, extension, jit = conn.execute(
            "SELECT version(), (SELECT extversion FROM pg_extension WHERE extname = 'inventory_ext'), "
            "current_setting('jit')"
        ).fetchone()
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": git_commit(),
        "cpu": line_of("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gb": memory_gb(),
        "kernel": platform.release(),
        "fsync_ms": fsync_ms(scratch),
        "postgresql": version,
        "extension": extension,
        "settings": server.settings | {"jit": jit},
    }


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(value), indent=1) + "\n")


def rounded(value):
    """Four digits are more than the noise leaves."""
    match value:
        case dict():
            return {key: rounded(item) for key, item in value.items()}
        case list():
            return [rounded(item) for item in value]
        case float():
            return float(f"{value:.4g}") if abs(value) < 1000 else round(value)
    return value
