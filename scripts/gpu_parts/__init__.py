"""Parts of `try_gpu.py`, one per file.

Each file has `items(setting)`, the names of its checks or measurements, and `run(item, setting)`, which returns the
values of one and raises an error if it fails.
"""
