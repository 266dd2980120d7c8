"""`whisper-recipe` in processes forked from one that has imported everything: importing takes most of a short command.

As a program, this is `whisper-recipe`: it has the server run the command, with its own arguments, environment, folder
and files, and ends as the command does. Tests that kill a command run the real one.
"""

import atexit
import functools
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ADDRESS = "WHISPER_RECIPE_PRELOADED"  # in the environment: the server's socket
STAGES = Path(__file__).parents[1] / "tools/stages.sh"


def request(argv: list[str]) -> int:
    """Have the server run a command; return its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[ADDRESS])
        what = json.dumps({"argv": argv, "cwd": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(what).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(what)
        return int(connection.makefile().read() or "1")


def serve(address: str) -> None:
    """Run commands, each in a process of its own, until the tests end."""
    import deepspeed  # noqa: F401
    import jiwer  # noqa: F401

    import whisper_recipe.decoding.decode
    import whisper_recipe.export.export
    import whisper_recipe.training.train  # noqa: F401

    gc.freeze()
    tests = os.getppid()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.not_yet")
        listener.listen(16)
        listener.settimeout(1)
        Path(f"{address}.not_yet").rename(address)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries its children
        while os.getppid() == tests:  # also ends if they are killed
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if os.fork():
                connection.close()
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            size, files, *_ = socket.recv_fds(connection, 8, 3)
            what = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
            command = os.fork()
            if not command:
                run(what, files)  # and end
            _, status = os.waitpid(command, 0)
            connection.sendall(str(os.waitstatus_to_exitcode(status) % 256).encode())
            os._exit(0)


def run(what: dict, files: list[int]) -> None:
    """Become the command."""
    from whisper_recipe.cli import _leave, main

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(what["cwd"])
    os.environ.clear()
    os.environ.update(what["environment"])
    sys.argv = ["whisper-recipe", *what["argv"]]
    _leave(main())  # Python's own end would visit, and so copy, every object of the server


@functools.cache
def environment() -> dict[str, str]:
    """Start the server; return what a recipe's environment needs to use it: VENV, this one but for whisper-recipe."""
    folder = Path(tempfile.mkdtemp(prefix="preloaded"))
    address = str(folder / "socket")
    # The memory settings of recipes, which can't reach a process that already runs.
    tunables = re.search(r"GLIBC_TUNABLES:-(.+)}", STAGES.read_text())[1]
    settings = {**os.environ, "GLIBC_TUNABLES": tunables, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, __file__, "--serve", address], env=settings, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,  # not seekable, like those of the commands
    )  # fmt: skip
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.kill)
    while not Path(address).exists():
        assert server.poll() is None, "the server of tests/preloaded.py has ended"
        time.sleep(0.05)
    (folder / "bin").mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name != "bin":
            (folder / entry.name).symlink_to(entry)
    for entry in (Path(sys.prefix) / "bin").iterdir():
        if entry.name != "whisper-recipe":
            (folder / "bin" / entry.name).symlink_to(entry)
    program = folder / "bin/whisper-recipe"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    return {"VENV": str(folder), ADDRESS: address}


def call(*argv: str, launcher: Sequence[str] = (sys.executable,), **options) -> subprocess.CompletedProcess:
    """Run a command of whisper-recipe, in several processes if the launcher starts them; it must succeed."""
    settings = {**os.environ, **environment()}
    done = subprocess.run([*launcher, __file__, *argv], env=settings, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2])
    else:
        sys.exit(request(sys.argv[1:]))
