"""Networks with weights, the images they see, and the one way to judge them: `subnet.judge`.

Torch is imported from here on.
"""
