"""Python programs in processes of their own that need not import TensorFlow again.

An import of TensorFlow takes longer than most of what the tests want of a tool. So a server
process imports what the tools import, and forks for each program it is asked for. It runs no
operation, so TensorFlow, OpenMP and the rest have made no thread yet that a fork would lose, and
TensorFlow has not looked for devices.

What a program inherits of the server, and would read anew in a process of its own, is the state of
its imports: variables of the environment that Python and libraries read while they are loaded
count as they were when the server was started. Tests of such things start a real process.
"""

import contextlib
import gc
import importlib
import json
import os
import pathlib
import pkgutil
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
from concurrent import futures

NUMBER = struct.Struct("i")
PACKAGES = ("la_tf", "detection")


class ProgramServer:
    """A server as long as a `with` block, and its client."""

    def __enter__(self):
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(requests.fileno())],
            pass_fds=[requests.fileno()],
            stdin=subprocess.DEVNULL,
            # Pipes, as those that programs get in their place: streams know what they write to.
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        requests.close()
        return self

    def __exit__(self, *exception):
        self._requests.close()
        self._process.communicate()

    def start(self, *command, cwd: pathlib.Path) -> "Program":
        """Starts a program: its file and its arguments."""
        try:
            return Program(self._requests, list(map(str, command)), cwd)
        except OSError as error:
            raise RuntimeError(self._process.communicate()[1]) from error


class Program:
    """A running program: what the tests need of subprocess.Popen."""

    def __init__(self, requests: socket.socket, command: list[str], cwd: pathlib.Path):
        self.args = command
        self.returncode: int | None = None
        outputs, errors, status = (os.pipe() for _ in range(3))
        theirs = [outputs[1], errors[1], status[1]]
        request = {"argv": command, "cwd": str(cwd), "environment": dict(os.environ)}
        socket.send_fds(requests, [json.dumps(request).encode()], theirs)
        for file in theirs:
            os.close(file)
        self.stdout, self.stderr = os.fdopen(outputs[0]), os.fdopen(errors[0])
        self._status = os.fdopen(status[0], "rb", buffering=0)
        self.pid = self._read_number()

    def _read_number(self) -> int:
        number = self._status.read(NUMBER.size)
        if not number:
            raise ConnectionError("the server of programs has ended")
        return NUMBER.unpack(number)[0]

    def poll(self) -> int | None:
        return self.returncode if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _has_ended(self, timeout: float | None) -> bool:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(self._read_number())
            self._status.close()
        return self.returncode is not None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end and returns the rest of both outputs; a late program is killed."""
        with futures.ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(file.read) for file in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except BaseException:
                self.kill()
                raise
        for file in (self.stdout, self.stderr):
            file.close()
        return texts[0].result(), texts[1].result()

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def import_everything() -> None:
    """Imports all modules that programs may want."""
    for name in PACKAGES:
        path = importlib.import_module(name).__path__
        for module in pkgutil.walk_packages(path, f"{name}."):
            importlib.import_module(module.name)
    # A program that ends shall not visit, and so copy, each of these objects.
    gc.freeze()


def reap() -> None:
    """Collects children that have ended, and with them the processor time of their programs."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def wait_for_program(requests: socket.socket) -> list[str]:
    """Serves until the client is gone; returns a command line in the process that shall run it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the client, whose end is noticed
    while True:
        message, files, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        reap()
        if not message:
            os._exit(0)
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    requests.close()
    *outputs, status = files
    pid = os.fork()
    if pid:  # Only waits, and tells how the program ended.
        for file in outputs:
            os.close(file)
        os.write(status, NUMBER.pack(os.waitpid(pid, 0)[1]))
        os._exit(0)
    for number, file in enumerate(outputs, start=1):
        os.dup2(file, number)
        os.close(file)
    request = json.loads(message)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    # Also where the tests run in the background of a shell, which ignores Ctrl-C there.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.write(status, NUMBER.pack(os.getpid()))
    os.close(status)
    return request["argv"]


if __name__ == "__main__":
    from la_tf import quiet

    quiet.quiet()
    import_everything()
    sys.argv = wait_for_program(socket.socket(fileno=int(sys.argv[1])))
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
