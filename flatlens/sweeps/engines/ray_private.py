"""All that is used of Ray's private modules, in one place.

Ray offers no public way to any of this, and a release may move what it calls private: seen to work with Ray 2.60. A
later Ray that has moved something fails here, with its name, and the tests of clusters fail with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


def resolved(address: str) -> tuple[str, str, int]:
    """The address of a cluster's head that is meant by ``auto``, ``HOST:PORT`` or Ray's own variables; its host, port.

    `ray.init` would find it, too, but it tries for two minutes to reach what does not answer, and ends the process.

    Raises:
        Exception: what Ray makes of an address that cannot be, or of a machine on which no cluster was started.
    """
    from ray._private import services

    found = services.canonicalize_bootstrap_address_or_die(address)
    host, port = services.extract_ip_port(found)
    return found, host, port


def silence_workers() -> None:
    """Let nothing be printed of what becomes of nodes and processes: it would be, whatever ``log_to_driver`` says."""
    from ray._private import worker

    worker._worker_logs_enabled = False


@contextlib.contextmanager
def on_this_machine_only() -> Iterator[None]:
    """Let a cluster that is started listen to this machine alone.

    Asked for 127.0.0.1, Ray takes the outer address, except where it keeps from clusters, as on macOS.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
