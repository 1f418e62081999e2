"""What a compressed network is: grids, quantised and kept tensors, the compressed model, methods, tasks.

Nothing here knows a byte: `codec` turns integers into bytes, `files` joins the two.
"""
