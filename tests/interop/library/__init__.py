"""People whose client is made with a library that others use, one module for each library."""
