"""A backend "cpu" for Triton that compiles nothing: with TRITON_INTERPRET=1 kernels run in Triton's interpreter.

Design decision: vLLM's second model runner asks for Triton with a CPU backend, which is not published. Its kernels are
right in the interpreter too, only slow; so with this it runs on a machine without a GPU, for tests of tiny models.

Triton finds it by the entry point in the directory beside it. It is not for serving.
"""
