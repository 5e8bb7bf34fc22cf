"""One module for each kind of stage: it reads rows, calls text/ and engines/, writes and counts."""
