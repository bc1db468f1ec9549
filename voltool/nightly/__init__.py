"""The unattended run: `voltool backup`, what it tells, and how it is put into cron."""
