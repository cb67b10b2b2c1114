import os
import socket
import time
from pathlib import Path

import pytest

from pagemill.cli.serve import check_address
from pagemill.config import HttpConfig, Settings
from pagemill.errors import ConfigError

from .test_app import in_a_process


def test_a_port_in_use_is_one_line_and_code_2_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        started = time.monotonic()
        done = in_a_process("serve", "--port", port, PAGEMILL_HOME=str(tmp_path))
    assert done.returncode == 2 and time.monotonic() - started < 2
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {port}: {os.strerror(98)}; "
        "choose another with --port\n"
    )


def test_a_public_address_needs_a_key() -> None:
    with pytest.raises(ConfigError, match="--api-key"):
        check_address(Settings(http=HttpConfig(host="0.0.0.0", port=0)))
    check_address(Settings(http=HttpConfig(host="0.0.0.0", port=0, api_key=("k",))))
