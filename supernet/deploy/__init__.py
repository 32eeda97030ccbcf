"""From a subnet to a file for a device: export, int8, pruning, shrinking.

May import `weights` and `training`.
"""
