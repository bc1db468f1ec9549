from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import pytest

from tests.sshd import generate_key
from voltool.errors import UnreachableError
from voltool.ssh import hostkeys
from voltool.ssh.hostkeys import HostKey
from voltool.ssh.resolve import Destination


def blob(kind: str, content: bytes) -> bytes:
    return len(kind).to_bytes(4, "big") + kind.encode() + content


KEY = HostKey("ssh-ed25519", blob("ssh-ed25519", b"one"))
OTHER = HostKey("ssh-ed25519", blob("ssh-ed25519", b"two"))


def destination(file: Path, key_name: str = "web") -> Destination:
    return Destination("web", "192.0.2.7", 22, "me", key_name, user_known_hosts=(str(file),))


def check(file: Path, text: str, offered: HostKey = KEY, key_name: str = "web") -> None:
    file.write_text(text)
    target = destination(file, key_name)
    hostkeys.check(target, hostkeys.known_keys(target), offered)


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ("web", "web"),
        ("a,web,b", "web"),
        ("w*b", "web"),
        ("w?b", "web"),
        ("WEB", "web"),
        ("[192.0.2.7]:2200", "[192.0.2.7]:2200"),
        ("[*]:2200", "[192.0.2.7]:2200"),
        ("[::1]:2200", "[::1]:2200"),
        ("*,!db", "web"),
    ],
)
def test_a_known_key_is_accepted(tmp_path: Path, patterns: str, name: str) -> None:
    check(tmp_path / "known", f"{patterns} ssh-ed25519 {KEY.base64} comment\n", key_name=name)


@pytest.mark.parametrize(
    ("patterns", "name"), [("*,!web", "web"), ("webs", "web"), ("192.0.2.7", "[192.0.2.7]:2200"), ("[w]eb", "web")]
)
def test_a_line_for_another_host_does_not_count(tmp_path: Path, patterns: str, name: str) -> None:
    with pytest.raises(UnreachableError, match="not known"):
        check(tmp_path / "known", f"{patterns} ssh-ed25519 {KEY.base64}\n", key_name=name)


@pytest.mark.parametrize("name", ["web.example.com", "[192.0.2.7]:2200"])
def test_names_hashed_by_openssh_are_found(tmp_path: Path, name: str) -> None:
    file = tmp_path / "known"
    file.write_text(f"{name} ssh-ed25519 {KEY.base64}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    assert name not in file.read_text()
    check(file, file.read_text(), key_name=name)
    with pytest.raises(UnreachableError, match="not known"):
        check(file, file.read_text(), key_name="elsewhere")


def test_the_fingerprint_is_the_one_that_openssh_shows(tmp_path: Path) -> None:
    generate_key(tmp_path / "key")
    public = (tmp_path / "key.pub").read_text().split()
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "key.pub")], check=True, capture_output=True, text=True
    ).stdout
    assert HostKey(public[0], base64.b64decode(public[1])).fingerprint in shown


def test_an_unknown_key_is_refused_with_the_line_that_would_add_it(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        check(tmp_path / "known", "")
    assert KEY.fingerprint in caught.value.why
    line = caught.value.remedy.split("known: ")[1]
    check(tmp_path / "known", line + "\n")


def test_a_changed_key_is_refused_loudly(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="HAS CHANGED") as caught:
        check(tmp_path / "known", f"# comment\nweb ssh-ed25519 {OTHER.base64}\n")
    assert f"{tmp_path}/known:2" in caught.value.why
    assert KEY.fingerprint in caught.value.why


def test_a_revoked_key_is_refused_even_if_it_is_also_known(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="REVOKED"):
        check(tmp_path / "known", f"web ssh-ed25519 {KEY.base64}\n@revoked * ssh-ed25519 {KEY.base64}\n")


def test_lines_that_cannot_be_read_are_skipped_and_named(tmp_path: Path) -> None:
    text = (
        f"@cert-authority web ssh-ed25519 {OTHER.base64}\nweb ssh-ed25519 not-base64!\nweb ssh-rsa {KEY.base64}\n"
        f"web\n\udcff\n@strange web ssh-ed25519 {OTHER.base64}\nweb ssh-ed25519 {KEY.base64}\n"
    )
    file = tmp_path / "known"
    file.write_text(text, errors="surrogateescape")
    known = hostkeys.known_keys(destination(file))
    assert [(entry.key, entry.line) for entry in known.keys] == [(KEY, 7)]
    assert [line.split(":")[1] for line in known.skipped] == ["1", "2", "3", "4", "6"]
    with pytest.raises(UnreachableError, match="not known") as caught:
        check(file, text.splitlines()[0] + "\n")
    assert "@cert-authority" in caught.value.why


def test_missing_files_are_empty(tmp_path: Path) -> None:
    assert hostkeys.known_keys(destination(tmp_path / "none")) == hostkeys.KnownHosts((), ())
