"""The commands; each reads its configuration, calls one function and exits."""
