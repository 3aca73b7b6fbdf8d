from __future__ import annotations

import socket

import pytest


def test_tests_cannot_reach_the_network() -> None:
    with socket.socket() as connection, pytest.raises(RuntimeError, match="mark it `network`"):
        connection.connect(("192.0.2.1", 80))  # an address reserved for documentation
