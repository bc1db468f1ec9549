"""Hosts of which only one can connect to the other, as behind a firewall: each in namespaces of its own, on real wires."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.hosts import Host, Site
from tests.jobs.apart import DISK, VOLUME
from tests.network import Network
from tests.serving.rig import await_true

FILES = 60
#: The ports that voltool may use, on each host; what connects takes others.
PORTS = "20000-20003"


class OneWay:
    """``hosta`` with the volume ``vol``, and ``hostb``: no connection from ``hostb`` to ports of voltool at ``hosta`` passes."""

    def __init__(self, directory: Path, network: Network) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self.site = Site(directory / "site", network)
        self.a, self.b = (self.site.add_host(name) for name in ("hosta", "hostb"))
        for host in (self.a, self.b):
            host.machine.mount("btrfs", DISK)
        self.close(self.b, self.a)
        self.a.machine.run("btrfs", "-q", "subvolume", "create", VOLUME)
        generator = random.Random(4)
        self.truth = {f"f{number}": generator.randbytes(generator.randrange(40_000)) for number in range(FILES)}
        self.truth["large"] = generator.randbytes(3_300_000)
        for name, content in self.truth.items():
            (self.tree(self.a) / name).write_bytes(content)
        config = self.site.home / ".config/voltool/config.toml"
        config.parent.mkdir(parents=True, exist_ok=True)
        hosts = "".join(f'[hosts.{name}]\nports = "{PORTS}"\n' for name in self.site.hosts)
        config.write_text(f"fetch_timeout = 30\n{hosts}")
        self.site.voltool("volume", "add", "vol", f"hosta:{VOLUME}")

    def close(self, host: Host, to: Host) -> None:
        """From now on what ``host`` sends to voltool's ports at another one is refused: its own answers are sent to others."""
        host.machine.run("ip", "rule", "add", "to", to.machine.address, "ipproto", "tcp", "dport", PORTS, "prohibit")

    def tree(self, host: Host) -> Path:
        return host.machine.outside(VOLUME)

    def read(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.tree(self.b).iterdir()}

    def listed(self) -> dict[str, Any]:
        (found,) = self.site.result("replica", "list", check=False)["replicas"]
        return dict(found)

    def daemon(self, host: Host, kind: str) -> tuple[dict[str, Any], list[str]]:
        """What is written down of that process, and what it says; and how it is started."""
        (path,) = (host.state / "daemons").glob(f"{kind}-*.json")
        said = json.loads(path.with_suffix(".run").read_text())
        program = str(path.with_suffix(".pyz"))
        return said, ["python3", "-I", program, kind, path.stem.partition("-")[2]]

    def kill(self, host: Host, kind: str) -> list[str]:
        """SIGKILL; how it is started again."""
        said, command = self.daemon(host, kind)
        os.kill(said["pid"], 9)
        await_true(lambda: not Path(f"/proc/{said['pid']}").exists())
        return command

    def move_paused(self) -> str:
        """A lazy move to ``hostb`` that has got hardly any files when it returns, for ``hosta`` has stopped; what it has said."""
        words = ("--json", "move", "--lazy", "vol", "hostb", "--yes", "--bandwidth", "4M")
        said = ""
        with subprocess.Popen(
            self.site.command(*words), env=self.site.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said += line
                if json.loads(line).get("step") == "switch":
                    os.kill(self.daemon(self.a, "serve")[0]["pid"], signal.SIGSTOP)
        assert process.returncode == 0
        return said

    def start(self, host: Host, command: list[str]) -> None:
        """As its unit would."""
        environment = {**os.environ, "VOLTOOL_STATE_DIR": str(host.state)}
        self._started.append(subprocess.Popen([*host.machine.enter, *command], env=environment))

    def await_ended(self) -> None:
        """What was started has ended."""
        for process in self._started:
            process.wait(30)

    @contextlib.contextmanager
    def taken(self, host: Host, port: int) -> Iterator[None]:
        """Somebody else has that port."""
        script = f"import socket; s = socket.create_server(('', {port})); print(flush=True); input()"
        command = [*host.machine.enter, "python3", "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            try:
                assert holder.stdout.readline()
                yield
            finally:
                holder.kill()

    def is_mounted(self) -> bool:
        return any("voltool-lazy" in line for line in self.b.machine.mounts())

    def left_over(self) -> list[str]:
        """What of processes and keys is on the hosts."""
        parts = [host.state / part for host in (self.a, self.b) for part in ("daemons", "keys")]
        return sorted(path.name for part in parts for path in part.glob("*"))
