"""What runs on a GPU as kernels of our own: the time loops, and a whole training step as one graph.

The `.cu` sources are the equations of cells.py again, for threads instead of arrays:

    recurrent.cuh                       who does what in a time loop, and the product with U
    simple_rnn.cu, lstm.cu, gru.cu      the time loops, forward and backward
    wide.cuh, wide.cu                   the same step by step, for cells with many units
    products.cu, step.cu                what else a training step is made of
    modules.py                          compiles them, through CuPy
    loops.py                            puts them in place of a cell's own loops
    graph.py, launches.py               a training step of a classifier as one CUDA graph
"""
