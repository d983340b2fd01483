"""What two Vestibules do together, one module for each kind of story."""
