"""paramiko to a byte stream; host names as OpenSSH resolves them; host keys."""
