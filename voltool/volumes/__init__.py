"""A volume on its host: driver contract, one file a driver, leases and locks, the host's own records."""
