"""The memory of a backend, as the kernel counts it."""

from __future__ import annotations

import re

MB = 2**20


def peak(conn) -> int:
    """The most memory that the backend has ever had of its own, in bytes."""
    with open(f"/proc/{conn.info.backend_pid}/status") as status:
        sizes = dict(re.findall(r"(VmHWM|RssShmem|RssFile):\s+(\d+) kB", status.read()))
    return 1024 * (int(sizes["VmHWM"]) - int(sizes["RssShmem"]) - int(sizes["RssFile"]))
