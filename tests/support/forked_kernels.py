"""Kernels that start with torch and the package imported: each is forked from one process that has done so once."""

import multiprocessing
import os
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path
from tempfile import gettempdir
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from ipykernel.kernelapp import launch_new_instance
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import LocalProvisioner
from traitlets import default

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["ipykernel.kernelapp", "ipykernel.ipkernel", "qwen3_scratch.plots"])


def prepare(environment: dict[str, str]) -> None:
    """Starts the one process; what libraries read from the environment as they are imported, they read from this."""
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # a kernel says so too, after the import
    with patch.dict(os.environ, environment | inline, clear=True):
        forkserver.ensure_running()


def kernel(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What the forked process does: it becomes `python -m ipykernel_launcher`, in a session of its own."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [path for path in sys.path if Path(path) != Path(__file__).parent]  # a reader has no test's helpers
    launch_new_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])  # it ends with its parent


class Forked:
    """A forked process, with as much of Popen as a provisioner asks for."""

    stdin = stdout = stderr = None

    def __init__(self, *args: Any):
        self.process = FORKING.Process(target=kernel, args=args, daemon=True)
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.poll()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkedProvisioner(LocalProvisioner):
    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        *_, launcher = (place for place, word in enumerate(cmd) if word == "ipykernel_launcher")
        self.process = Forked(cmd[launcher + 1 :], str(options["cwd"]), options["env"])
        self.pid = self.process.pid  # and no pgid: it leaves this process's group only once it runs
        return self.connection_info


class ForkedKernelManager(AsyncKernelManager):
    """Its sockets are files: of ports that were found free, another process may take one before the kernel does."""

    @default("transport")
    def by_files(self) -> str:
        return "ipc"

    @default("ip")
    def files(self) -> str:
        return f"{gettempdir()}/kernel-{uuid4().hex}"

    async def _async_pre_start_kernel(self, **options: Any) -> tuple[list[str], dict[str, Any]]:
        self.provisioner = ForkedProvisioner(kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)
