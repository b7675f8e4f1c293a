"""Runs a command on a real Slurm of four nodes, all of them on this machine, started for it and stopped after it.

    tests/slurm/lab sbatch --wait job.sh
    tests/slurm/lab .venv/bin/python -m pytest tests/test_engines.py -m ""

Needs Debian's packages slurm-wlm and munge; no root, no systemd, no configuration: everything is in a
temporary folder. The exit status is the command's; where Slurm does not start, 75 and the daemons' logs.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NODES = 4
START_SECONDS = 120
STOP_SECONDS = 10
POLL_SECONDS = 0.05
FAILED = 75
DAEMONS = ("munged", "slurmctld", "slurmd")

CONFIGURATION = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdParameters=config_overrides
InactiveLimit=0
KillWait=2
"""
NODE = "NodeName=n{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 State=UNKNOWN\n"
PARTITION = "PartitionName=lab Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO\n"


def find(program: str) -> str:
    """Return a daemon's path: Debian has them where a user's PATH does not go."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which(program, path=path)
    if found is None:
        print(f"no {program}: apt-get install slurm-wlm munge", file=sys.stderr)
        sys.exit(FAILED)
    return found


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def configure(folder: Path) -> None:
    """Write the key of munge and slurm.conf."""
    user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
    host = socket.gethostname().split(".")[0]
    ports = free_ports(NODES + 1)
    text = CONFIGURATION.format(folder=folder, user=user, host=host, ports=ports)
    text += "".join(NODE.format(number=number, host=host, port=ports[number]) for number in range(1, NODES + 1))
    (folder / "slurm.conf").write_text(text + PARTITION, encoding="utf-8")
    (folder / "state").mkdir()
    for number in range(1, NODES + 1):
        (folder / f"spool-n{number}").mkdir()
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))


def start(folder: Path) -> None:
    """Start all daemons, and wait until the nodes take jobs."""
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    run(find("munged"), "--force", f"--socket={folder}/munge.socket", *munge)
    run(find("slurmctld"), "-i")
    for number in range(1, NODES + 1):
        run(find("slurmd"), "-N", f"n{number}")
    deadline = time.monotonic() + START_SECONDS
    while idle_nodes() < NODES:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{idle_nodes()} of {NODES} nodes are idle after {START_SECONDS} s")
        time.sleep(POLL_SECONDS)


def run(*command: str) -> None:
    """Run a daemon's starter, which returns once the daemon is there."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def idle_nodes() -> int:
    """Ask the controller how many nodes wait for work."""
    done = subprocess.run(["sinfo", "-h", "-N", "-o", "%t"], check=False, capture_output=True, text=True)
    return done.stdout.split().count("idle")


def stop(folder: Path) -> None:
    """Cancel what runs, and stop the daemons by their pid files; munge last."""
    if (folder / "slurmctld.pid").exists():
        subprocess.run(["scancel", "--user", str(os.getuid())], check=False, capture_output=True, timeout=STOP_SECONDS)
        wait(lambda: jobs() == [])
    pid_files = [*folder.glob("slurmd-*.pid"), folder / "slurmctld.pid", folder / "munge.pid"]
    pids = [int(file.read_text()) for file in pid_files if file.exists()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if not wait(lambda: not any(alive(pid) for pid in pids)):
        for pid in filter(alive, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def jobs() -> list[str]:
    """Return the ids of the jobs that have not ended; those that are ending included."""
    return subprocess.run(["squeue", "-h", "-o", "%i"], check=False, capture_output=True, text=True).stdout.split()


def wait(condition) -> bool:
    """Wait until something is so, or some seconds."""
    deadline = time.monotonic() + STOP_SECONDS
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return bool(met)


def alive(pid: int) -> bool:
    """Say whether one of the daemons is still there."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in DAEMONS
    except OSError:
        return False


@contextlib.contextmanager
def slurm() -> Iterator[Path]:
    """Have a Slurm; its folder is `$SLURM_CONF`'s."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        configure(folder)
        try:
            start(folder)
            yield folder
        except (TimeoutError, subprocess.CalledProcessError) as error:
            print(f"Slurm did not start: {error}", file=sys.stderr)
            for log in folder.glob("*.log"):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr)
            sys.exit(FAILED)
        finally:
            stop(folder)


def main() -> int:
    """Run the command that the arguments are."""
    if len(sys.argv) == 1 or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        return 0
    # So that a test that gives up on us does not leave daemons behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with slurm():
        return subprocess.run(sys.argv[1:], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
