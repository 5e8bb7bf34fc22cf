"""The method as pure functions: strings in, values out; no Ray, no torch, no files."""
