"""Networks as their modules: traced, read from ONNX, or from the layers of OFA subnets; and measured ones.

May import `modules.kinds`, `modules.data` and `measuring`.
"""
