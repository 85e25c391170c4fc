"""The Triton kernels of stream v1. They meet `tritonparam._reference` bit for bit and never import it."""
