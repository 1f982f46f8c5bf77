"""A SLURM of two nodes on this machine, for the tests of `batch/`: munged, slurmctld, two slurmd.

Any user may start it. All that it writes lies in one folder under the system's temporary one.
"""

import getpass
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SECONDS = 60  # for the nodes to report, and for a daemon to end

# the nodes claim more than the machine has, so that the scripts' own requests are granted
SETTINGS = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
GresTypes=gpu
NodeName=DEFAULT CPUs=32 RealMemory=256000 Gres=gpu:4
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]}
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# SLURM wants a device file for each GPU that it counts, and hands out their numbers
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in (*DAEMONS, "sbatch") if which(name, path=SBIN) is None]


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start a cluster; yield the environment of its commands; end it, whatever happened."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        folder.chmod(0o755)  # munged refuses a socket that not everyone can reach
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(secrets.token_bytes(1024))
        (folder / "munge.key").chmod(0o600)
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        nodes = (host, f"{host}-twin")  # processes of a job look for the first one by its name
        settings = SETTINGS.format(
            host=host, user=user, folder=folder, nodes=nodes, ports=free_ports(3)
        )
        (folder / "slurm.conf").write_text(settings)
        (folder / "cgroup.conf").touch()  # none of the plugins named above wants cgroups
        devices = "".join(f"Name=gpu File={device}\n" for device in DEVICES)
        (folder / "gres.conf").write_text(devices)
        environment = {**os.environ, "PATH": SBIN, "SLURM_CONF": str(folder / "slurm.conf")}

        daemons: list[subprocess.Popen] = []

        def start(name: str, *words: str, log: str) -> None:
            with (folder / log).open("w") as file:
                process = subprocess.Popen(
                    [name, *words], env=environment, stdout=file, stderr=subprocess.STDOUT
                )
            stack.callback(end, process)
            daemons.append(process)

        munge = {
            f"--{flag}={folder}/munge.{name}"
            for flag, name in (
                ("socket", "socket"),
                ("key-file", "key"),
                ("pid-file", "pid"),
                ("seed-file", "seed"),
                ("log-file", "log"),
            )
        }
        start("munged", "--foreground", *munge, log="munged.out")
        wait_until((folder / "munge.socket").exists, daemons, folder)
        start("slurmctld", "-D", "-i", log="slurmctld.out")
        for node in nodes:
            start("slurmd", "-D", "-N", node, log=f"{node}.out")

        wait_until(lambda: is_idle(environment), daemons, folder)
        stack.callback(called, ["scancel", f"--user={user}"], environment)
        yield environment


def is_idle(environment: dict[str, str]) -> bool:
    """Return whether both nodes have reported, and nothing runs or ends on them."""
    states = called(["sinfo", "--noheader", "--Node", "--format=%T"], environment)
    return states.split() == ["idle", "idle"]


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on."""
    with ExitStack() as stack:
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        for server in servers:
            stack.enter_context(server)
        return [server.getsockname()[1] for server in servers]


def called(words: list[str], environment: dict[str, str]) -> str:
    """Return what a command prints, whether or not it succeeds."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return done.stdout


def wait_until(come: Callable[[], bool], daemons: list[subprocess.Popen], folder: Path) -> None:
    """Wait until a function says True.

    Raises:
        TimeoutError: with the last lines of each daemon, where it does not, or one has ended.
    """
    until = time.monotonic() + SECONDS
    while not come():
        if time.monotonic() > until or any(daemon.poll() is not None for daemon in daemons):
            raise TimeoutError(last_words(folder))
        time.sleep(0.2)


def last_words(folder: Path) -> str:
    """Return the last lines that each daemon logged."""
    logs = {log.name: log.read_text()[-1500:] for log in folder.glob("*.out")}
    return "\n".join(f"{name}:\n{text}" for name, text in logs.items())


def end(process: subprocess.Popen) -> None:
    """End a daemon."""
    process.terminate()
    try:
        process.wait(SECONDS / 4)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
