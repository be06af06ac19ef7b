"""What a worker has, in the orchestrator's words.

Blueprints may ask for `cpu_cores` and `ram_gb`, or for a device of the type `gpu` with `memory_gb`. Workers are set up
with `cpu`, `memory_gb`, `gpu` and `gpu_memory_gb`. Both are told, so that either question finds its worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiopool.avtomatika._plain import NotPlainError, plain

__all__ = ["told_resources"]

_ALSO: Final = {"cpu": "cpu_cores", "memory_gb": "ram_gb"}


def told_resources(resources: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return resources as the orchestrator reads them.

    Args:
        resources: `cpu`, `memory_gb`, `gpu`, `gpu_memory_gb`, and whatever else your blueprints ask for; `devices` is
            passed on as it is.

    Raises:
        TypeError: a value cannot be said in JSON.
    """
    if resources is None:
        return {}
    try:
        properties = plain(dict(resources), "resources")
    except NotPlainError as error:
        raise TypeError(str(error)) from None
    devices: list[dict[str, Any]] = [*(properties.pop("devices", None) or ())]
    properties |= properties.pop("properties", None) or {}
    for name, other in _ALSO.items():
        if name in properties:
            properties.setdefault(other, properties[name])
    if properties.get("gpu") and not any(device.get("type") == "gpu" for device in devices):
        device: dict[str, Any] = {"type": "gpu"}
        if isinstance(properties["gpu"], str):
            device["model"] = properties["gpu"]
        if properties.get("gpu_memory_gb") is not None:
            device["properties"] = {"memory_gb": properties["gpu_memory_gb"]}
        devices.append(device)
    told = {"properties": properties, "devices": devices}
    return {name: value for name, value in told.items() if value}
