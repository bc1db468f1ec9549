"""What the CLI remembers of volumes and dumps: SQLite; rebuilt from hosts and stores."""
