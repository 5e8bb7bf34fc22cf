"""A small world whose truth is known, in which the method must show what it claims."""
