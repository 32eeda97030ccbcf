"""Predicted accuracy and training cost, fitted and shipped.

May import supernet's top floor, `files` and `fits`.
"""
