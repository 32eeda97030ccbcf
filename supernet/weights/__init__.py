"""Networks with weights, the images they see, and the one way to judge them.

Torch is imported from here on.
"""
