"""How this process keeps its memory. Knows the C library alone."""

import ctypes


def keep_freed_memory() -> None:
    """Let this process keep the memory it frees, where its C library is glibc; for a process that is ours alone.

    By default glibc gives every large block back to the system, which must clear its pages again for the next one: a
    training step of 124M parameters then spends two fifths of its time on that.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
