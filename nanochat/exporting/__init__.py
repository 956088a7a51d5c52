"""A trained network in the files of other programs: what each format can hold, and its writer.

Leaves out the command (commands/export.py), which verifies what was written. Imports the other
programs' packages where it needs them; only `onnx` and `gguf` need them to write.
"""
