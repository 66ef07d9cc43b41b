"""Connecting to a Ray cluster, or starting one: within seconds, and with nothing printed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flatlens.errors import SpecError, one_line
from flatlens.sweeps.engines import ray_private
from flatlens.sweeps.engines.local import SAFE

REACH = 5.0
"""Seconds in which a cluster must answer; Ray itself would try for two minutes, and end the process."""
STORE = 80 << 20
"""Bytes of shared memory for a cluster of this machine: about Ray's least, for nothing is kept there."""

LONGEST = 48
"""Characters of the folder that a temporary one is made in: a socket's name in there may have 107 in all."""


def join(ray: Any, address: str) -> None:
    """Connect to the cluster at ``address``; a process that is connected already must be connected to that one.

    Raises:
        SpecError: it cannot be reached.
    """
    hint = "on a node of it, give the HOST:PORT that `ray start --head` printed, or auto"
    if address.startswith("ray://"):
        raise SpecError(f"--address {address}: is Ray Client's; {hint}")
    try:
        found, host, port = ray_private.resolved(address)
        if not ray.is_initialized():
            socket.create_connection((host, port), timeout=REACH).close()
            hint = f"{hint}; where it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
            with _quietly():
                ray.init(address=found, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise SpecError(
            f"cannot reach the Ray cluster at '{address}': {one_line(error).rstrip('.')}; {hint}"
        ) from error
    if found != ray.get_runtime_context().gcs_address:
        raise SpecError(f"--address {address}: this process is connected to another Ray cluster")


def start(ray: Any, cpus: int) -> Path:
    """Start a cluster of this machine, for this process alone; returns its temporary folder."""
    base = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=base if len(base) <= LONGEST else "/tmp"))
    try:
        with _quietly(), _only_here():
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=STORE,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
    except BaseException:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """While Ray starts: no usage reports, no output, no other signal handlers, no imports from the working folder."""
    ray_private.silence_workers()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _environment(RAY_USAGE_STATS_ENABLED="0"), _nowhere():
            yield
    finally:
        with contextlib.suppress(ValueError, TypeError):  # not in the main thread, or set by another language
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _nowhere() -> Iterator[None]:
    """Let no process of Ray import from the working folder, where a stranger's sweep may have brought a ``torch.py``.

    Ray puts the folder in which it is initialised first on the path of every worker. So that is the root folder, where
    only its owner can put modules. Processes that a node starts later obey `SAFE`.
    """
    with contextlib.chdir(Path.cwd().anchor), _environment(**{SAFE: "1"}):
        yield


@contextlib.contextmanager
def _only_here() -> Iterator[None]:
    """Let a cluster, and the processes that it starts, listen to this machine alone."""
    with ray_private.on_this_machine_only(), _environment(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0"):
        yield


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
