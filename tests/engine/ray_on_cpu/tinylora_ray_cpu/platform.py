"""The platform itself, in a module of its own because vLLM asks for its name before it can be imported."""

from vllm.platforms.cpu import CpuPlatform


class RayCpuPlatform(CpuPlatform):
    ray_device_key = "GPU"
