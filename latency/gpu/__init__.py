"""How long a network takes on a GPU that nobody here has touched: its kernels, a formula of their time, the
fit of that formula to public measurements, and the predictor of a GPU from its data sheet.

May import `supernet`, `latency` and `latency.predictors`. PyTorch is needed by `fit`, `calibration` and
`traced` only; predictions are numpy.
"""
