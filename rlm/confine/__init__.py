"""What the kernel holds a worker to: one file per mechanism, ctypes and the standard library only."""
