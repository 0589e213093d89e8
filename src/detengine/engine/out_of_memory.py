"""Whether an error says that the memory was not enough. Without torch, for the command line."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch's allocators, of the GPU or of the CPU, or Python's had nothing left."""
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text
