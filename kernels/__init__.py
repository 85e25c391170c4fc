"""The Triton kernels of stream v1. They meet `tritonparam.stream.reference` bit for bit and never import it."""
