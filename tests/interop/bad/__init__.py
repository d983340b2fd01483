"""The table of bad requests, one module for each kind, and the ground that they are tried on."""
