"""Timing minirnn beside its peers on the lesson's four models, in turn, in one run.

Each library runs in a process of its own (`worker.py`) that sleeps while another one is timed, so
that no library's threads or allocator disturb another's. `minirnn bench --help` says what can be
measured.
"""
