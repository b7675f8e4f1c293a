"""Boots a user-mode-linux kernel on this machine's own file tree and runs a command on real NFS in it.

Two processes: the one that was called waits, the supervisor (in a session of its own) does the work. They
share a pipe; when the first dies, by whatever signal, the supervisor reads its end, kills the kernel and
removes the temporary folder. So a test run that is cut short with SIGKILL leaves nothing behind.
"""

import argparse
import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
LAB_FAILED = 125
TIMED_OUT = 124
POLL_SECONDS = 0.05
KILL_SECONDS = 20
MODULE_FOLDER = Path("/usr/lib/uml/modules")
NEEDED = ("linux.uml", "rpc.nfsd", "rpc.statd", "rpcbind", "modprobe", "depmod", "gcc", "ip", "tc")
INSTALL = "apt-get install user-mode-linux nfs-kernel-server kmod gcc iproute2"
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NOT_PASSED_ON = {"LD_PRELOAD", "PWD", "OLDPWD", "SHLVL", "TMPDIR", "TMP", "TEMP"}

DESCRIPTION = """\
Runs COMMAND on real Linux NFS, on one machine and without a network: boots a user-mode-linux kernel on this
machine's own file tree, starts the kernel NFS server in it, mounts one export from several clients with
separate caches, runs the command in the current folder, and exits with its status."""

EPILOG = f"""\
The command finds in its environment:
  ANA_TEST_MOUNTS         pairs of clients of one export: NFSv4.2 first, then NFSv3
                          /run/nfs/v4a:/run/nfs/v4b,/run/nfs/v3a:/run/nfs/v3b
  ANA_TEST_EXPORT         the server's own view of it (900 MiB in memory)
  ANA_TEST_FULL_MOUNTS    a 4 MiB export, through NFSv4.2 and NFSv3: /run/nfs/full4,/run/nfs/full3
  ANA_TEST_LOSSY_MOUNT    an NFSv3 client behind a proxy that loses replies, and an ordinary one:
                          /run/nfs/lossy:/run/nfs/v3b
  ANA_TEST_LOSSY_CONTROL  the proxy's control socket (see lossy_proxy.py)
  TMPDIR                  a memory filesystem; /dev/shm is another
`tc qdisc ... dev lo ... netem ...` works in it. What it writes elsewhere reaches this machine's real files.
The guest has one processor. Standard output and error come back as one stream; standard input is empty.

Needs root and: {INSTALL}
Exit status: the command's; {TIMED_OUT} when the time is over; {LAB_FAILED} when the lab itself failed."""


class Options(NamedTuple):
    """What the command line says."""

    command: list[str]
    seconds: float
    memory: str
    export_size: str
    netem: str


class LabError(Exception):
    """The lab cannot do its work; the message says why and what to do."""


class InterruptedLabError(LabError):
    """The process that was called is gone."""


def parse(arguments: Sequence[str] | None) -> Options:
    """Parse a command line; everything from the first word that is no option is the command."""
    parser = argparse.ArgumentParser(
        prog="lab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=900, help="limit for boot and command (default: 900)")
    parser.add_argument("--memory", default="1500M", help="the guest's memory (default: 1500M)")
    parser.add_argument("--export-size", default="900m", help="size of the export (default: 900m)")
    parser.add_argument("--netem", default="", metavar="'delay 1ms'", help="netem options for the loopback device")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG ...]")
    found = parser.parse_args(arguments)
    command = found.command[1:] if found.command[:1] == ["--"] else found.command
    if not command:
        parser.error("a command is needed")
    return Options(command, found.seconds, found.memory, found.export_size, found.netem)


def missing() -> str | None:
    """Say what keeps the lab from running on this machine, with its cure; None if nothing does."""
    absent = [name for name in NEEDED if not shutil.which(name, path=search_path())]
    if absent:
        return f"{', '.join(absent)} not found; install with: {INSTALL}"
    if os.geteuid() != 0:
        return "root is needed (the guest works on this machine's own files): run it with sudo"
    return None


def search_path() -> str:
    """Return the program path, with the folders of the system's own programs that users often lack."""
    return f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"


def run_tool(*words: str | Path) -> str:
    """Return the output of a helper program; LabError with its messages if it fails."""
    environment = {**os.environ, "PATH": search_path()}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        message = f"{shlex.join(map(str, words))} failed: {done.stderr.strip()}"
        raise LabError(message)
    return done.stdout.strip()


def prepare_modules(lab: Path) -> None:
    """Give modprobe the kernel's modules with an index, without writing to the system's folder."""
    version = run_tool("linux.uml", "--version")
    folder = lab / "lib" / "modules" / version
    folder.mkdir(parents=True)
    for entry in (MODULE_FOLDER / version).iterdir():
        if entry.name in {"kernel", "modules.order", "modules.builtin", "modules.builtin.modinfo"}:
            (folder / entry.name).symlink_to(entry)
    run_tool("depmod", "-b", lab, version)


def shell_command(command: list[str]) -> str:
    """Return a bash script that runs a command with the caller's environment, in the caller's folder."""
    # The lab's own variables were exported by the guest's init before this script runs.
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if ENVIRONMENT_NAME.fullmatch(name) and name not in NOT_PASSED_ON and not name.startswith("ANA_TEST_")
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in passed_on.items()]
    lines += [
        "export TMPDIR=/run/tmp",
        f"export PATH={shlex.quote(search_path())}",
        f"cd {shlex.quote(str(Path.cwd()))} || exit {LAB_FAILED}",
        f"exec {shlex.join(command)}",
    ]
    return "\n".join(lines) + "\n"


def prepare(lab: Path, options: Options) -> None:
    """Put into the lab's folder everything that the guest needs to start."""
    if re.search(r"\s", str(lab)):
        message = f"the kernel takes no folder with a space in its name: set TMPDIR ({lab})"
        raise LabError(message)
    prepare_modules(lab)
    run_tool("gcc", "-O2", "-shared", "-fPIC", "-o", lab / "xsave.so", HERE / "lab_xsave.c", "-ldl")
    settings = {
        "EXPORT_SIZE": options.export_size,
        "NETEM": options.netem,
        "PYTHON": sys.executable,
        "HERE": str(HERE),
    }
    (lab / "settings").write_text("".join(f"{name}={shlex.quote(text)}\n" for name, text in settings.items()))
    (lab / "command").write_text(shell_command(options.command))
    init = lab / "init"
    init.write_text(f"#!/bin/sh\nexec /bin/bash {shlex.quote(str(HERE / 'lab_guest.sh'))} {lab}\n")
    init.chmod(0o700)
    (lab / "output").touch()


def end_group(kernel: subprocess.Popen[bytes]) -> None:
    """Kill the kernel and its helper processes, and wait until they have left the process table."""
    deadline = time.monotonic() + KILL_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(kernel.pid, signal.SIGKILL)
            kernel.poll()
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def running_kernel(lab: Path, memory: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a user-mode-linux kernel; at the end it and all its helper processes are gone."""
    words = ["linux.uml", f"mem={memory}", f"umid=lab{os.getpid()}", f"uml_dir={lab}/uml"]
    words += ["root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={lab}/init"]
    words += ["con=null", "con0=null", "quiet"]
    environment = {**os.environ, "LD_PRELOAD": f"{lab}/xsave.so", "PATH": search_path()}
    with (lab / "console").open("wb") as console:
        # Its own process group: the kernel's helpers have no other mark by which to end them.
        kernel = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment, process_group=0
        )
    try:
        yield kernel
    finally:
        end_group(kernel)


class OutputPump:
    """Copies what the guest adds to a file to the standard output."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def pump(self) -> None:
        """Copy everything that is new."""
        while block := self._file.read(1 << 16):
            try:
                sys.stdout.buffer.write(block)
                sys.stdout.buffer.flush()
            except BrokenPipeError as error:
                message = "nobody reads the output any more"
                raise InterruptedLabError(message) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def wait_for_status(lab: Path, kernel: subprocess.Popen[bytes], alive: int, seconds: float) -> int:
    """Stream the guest's output until it has written the command's exit status, and return that."""
    deadline = time.monotonic() + seconds
    status = lab / "status"
    with contextlib.closing(OutputPump(lab / "output")) as output:
        while not status.exists():
            output.pump()
            if select.select([alive], [], [], POLL_SECONDS)[0]:
                message = "interrupted"
                raise InterruptedLabError(message)
            if kernel.poll() is not None and not status.exists():
                message = f"the kernel ended before the command did{last_lines(lab)}"
                raise LabError(message)
            if time.monotonic() > deadline:
                message = f"the command did not end within {seconds:g} s{last_lines(lab)}"
                raise TimeoutError(message)
        output.pump()
    found = int(status.read_text())
    if found == LAB_FAILED and not (lab / "output").stat().st_size:
        raise LabError(last_lines(lab))
    return found


def last_lines(lab: Path, count: int = 20) -> str:
    """Return the end of the guest's boot log and console, for a message."""
    text = ""
    for name in ("boot.log", "console"):
        path = lab / name
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        text += "".join(f"\n  {name}: {line}" for line in lines[-count:])
    return text


def supervise(options: Options, alive: int) -> int:
    """Run the whole lab; `alive` becomes readable when the caller is gone. Returns the exit status."""
    lab = Path(tempfile.mkdtemp(prefix="nfs-lab-"))
    try:
        prepare(lab, options)
        with running_kernel(lab, options.memory) as kernel:
            return wait_for_status(lab, kernel, alive, options.seconds)
    except (LabError, TimeoutError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return TIMED_OUT if isinstance(error, TimeoutError) else LAB_FAILED
    finally:
        shutil.rmtree(lab, ignore_errors=True)


def start_supervisor(options: Options) -> tuple[int, int]:
    """Fork the supervisor; returns its process id and the end of the pipe that keeps it running."""
    alive, keep_running = os.pipe()
    child = os.fork()
    if child:
        os.close(alive)
        return child, keep_running
    os.close(keep_running)
    os.setsid()
    status = LAB_FAILED
    try:
        status = supervise(options, alive)
        sys.stdout.flush()
    finally:
        os._exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the lab with a command line's arguments and return the exit status."""
    options = parse(arguments)
    if problem := missing():
        print(f"lab: {problem}", file=sys.stderr)
        return LAB_FAILED
    child, keep_running = start_supervisor(options)
    caught: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if not caught:
            os.close(keep_running)
        caught.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    _, status = os.waitpid(child, 0)
    return 128 + caught[0] if caught else os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
