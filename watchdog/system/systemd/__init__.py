"""systemd over D-Bus: what it knows of a unit, what it is asked to do, and what it is doing by itself."""
