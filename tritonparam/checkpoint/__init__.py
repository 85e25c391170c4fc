"""Checkpoints made from a model's declaration, without the model ever being in memory, and the means to check them.

`prepare` turns what the user named into the list of tensors to write, `write_checkpoint` streams them to sharded
safetensors files with a record of how they were made, and `inspect_checkpoint` tests a folder against that record.
"""
