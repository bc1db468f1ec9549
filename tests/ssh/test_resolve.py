from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from voltool.errors import UsageError
from voltool.ssh.resolve import HostName, destination_from_options, parse_host, parse_options, resolve

needs_client = pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client on this machine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web1", HostName("web1")),
        ("root@web1", HostName("web1", "root")),
        ("root@10.0.0.1:2222", HostName("10.0.0.1", "root", 2222)),
        ("web1:22", HostName("web1", None, 22)),
        ("[::1]:2222", HostName("::1", None, 2222)),
        ("me@[fe80::1%eth0]", HostName("fe80::1%eth0", "me")),
        ("2001:db8::7", HostName("2001:db8::7")),
        ("me@dept@web1", HostName("web1", "me@dept")),
    ],
)
def test_hosts_as_people_write_them(text: str, expected: HostName) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "@web1", "-oProxyCommand=touch", "me@-oProxyCommand=x", "-l@web1", "web1:", "web1:0", "web1:65536", "web1:ssh",
     "[::1", "a b", "web1\n", "me\tx@web1"],
)  # fmt: skip
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_host(text)


@needs_client
def test_names_are_resolved_as_openssh_does_with_include_and_match(tmp_path: Path) -> None:
    (tmp_path / "more").write_text("Host web\n  HostName 192.0.2.7\n  Port 2200\n  ProxyJump bastion\n")
    config = tmp_path / "config"
    config.write_text(
        f"Include {tmp_path}/more\nMatch host 192.0.2.7\n  User deploy\n  IdentityFile {tmp_path}/%h.key\n"
        f"Host *\n  UserKnownHostsFile {tmp_path}/a {tmp_path}/b\n  ServerAliveInterval 7\n"
    )
    found = resolve("web", str(config))
    assert (found.address, found.port, found.user, found.proxy_jump) == ("192.0.2.7", 2200, "deploy", "bastion")
    assert found.identity_files == (f"{tmp_path}/192.0.2.7.key",)
    assert found.user_known_hosts == (f"{tmp_path}/a", f"{tmp_path}/b")
    assert found.key_name == "[192.0.2.7]:2200"
    assert found.alive_interval == 7


@needs_client
def test_what_the_user_writes_wins_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host web\n  HostName 192.0.2.7\n  Port 2200\n  User deploy\n")
    found = resolve("root@web:22", str(config))
    assert (found.address, found.port, found.user, found.key_name) == ("192.0.2.7", 22, "root", "192.0.2.7")


@needs_client
def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host web\n  NoSuchKeyword yes\n")
    with pytest.raises(UsageError, match=r"(?i)nosuchkeyword"):
        resolve("web", str(config))


def test_without_a_client_paramiko_reads_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host web\n  HostName 192.0.2.7\n  Port 2200\n  User deploy\n  IdentityFile {tmp_path}/key\n"
        "  HostKeyAlias cluster\n  ProxyCommand nc %h %p\n"
    )
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    found = resolve("web", str(config))
    assert (found.address, found.port, found.user, found.key_name) == ("192.0.2.7", 2200, "deploy", "cluster")
    assert found.identity_files == (f"{tmp_path}/key",)
    assert found.proxy_command == "nc 192.0.2.7 2200"
    assert found.user_known_hosts[0].endswith("/.ssh/known_hosts")
    assert resolve("me@other:5", str(tmp_path / "none")).port == 5


def test_none_means_nothing() -> None:
    options = parse_options("hostname h\nport 22\nuser u\nproxyjump none\nproxycommand none\nuserknownhostsfile none\n")
    found = destination_from_options(HostName("h"), options)
    assert (found.proxy_jump, found.proxy_command, found.user_known_hosts) == ("", "", ())
