"""A process that has imported all of jaxlm, and forks the commands that `program` asks for.

A command so forked is the real program from its first line on, without the seconds that the imports take: no JAX
backend has been started yet, and the interpreter ends as it always does. `python zygote.py SOCKET`, a listening socket
that it inherits; it ends when its standard input does.
"""

import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import warnings

COMMANDS = {"train.py": "train", "sample.py": "sample", "jaxlm": "main"}
"""The function of `jaxlm.cli.programs` that each program calls; `python -c CODE` runs the code."""

IMPORTED_LATE = (
    "charset_normalizer",
    "jaxlm.cli.commands",
    "jaxlm.cli.terminal",
    "jaxlm.nn.compilation",
    "jaxlm.runs.evaluation",
    "jaxlm.runs.listing",
    "jaxlm.runs.trainer",
    "pwd",
    "rich.cells",
    "scipy.linalg",
)
"""What commands import once they know what to do."""


def serve(listener):
    """Forks two processes for each request. Returns the request in the second, which becomes the command."""
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            sys.exit()
        connection, _ = listener.accept()
        if fork() == 0:
            break
        connection.close()
    # The first keeps the connection, and tells how the second ended.
    listener.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection, connection.makefile("rw") as stream:
        request = json.loads(stream.readline())
        pid = fork()
        if pid:
            print(pid, file=stream, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=stream, flush=True)
            os._exit(0)
    return request


def fork():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The threads of other libraries' thread pools sleep.
        return os.fork()


def become(request):
    """Makes this process what a shell would have started."""
    os.setsid()
    for number, (path, flags) in enumerate(
        [
            (os.devnull, os.O_RDONLY),
            (request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            (request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ]
    ):
        file = os.open(path, flags, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]
    for name in request["ignored"]:
        signal.signal(name, signal.SIG_IGN)
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, resource.getrlimit(getattr(resource, name))[1]))
    if request["fault"]:
        arm(**request["fault"])


def arm(mode, at, number, root, log):
    """Lets the `at`-th file operation below `root` fail; see shim.c."""
    library = ctypes.CDLL(None)
    if hasattr(library, "shim_arm"):
        library.shim_arm(mode.encode(), at, number, os.fsencode(root), os.fsencode(log))
    else:
        sys.addaudithook(Audit(mode, at, number, root, log))


class Audit:
    """What shim.c does, without a C compiler: knows only the operations of Python's own code.

    Writes are not seen, so torn ones are not either, and nothing can be recorded but the names.
    """

    KINDS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")

    def __init__(self, mode, at, number, root, log):
        self.mode, self.at, self.number, self.root = mode, at, number, os.path.realpath(root)
        self.log = open(log, "a", buffering=1)  # noqa: SIM115
        self.count = 0

    def __call__(self, event, arguments):
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in self.KINDS:
            return
        paths = [os.fsdecode(path) for path in arguments[:2] if isinstance(path, str | bytes | os.PathLike)]
        if not paths or not f"{os.path.realpath(paths[0])}{os.sep}".startswith(self.root + os.sep):
            return
        self.count += 1
        kind = event.removeprefix("os.").replace("remove", "unlink")
        reached = self.count == self.at or (self.mode == "fail from" and self.count > self.at)
        can = self.number != errno.ENOSPC or kind not in ("unlink", "rmdir")
        if reached and self.mode in ("kill", "torn"):
            os.kill(os.getpid(), signal.SIGKILL)
        if reached and self.mode.startswith("fail") and can:
            raise OSError(self.number, os.strerror(self.number), paths[0])
        print(self.count, kind, 0, *paths, sep="\t", file=self.log)


def main():
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from jaxlm.cli import programs

    for name in IMPORTED_LATE:
        importlib.import_module(name)
    gc.freeze()
    become(serve(listener))
    if sys.argv[:2] == ["python", "-c"]:
        exec(sys.argv[2], {"__name__": "__main__"})
    else:
        sys.exit(getattr(programs, COMMANDS[sys.argv[0]])())


if __name__ == "__main__":
    main()
