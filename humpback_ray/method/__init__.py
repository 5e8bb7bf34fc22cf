"""The paper's rules as pure functions: values in, values out."""
