"""The CUDA files compiled by a host compiler and run on CPU tensors, thread by thread (see cuda_on_host.h)."""
