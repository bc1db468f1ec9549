"""What should happen and when, as pure functions: schedules, retention, what is suspicious or overdue. No I/O, no clock."""
