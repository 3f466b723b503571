"""A platform for vLLM that is its CPU platform, and takes a GPU of Ray's for each of its processes.

Design decision: vLLM places processes on a Ray cluster by GPUs, and its CPU platform names no device of Ray's, so that
it refuses Ray. Ray believes what a node says of its GPUs (`ray start --num-gpus 1`), so with this the same executor
runs on machines without any, for tests of tiny models. A custom resource in the place of GPUs would not do: vLLM asks
Ray for the numbers of the devices, which Ray keeps for accelerators only.

vLLM finds it by the entry point in the directory beside it. It is not for serving.
"""


def platform() -> str:
    """The class's name, which vLLM then imports."""
    return "tinylora_ray_cpu.platform.RayCpuPlatform"
