"""Devices beyond those that ship: data sheets of other GPUs, and estimates of what a data sheet leaves out.

Imports the top floor of `supernet`, which looks devices up here.
"""
