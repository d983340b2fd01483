"""What Vestibule and a real homeserver do together, one module for each kind of scenario."""
