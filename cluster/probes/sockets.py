"""How long the paths of Unix sockets get under a temporary folder."""

import os
from pathlib import Path

PATH_MOST = 107  # bytes of sockaddr_un.sun_path without its final zero
RAY_ADDS = len("/session_2026-11-20_19-52-00_123456_1234567/sockets/plasma_store")  # 64 where pids have 7 digits


def socket_path_bytes(temp_dir: Path) -> int:
    """Bytes of the longest socket path that Ray makes under `temp_dir`; more than PATH_MOST cannot be bound."""
    return len(os.fsencode(temp_dir)) + RAY_ADDS
